"""Many calls through a provider's batch API: slower, at half the price, and found again after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from tanuki_async import _call
from tanuki_async._checkpoint import Checkpoint, key_of
from tanuki_async._codec import parse, prompt, tokens
from tanuki_async._codec.describe import Call
from tanuki_async._codec.parse import Parsed
from tanuki_async._desk import Desk
from tanuki_async._errors import (
    OutputError,
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    RateLimitedError,
    RequestRejectedError,
    TanukiError,
    UsageError,
)
from tanuki_async._records import Completion, Job, Model, Request, Usage
from tanuki_async._route import ANSWER_RESERVE, Teacher
from tanuki_async._tally import Spent
from tanuki_async.abc import ABSTAIN, Batches, Http

logger = logging.getLogger("tanuki_async.call")
T = TypeVar("T")
Items = Iterable[Any] | AsyncIterable[Any]

SIZE = 5_000
"""Items in one batch."""
AHEAD = 4
"""Batches that are on their way at once; so many items are in memory at most."""
PRICE = 0.5
"""What a batch costs, as a share of the same requests made now."""
FIRST_LOOK, LONGEST_LOOK = 5.0, 60.0
"""Seconds between two looks at a batch: the first, which grows by half each time, and the longest."""
TRIES = 20
"""Times that a provider which does not answer is asked in a row."""
PASSING = (ProviderUnavailableError, ProviderUnreachableError, RateLimitedError)
"""Errors that time may mend."""


@dataclass(slots=True, eq=False)
class Entry:
    """One item on its way. It ends with a value, in `outcome`, or with an error there."""

    index: int
    bound: Call | None
    key: str = ""
    outcome: Any = None
    failed: bool = False
    done: bool = False

    def end(self, value: Any, *, failed: bool = False) -> None:
        """Take down what became of it."""
        self.outcome, self.failed, self.done = value, failed, True


class BatchRun:
    """The work of one `amap(…, mode="batch")`. `concurrency` is for what is asked directly in the end."""

    def __init__(
        self, desk: Desk, bind: Callable[[Any], Call], http: Http, checkpoint: Checkpoint | None, concurrency: int
    ) -> None:
        self._desk, self._bind, self._http, self._checkpoint = desk, bind, http, checkpoint
        self._run = checkpoint.run if checkpoint else secrets.token_hex(4)
        self._teacher, self._batches = _able(desk)
        self._gate = asyncio.Semaphore(concurrency)
        self._half = _at_half_price(self._teacher.model)

    async def results(self, items: Items, *, ordered: bool) -> AsyncGenerator[Entry]:
        """Yield every item when it has ended; in their order, or as each batch ends."""
        await self._desk.recall()
        chunks = _chunks(items)
        tasks: list[asyncio.Task[list[Entry]]] = []
        count, more = 0, True
        try:
            while more or tasks:
                while more and len(tasks) < AHEAD:
                    chunk = await anext(chunks, None)
                    more = chunk is not None
                    if chunk is not None:
                        tasks.append(asyncio.create_task(self._work(count, chunk), name="tanuki batch"))
                        count += len(chunk)
                if not tasks:
                    break
                done = {tasks[0]} if ordered else set[asyncio.Task[list[Entry]]]()
                waited, _ = await asyncio.wait(done or tasks, return_when=asyncio.FIRST_COMPLETED)
                task = next(each for each in tasks if each in waited)
                tasks.remove(task)
                for entry in task.result():
                    yield entry
        finally:
            await chunks.aclose()
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _work(self, first: int, items: list[Any]) -> list[Entry]:
        entries = [self._entry(first + place, item) for place, item in enumerate(items)]
        await self._each(self._from_here, entries)
        if waiting := [entry for entry in entries if not entry.done]:
            await self._batch(first, waiting)
        if left := [entry for entry in waiting if not entry.done]:
            logger.info("%s(): asking for %d of a batch directly", self._desk.spec.name, len(left))
            await self._each(self._directly, left)
        return entries

    async def _each(self, work: Callable[[Entry], Awaitable[None]], entries: list[Entry]) -> None:
        """Work on entries that have not ended, some at a time."""

        async def one(entry: Entry) -> None:
            async with self._gate:
                await work(entry)

        try:
            async with asyncio.TaskGroup() as group:
                for entry in entries:
                    if not entry.done:
                        group.create_task(one(entry))
        except ExceptionGroup as several:  # the checkpoint cannot be written
            raise several.exceptions[0] from several

    def _entry(self, index: int, item: Any) -> Entry:
        try:
            bound = self._bind(item)
        except TanukiError as error:  # it does not fit the parameters
            entry = Entry(index, None)
            entry.end(error, failed=True)
            return entry
        return Entry(index, bound, key_of(bound.text))

    async def _from_here(self, entry: Entry) -> None:
        """Take what was answered before, or what a student answers."""
        desk, bound = self._desk, entry.bound
        assert bound is not None
        assert desk.spec.wire is not None
        if self._checkpoint and (kept := await self._checkpoint.find(entry.index, entry.key)) is not None:
            entry.end(desk.spec.wire.load(kept))
            return
        value = _call.from_answers(desk, bound, desk.answers) if desk.answers is not None else ABSTAIN
        if value is ABSTAIN and (student := desk.apprentice.student()) is not None:
            value = await _call.from_student(desk, bound, student)
        if value is not ABSTAIN:
            await self._keep(entry, desk.spec.wire.dump(value))
            entry.end(value)

    async def _batch(self, first: int, entries: list[Entry]) -> None:
        """Send entries as one batch, wait for it, and read what came of it. What stays open was not answered."""
        by_key = {f"{self._run}-{entry.index}-{entry.key[:12]}": entry for entry in entries}
        requests = {key: self._request(entry) for key, entry in by_key.items()}
        try:
            async with self._budget(requests) as spend:
                job = await self._wait(await self._submit(requests, f"tanuki-{self._run}-{first}"))
                if job.output is None and job.status != "succeeded" and "expire" not in job.told.lower():
                    raise RequestRejectedError(f"the batch {job.id} ended as {job.told}: {job.reason}", self._provider)
                async for key, result in self._batches.results(job, self._http):
                    if (entry := by_key.get(key)) is not None and not entry.done:
                        await self._take(entry, result, spend)
        except TanukiError as error:
            for entry in entries:
                if not entry.done:
                    entry.end(error, failed=True)

    @property
    def _provider(self) -> str:
        return self._teacher.provider.name

    def _request(self, entry: Entry) -> Request:
        assert entry.bound is not None
        return Request(model=self._teacher.model, head=self._desk.head, turns=(prompt.input_turn(entry.bound),))

    async def _submit(self, requests: dict[str, Request], tag: str) -> Job:
        """Send a batch, or find the one that an earlier run has sent."""
        known = self._checkpoint.jobs.get(tag) if self._checkpoint else None
        if known is not None:
            with contextlib.suppress(RequestRejectedError):  # it is there no more
                job = await self._persist(lambda: self._batches.get(known, self._http))
                return dataclasses.replace(job, tag=tag)
        job = await self._persist(lambda: self._batches.submit(requests, tag=tag, http=self._http))
        logger.info("%s(): %d calls are the batch %s", self._desk.spec.name, len(requests), job.id)
        if self._checkpoint is not None:
            await self._checkpoint.keep_job(tag, job.id)
        return job

    async def _wait(self, job: Job) -> Job:
        """Look at a batch now and then until it ends. One that nobody will come back for is cancelled."""
        pause = FIRST_LOOK
        try:
            while job.status == "running":
                await self._desk.clock.sleep(pause)
                pause = min(1.5 * pause, LONGEST_LOOK)
                found = await self._persist(functools.partial(self._batches.get, job.id, self._http))
                job = dataclasses.replace(found, tag=job.tag)
        except asyncio.CancelledError:
            if self._checkpoint is None:
                self._desk.spawn(self._give_up(job), f"tanuki cancel {job.id}")
            raise
        return job

    async def _give_up(self, job: Job) -> None:
        await self._batches.cancel(job.id, self._http)

    async def _persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer, or an error that time does not mend."""
        for tried in range(TRIES):
            try:
                return await ask()
            except PASSING as error:
                if tried == TRIES - 1:
                    raise
                pause = min(2.0**tried, LONGEST_LOOK)
                logger.warning("%s(): asking for a batch again in %g s: %s", self._desk.spec.name, pause, error)
                await self._desk.clock.sleep(max(pause, error.retry_after or 0.0))
        raise AssertionError

    async def _take(self, entry: Entry, result: Completion | ProviderError, spend: Callable[[Usage], None]) -> None:
        """Make a value of one result. What does not fit, or only failed, stays open."""
        desk = self._desk
        if isinstance(result, ProviderError):
            if not isinstance(result, PASSING):
                desk.tally.failed += 1
                entry.end(result, failed=True)
            return
        assert desk.spec.wire is not None
        assert entry.bound is not None
        desk.tally.spend(self._half, result.usage)
        spend(result.usage)
        parsed = parse.parse(desk.spec.wire, result.text)
        if isinstance(parsed, Parsed):
            desk.tally.teacher += 1
            _call.remember(desk, self._teacher, entry.bound, parsed.output_json, repaired=False)
            await self._keep(entry, parsed.output_json)
            entry.end(parsed.value)
        elif desk.options.max_repairs == 0:
            desk.tally.failed += 1
            name, wanted = desk.spec.name, desk.spec.output_text
            entry.end(OutputError(name, wanted, (result.text,), (parsed.text,)), failed=True)

    async def _directly(self, entry: Entry) -> None:
        """Make the call now, as any other."""
        assert entry.bound is not None
        assert self._desk.spec.wire is not None
        try:
            value = await _call.call(self._desk, entry.bound)
        except Exception as error:  # noqa: BLE001  # whatever a call raises, it is this item's outcome
            entry.end(error, failed=True)
            return
        await self._keep(entry, self._desk.spec.wire.dump(value))
        entry.end(value)

    async def _keep(self, entry: Entry, output: bytes) -> None:
        if self._checkpoint is not None:
            await self._checkpoint.keep(entry.index, entry.key, output)

    @contextlib.asynccontextmanager
    async def _budget(self, requests: dict[str, Request]) -> AsyncGenerator[Callable[[Usage], None]]:
        """Set aside what a batch may cost, for as long as it takes. BudgetExceededError where that is too much."""
        purse, used = self._desk.purse, Spent()

        def spend(usage: Usage) -> None:
            nonlocal used
            used += purse.amount(self._half, usage) if purse else Spent()

        if purse is None:
            yield spend
            return
        await purse.recall()
        room = self._desk.options.generation_params.max_new_tokens or ANSWER_RESERVE
        size = sum(tokens.size(request.head, request.turns) for request in requests.values())
        expected = Usage(requests=len(requests), input_tokens=size, output_tokens=room * len(requests))
        amount = purse.amount(self._half, expected)
        purse.set_aside(amount)
        try:
            yield spend
        finally:
            purse.settle(amount, used if used.requests else None)


def _able(desk: Desk) -> tuple[Teacher, Batches]:
    """Return the first teacher whose provider takes batches. UsageError where there is none."""
    if desk.spec.wire is None:
        raise UsageError(f"{desk.spec.name}() returns an embedding; mode='batch' is for answers of a model")
    for teacher in desk.teachers:
        if (batches := teacher.provider.batches) is not None:
            return teacher, batches
    names = ", ".join(sorted({teacher.provider.name for teacher in desk.teachers}))
    raise UsageError(f"mode='batch' needs a provider with a batch API, and {names} has none: leave it out")


def _at_half_price(model: Model) -> Model:
    def half(price: float | None) -> float | None:
        return None if price is None else PRICE * price

    return dataclasses.replace(
        model,
        price_input=half(model.price_input),
        price_cached=half(model.price_cached),
        price_output=half(model.price_output),
    )


async def _chunks(items: Items) -> AsyncGenerator[list[Any]]:
    """Cut items into batches."""
    chunk: list[Any] = []
    async for item in _each(items):
        chunk.append(item)
        if len(chunk) == SIZE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _each(items: Items) -> AsyncGenerator[Any]:
    if isinstance(items, AsyncIterable):
        try:
            async for item in items:
                yield item
        finally:
            if isinstance(items, AsyncGenerator):  # most often nobody else has it to close it
                await items.aclose()
        return
    for item in items:
        yield item
