"""An event loop whose time stands still while anybody works, and jumps to the next timer when nobody does."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from tanuki_async.storage.filesystem import FilesystemStorage

T = TypeVar("T")
LOOK = 0.02  # real seconds between two looks at threads that work


class _Selector(selectors.DefaultSelector):  # type: ignore[valid-type,misc]
    """Waits for sockets of this very process, which are ready at once; where there are none, time jumps instead."""

    loop: JumpingLoop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        if self.loop.elsewhere or timeout is None:
            return super().select(LOOK)
        if not (events := super().select(0)):
            self.loop.now += timeout
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    """Whatever waits on this loop waits in its time: timers, `asyncio.timeout`, servers. Work in threads takes none."""

    def __init__(self) -> None:
        self.now = 0.0
        self.elsewhere = 0  # what threads are working on
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def timers(self) -> int:
        """How many timers will ring."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return sum(not each.cancelled() for each in scheduled)

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        working = super().run_in_executor(executor, func, *args)
        self.elsewhere += 1
        working.add_done_callback(self._came_back)
        return working

    def _came_back(self, _: object) -> None:
        self.elsewhere -= 1


class LoopClock:
    """A Clock that tells the time of a loop."""

    def __init__(self, loop: JumpingLoop, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._loop, self._start = loop, start

    def monotonic(self) -> float:
        return self._loop.time()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._loop.time())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class TimelessStorage(FilesystemStorage):
    """Files on disk, of which a JumpingLoop knows when they are being worked on."""

    async def _in_thread(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        loop.elsewhere += 1
        try:
            return await super()._in_thread(work)
        finally:
            loop.elsewhere -= 1
