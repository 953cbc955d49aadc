"""Lines that wait in memory, in order, whichever way they leave it: to storage, or to the local journal."""

from __future__ import annotations

from collections import deque

__all__ = ["OVERHEAD", "Waiting"]

OVERHEAD = 120
"""Bytes that one line takes beside its text."""


class Waiting:
    """A queue, what of it is being written, and what is older than the journal since its writing failed."""

    def __init__(self) -> None:
        self.bytes = 0  # of all
        self.older: deque[tuple[str, bytes]] = deque()
        self.queue: deque[tuple[str, bytes]] = deque()
        self.in_flight: dict[str, list[bytes]] = {}
        self.spilling: list[tuple[str, bytes]] = []

    def __len__(self) -> int:
        in_flight = sum(map(len, self.in_flight.values())) if self.in_flight else 0
        return len(self.older) + len(self.queue) + len(self.spilling) + in_flight

    def has(self, wanted: str) -> bool:
        """Tell whether lines of a name are in the queue."""
        return any(name == wanted for lines in (self.older, self.queue) for name, _ in lines)

    def take(self, limit: int) -> dict[str, list[bytes]]:
        """Move the oldest lines, up to so many bytes, into flight. Returns all that is there, by name."""
        source, size = self.older or self.queue, 0
        while source and size < limit:
            name, line = source.popleft()
            self.in_flight.setdefault(name, []).append(line)
            size += len(line)
        return dict(self.in_flight)

    def restore(self, name: str, *, journal: bool) -> None:
        """Put back what could not be written: before the journal, if lines that came later are there."""
        lines = self.in_flight.pop(name, [])  # none when the loop died and they were written elsewhere
        target = self.older if journal or self.spilling or self.older else self.queue
        target.extendleft((name, line) for line in reversed(lines))

    def finish(self, name: str) -> None:
        """Forget what was written."""
        self._forget(self.in_flight.pop(name))

    def spill(self, limit: int) -> list[tuple[str, bytes]]:
        """Take the oldest lines of the queue, up to so many bytes, for the journal."""
        size = 0
        while self.queue and size < limit:
            self.spilling.append(self.queue.popleft())
            size += len(self.spilling[-1][1])
        return self.spilling

    def spilled(self, *, kept: bool) -> None:
        """End a spill: its lines are in the journal, or back in the queue."""
        lines, self.spilling = self.spilling, []
        if kept:
            self._forget([line for _, line in lines])
        else:
            self.queue.extendleft(reversed(lines))

    def give_up_older(self) -> list[tuple[str, bytes]]:
        """Return what is older than the journal, the oldest first, and forget it."""
        older = [(name, line) for name, lines in self.in_flight.items() for line in lines] + list(self.older)
        self.in_flight.clear()
        self.older.clear()
        self._forget([line for _, line in older])
        return older

    def give_up(self) -> list[tuple[str, bytes]]:
        """Return everything, the oldest first, and forget it."""
        everything = [*self.give_up_older(), *self.spilling, *self.queue]
        self.queue.clear()
        self.spilling.clear()
        self.bytes = 0
        return everything

    def _forget(self, lines: list[bytes]) -> None:
        self.bytes -= sum(map(len, lines)) + OVERHEAD * len(lines)
