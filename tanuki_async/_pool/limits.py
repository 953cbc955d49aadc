"""How many calls at once (Gate) and how much per minute (Rate), both first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._errors import NotOpenError


class Gate:
    """Lets `places` in at once. Who is cancelled while waiting, or after being let in, leaves no trace.

    The queue has no bound of its own: each entry is a task that exists anyway.
    """

    __slots__ = ("_closed", "_free", "_queue", "places", "waiting")

    def __init__(self, places: int) -> None:
        if places < 1:
            raise ValueError(f"a gate needs at least one place, not {places}")
        self.places = places
        self.waiting = 0
        self._free = places
        self._queue: deque[asyncio.Future[None]] = deque()
        self._closed = False

    @property
    def inside(self) -> int:
        """How many are in."""
        return self.places - self._free

    def enter_nowait(self) -> bool:
        """Go in if there is a free place; True if so. A place is only ever free when nobody waits."""
        if self._free and not self._closed:
            self._free -= 1
            return True
        return False

    async def enter(self) -> None:
        """Wait for a place and take it. NotOpenError when the gate closes meanwhile."""
        if self.enter_nowait():
            return
        if self._closed:
            raise NotOpenError("the pool is closed")
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()  # let in and cancelled in the same moment
            raise
        finally:
            self.waiting -= 1

    def leave(self) -> None:
        """Give the place to the next in the queue, or free it."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def close(self) -> None:
        """Send everybody in the queue away with NotOpenError, and whoever comes later."""
        self._closed = True
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_exception(NotOpenError("the pool was closed while this call waited for its turn"))


class Rate:
    """Lets `per_minute` units through in a minute, of which a rested bucket gives all at once."""

    def __init__(self, per_minute: float, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if per_minute <= 0:
            raise ValueError(f"a limit per minute must be greater than 0, not {per_minute:g}")
        self.burst = max(float(per_minute), 1.0)  # what is less than one in a minute still comes in ones
        self._per_second = per_minute / 60
        self._clock = clock
        self._level = self.burst
        self._filled_at = clock.monotonic()
        self._turn = asyncio.Lock()
        self.waiting = 0

    def spend_nowait(self, units: float) -> bool:
        """Spend `units` if they are there and nobody waits; True if so."""
        if self._turn.locked() or self._refill() < units:
            return False
        self._level -= units
        return True

    async def spend(self, units: float) -> None:
        """Wait until `units` may be spent, then spend them."""
        if units > self.burst:
            raise ValueError(f"{units:g} units can never fit a limit of {self.burst:g} per minute")
        self.waiting += 1
        try:
            async with self._turn:  # held while waiting: a big request is never overtaken for ever
                while (short := units - self._refill()) > 1e-9:
                    await self._clock.sleep(short / self._per_second)
                self._level -= units  # no await between the check and this line
        finally:
            self.waiting -= 1

    def correct(self, units: float) -> None:
        """Take `units` more (or, negative, give them back) once it is known what a request really used."""
        self._level = min(self.burst, self._level - units)

    def _refill(self) -> float:
        now = self._clock.monotonic()
        self._level = min(self.burst, self._level + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        return self._level
