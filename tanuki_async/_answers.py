"""Answers that need no request of their own: kept from earlier calls, or shared by calls with the same arguments."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from pydantic import ValidationError

from tanuki_async._codec.describe import Call, FunctionSpec
from tanuki_async._errors import NotOpenError, own
from tanuki_async._lines import compact
from tanuki_async._pool.pool import Progress
from tanuki_async._records import Example
from tanuki_async._tally import Tally
from tanuki_async.abc import ABSTAIN

MOST = 10_000
"""Answers that are kept per function; the one that was asked for longest ago goes first."""

Ask: TypeAlias = Callable[[Progress], Coroutine[Any, Any, bytes]]
Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


def key_of(text: str) -> bytes:
    """Return 20 bytes that stand for a call's arguments. Nobody can find other arguments with the same ones."""
    return hashlib.blake2b(text.encode(), digest_size=20).digest()


class Answers:
    """The teacher's answers to one function, as JSON, by arguments.

    What `storage` adds are the examples that calls have left behind anyway: no file or request per answer.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self.recalled = most, False
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, spec: FunctionSpec, bound: Call) -> Any:
        """Return a new value of the answer that is kept for these arguments, or ABSTAIN."""
        key = key_of(bound.text)
        output = self._kept.get(key)
        if output is None:
            return ABSTAIN
        assert spec.wire is not None  # embeddings are not kept
        try:
            value = spec.wire.load(output)
        except ValidationError:  # recorded before the type's own checks became stricter
            del self._kept[key]
            return ABSTAIN
        self._kept.move_to_end(key)
        return value

    def keep(self, text: str, output: bytes) -> None:
        """Keep an answer to the arguments that `text` shows."""
        key = key_of(text)
        self._kept[key] = output
        self._kept.move_to_end(key)
        if len(self._kept) > self.most:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Drop all answers, and let the next recall read what storage has."""
        self._kept.clear()
        self.recalled = False

    def add_older(self, older: Answers) -> None:
        """Keep these too where nothing newer is kept for the same arguments."""
        older._kept.update(self._kept)
        self._kept = older._kept
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)

    def learn(self, spec: FunctionSpec, example: Example) -> None:
        """Keep what an example says."""
        self.keep(spec.text_of(example.args, example.kwargs), compact(example.output))


class Flight:
    """One call that several wait for. `progress.deadline` is the latest of theirs."""

    __slots__ = ("progress", "task", "waiting")

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.waiting: set[asyncio.Future[bytes]] = set()
        self.task: asyncio.Task[None] | None = None

    def land(self, outcome: bytes | Exception) -> None:
        """Tell all who wait."""
        for each in self.waiting:
            if each.done():  # cancelled just now
                continue
            if isinstance(outcome, Exception):
                each.set_exception(own(outcome))
            else:
                each.set_result(outcome)


class Flights:
    """Concurrent calls with the same arguments wait for one answer.

    A cancelled call leaves the others untouched; the shared one is cancelled when nobody waits for it any more. Each
    keeps to its own deadline. An error reaches all who wait, each with a copy of it.
    """

    def __init__(self) -> None:
        self._flights: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def share(self, text: str, ask: Ask, progress: Progress, *, spawn: Spawn, tally: Tally) -> bytes:
        """Return the answer to the arguments that `text` shows, asking only if nobody does yet."""
        key = key_of(text)
        flight, joins = self._flights.get(key), True
        if flight is None:
            flight, joins = self._start(key, ask, progress, spawn), False
        elif progress.deadline is not None:
            flight.progress.deadline = max(flight.progress.deadline or 0.0, progress.deadline)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        flight.waiting.add(future)
        try:
            output = await future
        finally:
            progress.waiting_for = flight.progress.waiting_for
            flight.waiting.discard(future)
            if not flight.waiting:
                self._leave(key, flight)
        tally.cached += joins
        tally.teacher += not joins
        return output

    def _start(self, key: bytes, ask: Ask, progress: Progress, spawn: Spawn) -> Flight:
        flight = self._flights[key] = Flight(Progress(progress.deadline))

        async def fly() -> None:
            try:
                outcome: bytes | Exception = await ask(flight.progress)
            except Exception as error:  # noqa: BLE001  # whoever waits raises it, as if they had asked themselves
                outcome = error
            self._forget(key, flight)
            flight.land(outcome)

        def ended(task: asyncio.Task[None]) -> None:
            self._forget(key, flight)
            if task.cancelled():
                flight.land(NotOpenError("the Tanuki was closed while this call waited for its answer"))

        flight.task = spawn(fly(), "tanuki shared call")
        flight.task.add_done_callback(ended)
        return flight

    def _leave(self, key: bytes, flight: Flight) -> None:
        """Cancel what nobody waits for any more. Who comes now starts another."""
        self._forget(key, flight)
        if flight.task is not None:
            flight.task.cancel()

    def _forget(self, key: bytes, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
