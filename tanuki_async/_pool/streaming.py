"""One answer through the pool, handed over in pieces while it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from tanuki_async._errors import NotOpenError, ProviderError
from tanuki_async._pool.pool import Pool, Progress
from tanuki_async._records import Completion, Request
from tanuki_async.abc import Http, Provider

T = TypeVar("T")

AHEAD = 32
"""Pieces that may wait to be taken; then the server waits."""


async def stream(
    pool: Pool, provider: Provider, request: Request, progress: Progress
) -> AsyncGenerator[str | Completion]:
    """Yield the text of one answer as it comes, in pieces, and its Completion at the end.

    The request holds its place among those at once until the end. It is tried again like any other, but only while
    nothing was handed over yet: what breaks off later is raised as it is. Close it early, and the request is ended.
    """

    async def produce(put: Callable[[str | Completion], Awaitable[None]]) -> None:
        await put(await pool.complete(provider, request, progress, ask=_asking(provider, put)))

    pump = Pump(produce)
    try:
        while (piece := await pump.take()) is not None:
            yield piece
    finally:
        await pump.aclose()


def _asking(
    provider: Provider, put: Callable[[str | Completion], Awaitable[None]]
) -> Callable[[Request, Http], Awaitable[Completion]]:
    async def ask(request: Request, http: Http) -> Completion:
        begun = False
        async with aclosing(provider.stream(request, http)) as pieces:
            try:
                async for piece in pieces:
                    if isinstance(piece, Completion):
                        return piece
                    if piece:
                        begun = True
                        await put(piece)
            except ProviderError as error:
                error.begun = begun
                raise
        name = type(provider).__name__
        message = f"the stream of {name} ended without a Completion; that is a bug in {name}"
        raise ProviderError(message, provider.name, request.model.name)

    return ask


class Pump(Generic[T]):
    """Runs `produce(put)` in a task of its own, a little ahead of whoever takes what it puts."""

    def __init__(self, produce: Callable[[Callable[[T], Awaitable[None]]], Coroutine[Any, Any, None]]) -> None:
        self._pieces: deque[T] = deque()
        self._room, self._news = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(produce(self._put), name="tanuki stream")
        self._task.add_done_callback(self._ended)

    async def take(self) -> T | None:
        """Return the next piece, None after the last. Raises what the producer raised."""
        while not self._pieces:
            if self._task.done():
                if self._task.cancelled():
                    raise NotOpenError("a stream was ended from outside, with its event loop")
                self._task.result()
                return None
            self._news.clear()
            await self._news.wait()
        self._room.set()
        return self._pieces.popleft()

    async def aclose(self) -> None:
        """Stop the producer, and wait until it has let go of everything."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _put(self, piece: T) -> None:
        while len(self._pieces) >= AHEAD:
            self._room.clear()
            await self._room.wait()
        self._pieces.append(piece)
        self._news.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # seen: `take` raises it, if anybody still takes
        self._news.set()
