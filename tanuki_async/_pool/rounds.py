"""Spreads many small pieces of work over the rounds of the event loop, so that others get their turn in between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

PIECES = 32
"""Of one kind in one round. A piece may make a whole call go on: 50 to 100 µs each."""


class Rounds(Generic[T]):
    """Calls `work` with each item, in order. At most PIECES items a round; `at_once` of them without delay.

    A thousand answers may arrive in one round, and a thousand calls go on in the next. The loop would stand still for
    a tenth of a second.
    """

    __slots__ = ("_at_once", "_begun", "_done", "_loop", "_queue", "_work")

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[T], None], *, at_once: int) -> None:
        self._loop, self._work, self._at_once = loop, work, at_once
        self._queue: deque[T] = deque()
        self._done = 0  # pieces, in this round
        self._begun = False

    @property
    def waiting(self) -> int:
        """How many items have not had their turn."""
        return len(self._queue)

    def put(self, item: T) -> None:
        """Do `item` now or in a later round."""
        if not self._begun:
            self._begun, self._done = True, 0
            self._loop.call_soon(self._round)
        if self._done < self._at_once and not self._queue:
            self._done += 1
            self._work(item)
        else:
            self._queue.append(item)

    def _round(self) -> None:
        queue = self._queue
        self._done = min(PIECES, len(queue))
        self._begun = self._done > 0
        try:
            for _ in range(self._done):
                self._work(queue.popleft())
        finally:  # one that fails, or an interrupt, must not leave the others waiting for ever
            if self._begun:
                self._loop.call_soon(self._round)
