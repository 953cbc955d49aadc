"""How many at once, first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque

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
