"""A clock that tests own: time stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

_QUIET_ROUNDS = 3  # rounds of the loop without work, each with a look at its sockets, that count as "all are waiting"
_BLIND_ROUNDS = 20  # the same for a loop that does not show its queue (uvloop)
_MOST_ROUNDS = 10_000

__all__ = ["FakeClock"]


class FakeClock:
    """A Clock whose time moves only when told to, never by itself.

    Without `autojump` time moves in `await clock.advance(seconds)` alone. With it, time jumps to the next sleeper
    once nothing else on the loop has work; `autojump` is then for how many real seconds that must have been so, which
    matters only when tasks also wait for threads or other processes.

    Belongs to one event loop at a time. Sleepers wake in the order of their time, and of their coming where that is
    equal. A cancelled sleeper is forgotten.
    """

    def __init__(self, *, autojump: float | None = None, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.sleeps: list[float] = []
        """The seconds of every sleep asked for, in order."""
        self._autojump = autojump
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0
        self._watching = False

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._elapsed

    def now(self) -> datetime:
        """The start plus the seconds that went by."""
        return self._start + timedelta(seconds=self._elapsed)

    async def sleep(self, seconds: float) -> None:
        """Wait until time has moved on by `seconds`; zero or less only lets other tasks run."""
        self.sleeps.append(seconds)
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._elapsed + seconds, self._count, future))
        self._watch()
        await future

    @property
    def sleeping(self) -> int:
        """How many tasks wait on this clock now."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def wait_sleeping(self, count: int = 1) -> None:
        """Wait, in real time, until at least `count` tasks wait on this clock."""
        while self.sleeping < count:  # noqa: ASYNC110  # sleepers come from anywhere; nobody tells
            await asyncio.sleep(0.001 if _is_quiet(asyncio.get_running_loop()) else 0)

    async def advance(self, seconds: float) -> None:
        """Move time on, waking each sleeper at its own moment, and let the woken run until all wait again."""
        if seconds < 0:
            raise ValueError(f"time does not go back, so not by {seconds!r} seconds")
        await self._settle()
        until = self._elapsed + seconds
        while (moment := self._next()) is not None and moment <= until:
            self._wake(moment)
            await self._settle()
        self._elapsed = until

    def _next(self) -> float | None:
        while self._sleepers and self._sleepers[0][2].done():  # cancelled
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def _wake(self, moment: float) -> None:
        self._elapsed = max(self._elapsed, moment)
        while self._sleepers and self._sleepers[0][0] <= moment:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

    async def _settle(self) -> None:
        loop = asyncio.get_running_loop()
        if not _shows_queue(loop):
            for _ in range(_BLIND_ROUNDS):
                await asyncio.sleep(0)
            return
        quiet = 0
        for _ in range(_MOST_ROUNDS):
            await asyncio.sleep(0)
            quiet = quiet + 1 if _is_quiet(loop) else 0
            if quiet == _QUIET_ROUNDS:
                return
        raise RuntimeError("a task never stops working, so time cannot move on; does it wait on another clock?")

    def _watch(self) -> None:
        if self._autojump is not None and not self._watching:
            self._watching = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._look, loop, 0, loop.time())

    def _look(self, loop: asyncio.AbstractEventLoop, quiet: int, since: float) -> None:
        assert self._autojump is not None
        moment = self._next()
        if moment is None:
            self._watching = False
            return
        if not _is_quiet(loop):
            quiet, since = 0, loop.time()
        else:
            quiet += 1
        if quiet >= (_QUIET_ROUNDS if _shows_queue(loop) else _BLIND_ROUNDS):
            if loop.time() - since >= self._autojump:
                self._wake(moment)
                quiet, since = 0, loop.time()
            else:  # work elsewhere may still come back: look again, without spinning
                loop.call_later(min(self._autojump, 0.001), self._look, loop, quiet, since)
                return
        loop.call_soon(self._look, loop, quiet, since)


def _shows_queue(loop: asyncio.AbstractEventLoop) -> bool:
    return hasattr(loop, "_ready")


def _is_quiet(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether nobody but the caller has work in this round. A loop that does not show it counts as quiet."""
    return not getattr(loop, "_ready", ())
