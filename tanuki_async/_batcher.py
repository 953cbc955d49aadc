"""Small texts that come together travel as one request, whichever functions they come from."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tanuki_async._budget import Purse
from tanuki_async._clock import Clock
from tanuki_async._errors import NotOpenError, ProviderError, RequestRejectedError, TanukiError, own
from tanuki_async._pool.pool import Pool, Progress
from tanuki_async._records import Model, Usage
from tanuki_async._route import Teacher
from tanuki_async._tally import Tally

logger = logging.getLogger("tanuki_async.call")

GATHER = 0.002
"""Seconds that a text waits for company while others are on their way."""
QUIET = 3
"""Turns of the loop that bring no other text, after which one that is alone goes."""
MOST_TEXTS = 512
"""Texts of one request, whatever its provider takes: reading 2,048 long vectors stops the loop for 60 ms."""
MARGIN = 0.75
"""Share of a provider's limit of tokens that a request fills: ours are estimates."""
HOPELESS = 16
"""Texts of one list that must be refused, and none taken, before the request itself is held to be wrong."""

Vector = Sequence[float]
Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


@dataclass(frozen=True, slots=True, eq=False)
class Payer:
    """One function as far as its requests are counted."""

    name: str
    tally: Tally
    purse: Purse | None
    timeout: float


@dataclass(slots=True, eq=False)
class Text:
    """One text on its way to its vector."""

    text: str
    size: int  # tokens, about
    payer: Payer
    vector: asyncio.Future[Vector]


class Batchers:
    """One Batcher per model and length of vectors, shared by all functions of one Tanuki."""

    def __init__(self, pool: Pool, clock: Clock, spawn: Spawn) -> None:
        self._pool, self._clock, self._spawn = pool, clock, spawn
        self._all: dict[tuple[int, Model], Batcher] = {}

    def of(self, teacher: Teacher) -> Batcher:
        """Return the one for a model."""
        key = id(teacher.provider), teacher.model  # the Batcher keeps its provider, and so the id
        found = self._all.get(key)
        if found is None:
            found = self._all[key] = Batcher(teacher, self._pool, self._clock, self._spawn)
        return found


class Batcher:
    """Collects the texts of concurrent calls that use one model.

    A lone text waits for a few turns of the loop; while requests are on their way, up to GATHER. A text that is refused
    fails alone, a cancelled call leaves the others untouched, and a request for which nobody waits any more is
    cancelled. Functions with a budget travel by themselves, since it may refuse what others may ask.
    """

    def __init__(self, teacher: Teacher, pool: Pool, clock: Clock, spawn: Spawn) -> None:
        self._provider, self._model = teacher.provider, teacher.model
        self._pool, self._clock, self._spawn = pool, clock, spawn
        self._name = f"tanuki embed {teacher.model}"
        self._most = min(teacher.provider.embedding_batch, MOST_TEXTS)
        self._most_tokens = int(teacher.provider.embedding_tokens * MARGIN)
        self._waiting: list[Text] = []
        self._gathering = False
        self._on_their_way = 0

    async def vector(self, text: str, size: int, payer: Payer) -> Vector:
        """Wait for the vector of a text of about `size` tokens."""
        asked = Text(text, size, payer, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if not self._gathering:
            self._gathering = True
            self._spawn(self._gather(), self._name).add_done_callback(self._gathered)
        return await asked.vector

    async def _gather(self) -> None:
        if self._on_their_way:
            await asyncio.sleep(GATHER)
            return
        loop, seen, quiet = asyncio.get_running_loop(), 0, 0
        until = loop.time() + GATHER
        while quiet < QUIET and loop.time() < until:
            quiet = quiet + 1 if seen == len(self._waiting) else 0
            seen = len(self._waiting)
            await asyncio.sleep(0)

    def _gathered(self, task: asyncio.Task[None]) -> None:
        self._gathering = False
        waiting, self._waiting = self._waiting, []
        if task.cancelled():
            _fail(waiting, _closed())
            return
        for batch in self._batches(each for each in waiting if not each.vector.done()):  # else its caller has gone
            self._on_their_way += 1
            sending = self._spawn(self._send(batch), self._name)
            sending.add_done_callback(functools.partial(self._sent, batch))

    def _batches(self, texts: Iterable[Text]) -> list[list[Text]]:
        batches: list[list[Text]] = []
        open_now: dict[int, tuple[list[Text], int]] = {}
        for each in texts:
            whose = id(each.payer.purse)
            batch, tokens = open_now.get(whose, (list[Text](), 0))
            if not batch or len(batch) >= self._most or tokens + each.size > self._most_tokens:
                batch, tokens = list[Text](), 0
                batches.append(batch)
            batch.append(each)
            open_now[whose] = batch, tokens + each.size
        return batches

    async def _send(self, batch: list[Text]) -> None:
        _cancel_unwanted(batch)
        await self._deliver(batch, _Search())

    def _sent(self, batch: list[Text], _: asyncio.Task[None]) -> None:
        self._on_their_way -= 1
        _fail(batch, _closed())  # does nothing where all were answered

    async def _deliver(self, texts: list[Text], search: _Search) -> bool:
        """Give each text its vector or its error, and tell whether all were taken.

        Where a list is refused, its halves tell which texts are the reason.
        """
        texts = [each for each in texts if not each.vector.done()]
        if not texts:
            return True
        try:
            vectors, usage = await self._exchange(texts)
        except RequestRejectedError as error:
            if len(texts) == 1 or search.hopeless or not _about_texts(error):
                search.refused += len(texts)
                _fail(texts, error)
                return False
            return await self._halve(texts, search)
        except TanukiError as error:
            _fail(texts, error)
            return False
        search.taken += len(texts)
        self._count(texts, usage)
        for each, vector in zip(texts, vectors, strict=True):
            if not each.vector.done():
                each.vector.set_result(vector)
        return True

    async def _halve(self, texts: list[Text], search: _Search) -> bool:
        middle = len(texts) // 2
        taken = [await self._deliver(half, search) for half in (texts[:middle], texts[middle:])]
        if all(taken) and self._most > len(texts) - middle:
            self._most = len(texts) - middle
            logger.info("%s takes no %d texts at once; sending %d from now on", self._model, len(texts), self._most)
        return all(taken)

    async def _exchange(self, texts: list[Text]) -> tuple[Sequence[Vector], Usage]:
        progress = Progress(self._clock.monotonic() + max(each.payer.timeout for each in texts))
        purse = texts[0].payer.purse  # all have the same
        if purse is None:
            return await self._ask(texts, progress)
        async with purse.hold(self._model, sum(each.size for each in texts), 0, progress) as held:
            vectors, held.used = await self._ask(texts, progress)
            return vectors, held.used

    async def _ask(self, texts: list[Text], progress: Progress) -> tuple[Sequence[Vector], Usage]:
        provider, model = self._provider, self._model
        vectors, usage = await self._pool.embed(provider, model, [each.text for each in texts], progress)
        if len(vectors) != len(texts):
            why = f"{len(vectors)} vectors for {len(texts)} texts; that is a bug in {type(provider).__name__}"
            raise ProviderError(why, provider.name, model.name)
        return vectors, usage

    def _count(self, texts: list[Text], usage: Usage) -> None:
        """Count what a request used, by what each function had in it; the request itself is the first one's."""
        sizes: dict[Payer, int] = {}
        for each in texts:
            sizes[each.payer] = sizes.get(each.payer, 0) + each.size
        total, counted = sum(sizes.values()), Usage()
        for payer, size in reversed(sizes.items()):
            share = Usage(input_tokens=usage.input_tokens * size // total)
            if payer is texts[0].payer:  # the last here: the rest is its
                rest = usage.input_tokens - counted.input_tokens
                share = Usage(requests=usage.requests, input_tokens=rest, output_tokens=usage.output_tokens)
            counted += share
            payer.tally.spend(self._model, share)


@dataclass(slots=True)
class _Search:
    """What is known of one list of which some texts are refused."""

    taken: int = 0
    refused: int = 0

    @property
    def hopeless(self) -> bool:
        """Whether the request is wrong in itself, not by some of its texts."""
        return not self.taken and self.refused >= HOPELESS


def _about_texts(error: RequestRejectedError) -> bool:
    """Tell whether a request may have been refused for one of its texts."""
    return error.status in (None, 400, 413, 422) and "input" in (error.parameter or "input")


def _cancel_unwanted(batch: Sequence[Text]) -> None:
    """Cancel the running task when all of these callers have gone."""
    task = asyncio.current_task()
    assert task is not None
    waiting = len(batch)

    def gone(_: asyncio.Future[Vector]) -> None:
        nonlocal waiting
        waiting -= 1
        if waiting == 0:
            task.cancel()  # does nothing where the task is what answered them

    for each in batch:
        each.vector.add_done_callback(gone)


def _fail(texts: Iterable[Text], error: TanukiError) -> None:
    """Give each caller that still waits an error of its own."""
    for each in texts:
        if not each.vector.done():
            each.vector.set_exception(own(error))


def _closed() -> NotOpenError:
    return NotOpenError("the Tanuki was closed while this call waited for its embedding")
