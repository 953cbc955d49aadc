"""Ends calls that take too long: one timer for all calls of a function, where a timer each costs more than the rest."""

from __future__ import annotations

import asyncio
from contextvars import Context
from itertools import takewhile


class Deadline:
    """The end of one call: what `asyncio.timeout` is, but for who keeps the time. Begun and closed in one task."""

    __slots__ = ("_cancelling", "_deadlines", "_task", "passed", "when")

    def __init__(self, deadlines: Deadlines, task: asyncio.Task[object], when: float) -> None:
        self._deadlines, self._task, self.when = deadlines, task, when
        self._cancelling = task.cancelling()
        self.passed = False

    def come(self) -> None:
        """Cancel the task, as its time is over."""
        self.passed = True
        self._task.cancel()

    def close(self) -> bool:
        """Stop. True if the time is over and nobody else cancelled the task: a CancelledError came from here."""
        if self.passed:
            return self._task.uncancel() <= self._cancelling
        del self._deadlines.running[self]
        return False


class Deadlines:
    """Gives each call the same number of seconds. Belongs to the event loop of the first call."""

    __slots__ = ("_loop", "_seconds", "_timer", "running")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.running: dict[Deadline, None] = {}  # all last equally long, so the first is the next to come

    def begin(self) -> Deadline:
        """Start the time of a call that runs in the current task."""
        task, loop = asyncio.current_task(), self._loop
        assert task is not None
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        deadline = Deadline(self, task, loop.time() + self._seconds)
        self.running[deadline] = None
        if self._timer is None:
            self._timer = self._set(loop, deadline.when)
        return deadline

    def _set(self, loop: asyncio.AbstractEventLoop, when: float) -> asyncio.TimerHandle:
        return loop.call_at(when, self._look, context=Context())  # that of a call would be kept alive until then

    def rest(self) -> None:
        """Let go of the timer, and of all that it refers to, unless a call still runs."""
        if self._timer is not None and not self.running:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """End the calls whose time is over, and come back when the next one's is.

        All at once: a place that one leaves must not go to another whose time is over too.
        """
        assert self._loop is not None
        now, self._timer = self._loop.time(), None
        for deadline in list(takewhile(lambda each: each.when <= now, self.running)):
            del self.running[deadline]
            deadline.come()
        if self.running:
            self._timer = self._set(self._loop, next(iter(self.running)).when)
