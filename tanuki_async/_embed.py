"""The story of one embedding: small calls that come together travel as one request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from tanuki_async import _route
from tanuki_async._codec import tokens
from tanuki_async._codec.describe import Call
from tanuki_async._desk import Desk
from tanuki_async._errors import CallTimeoutError, InputError, NotOpenError, TanukiError
from tanuki_async._pool.pool import Progress
from tanuki_async._records import Usage
from tanuki_async._route import Teacher

GATHER = 0.002
"""Seconds that a call waits for company."""
MOST_TEXTS = 512
"""Texts of one request; OpenAI takes 2,048, smaller servers fewer."""
MOST_TOKENS = 200_000
"""Tokens of one request; OpenAI takes 300,000, and ours are estimates."""


async def embed(desk: Desk, bound: Call) -> Any:
    """Return the vector of one call's input, within its deadline."""
    text = input_text(desk, bound)
    size = tokens.estimate(text)
    # One model embeds everything: no other takes over, since vectors of two models cannot be compared.
    first, name = desk.teachers[:1], desk.spec.name
    (teacher,) = _route.fitting(first, size, function=name, largest=lambda: "the arguments", answer=1)
    if desk.batcher is None:
        desk.batcher = Batcher(desk, teacher)
    deadline = asyncio.timeout(desk.options.timeout)
    try:
        async with deadline:
            vector = await desk.batcher.vector(text, size)
    except TimeoutError as error:
        desk.tally.failed += 1
        if deadline.expired():
            raise CallTimeoutError(desk.spec.name, f"an embedding by {teacher.model}", desk.options.timeout) from error
        raise
    except TanukiError:
        desk.tally.failed += 1
        raise
    desk.tally.teacher += 1
    if desk.spec.embedding == "numpy":
        import numpy

        return numpy.asarray(vector, dtype=numpy.float32)
    return vector


def input_text(desk: Desk, bound: Call) -> str:
    """What is embedded: the one string argument as it is, else all arguments as JSON."""
    inputs = bound.inputs()
    only = next(iter(inputs.values())) if len(inputs) == 1 else None
    text = only if isinstance(only, str) else bound.text
    if not text:
        raise InputError(desk.spec.name, next(iter(inputs), None), "an empty text has no embedding")
    return text


class Batcher:
    """Collects the texts of concurrent calls of one function.

    A cancelled call leaves the others untouched; a request for which nobody waits any more is cancelled.
    """

    def __init__(self, desk: Desk, teacher: Teacher) -> None:
        self._desk, self._teacher = desk, teacher
        self._waiting: list[tuple[str, int, asyncio.Future[list[float]]]] = []
        self._sending = False

    async def vector(self, text: str, size: int) -> list[float]:
        """Wait for the vector of `text`."""
        future: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, size, future))
        if not self._sending:
            self._sending = True
            self._desk.spawn(self._gather(), f"tanuki embed {self._desk.spec.name}")
        return await future

    async def _gather(self) -> None:
        try:
            await asyncio.sleep(GATHER)
        except asyncio.CancelledError:
            _fail((future for _, _, future in self._waiting), _closed())
            raise
        finally:
            self._sending = False
            batches = self._take()
        for batch in batches:
            self._desk.spawn(self._send(batch), f"tanuki embed {self._desk.spec.name}")

    def _take(self) -> list[list[tuple[str, asyncio.Future[list[float]]]]]:
        batches: list[list[tuple[str, asyncio.Future[list[float]]]]] = []
        room_texts = room_tokens = 0
        for text, size, future in self._waiting:
            if future.done():  # its caller was cancelled
                continue
            if room_texts < 1 or room_tokens < size:
                batches.append([])
                room_texts, room_tokens = MOST_TEXTS, MOST_TOKENS
            batches[-1].append((text, future))
            room_texts, room_tokens = room_texts - 1, room_tokens - size
        self._waiting.clear()
        return batches

    async def _send(self, batch: list[tuple[str, asyncio.Future[list[float]]]]) -> None:
        _cancel_unwanted([future for _, future in batch])
        progress = Progress(self._desk.clock.monotonic() + self._desk.options.timeout)
        try:
            vectors, usage = await self._exchange([text for text, _ in batch], progress)
        except BaseException as error:
            _fail((future for _, future in batch), error if isinstance(error, Exception) else _closed())
            if isinstance(error, TanukiError):
                return  # every caller has it
            raise
        self._desk.tally.spend(self._teacher.model, usage)
        for (_, future), vector in zip(batch, vectors, strict=True):
            if not future.done():
                future.set_result(vector)

    async def _exchange(self, texts: list[str], progress: Progress) -> tuple[list[list[float]], Usage]:
        provider, model = self._teacher.provider, self._teacher.model
        if self._desk.purse is None:
            return await self._desk.pool.embed(provider, model, texts, progress)
        async with self._desk.purse.hold(model, sum(map(tokens.estimate, texts)), 0, progress) as held:
            vectors, held.used = await self._desk.pool.embed(provider, model, texts, progress)
            return vectors, held.used


def _cancel_unwanted(futures: Sequence[asyncio.Future[list[float]]]) -> None:
    """Cancel the running task when all of these callers have gone."""
    task = asyncio.current_task()
    assert task is not None
    waiting = len(futures)

    def gone(_: asyncio.Future[list[float]]) -> None:
        nonlocal waiting
        waiting -= 1
        if waiting == 0:
            task.cancel()  # does nothing where the task is what answered them

    for future in futures:
        future.add_done_callback(gone)


def _fail(futures: Iterable[asyncio.Future[list[float]]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


def _closed() -> NotOpenError:
    return NotOpenError("the Tanuki was closed while this call waited for its embedding")
