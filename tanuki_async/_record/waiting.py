"""Lines that wait in memory, each name's in order, whichever way they leave it: to storage, or to the local journal."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable

__all__ = ["OVERHEAD", "Waiting"]

OVERHEAD = 120
"""Bytes that one line takes beside its text."""


class Waiting:
    """A queue, and beside it what is being written, what is going to the journal, and what had to wait.

    Of one name, what is in flight is the oldest; then come its `older` lines, those in the journal, those that are
    spilling there, those that were passed over as the name failed, and those in the queue.
    """

    def __init__(self) -> None:
        self.bytes = 0  # of all
        self.in_flight: dict[str, list[bytes]] = {}
        self.older: dict[str, deque[bytes]] = {}
        self.spilling: list[tuple[str, bytes]] = []
        self.passed: dict[str, deque[bytes]] = {}
        self.queue: deque[tuple[str, bytes]] = deque()

    def __len__(self) -> int:
        beside = [*self.in_flight.values(), *self.older.values(), *self.passed.values()]
        return len(self.queue) + len(self.spilling) + sum(map(len, beside))

    @property
    def stuck(self) -> bool:
        """Tell whether lines of names that fail wait here."""
        return bool(self.older or self.passed)

    def has(self, name: str) -> bool:
        """Tell whether lines of a name wait."""
        beside = name in self.in_flight or name in self.older or name in self.passed
        return beside or any(name == of for lines in (self.spilling, self.queue) for of, _ in lines)

    def names(self) -> set[str]:
        """Return the names of which lines wait."""
        return {*self.in_flight, *self.older, *self.passed, *(name for name, _ in (*self.spilling, *self.queue))}

    def goes(self, blocked: Container[str]) -> bool:
        """Tell whether there is anything to take but lines of these names."""
        return bool(self.queue or self.spilling) or any(name not in blocked for name in (*self.older, *self.passed))

    def take_older(self, limit: int, blocked: Container[str]) -> dict[str, list[bytes]]:
        """Move lines that are older than the journal, up to so many bytes, into flight. Returns them by name."""
        self._take(self.older, limit, blocked)
        return dict(self.in_flight)

    def take(self, limit: int, blocked: Container[str]) -> dict[str, list[bytes]]:
        """Move the oldest lines, up to so many bytes, into flight, and pass over those of blocked names."""
        size = self._take(self.passed, limit, blocked)
        while self.queue and size < limit:
            name, line = self.queue.popleft()
            size += len(line)
            if name in blocked:
                self.passed.setdefault(name, deque()).append(line)
            else:
                self.in_flight.setdefault(name, []).append(line)
        return dict(self.in_flight)

    def land(self, name: str, left: Iterable[bytes], *, journal: bool) -> None:
        """End the flight of a name's lines: forget them but those that are left, which come before the name's others.

        `journal` tells whether the name has lines there; what was in flight is older than these.
        """
        lines = self.in_flight.pop(name, [])  # none when the loop died and they were written elsewhere
        left = list(left) if lines else []
        self.bytes -= _size(lines) - _size(left)
        if left:
            target = self.older if journal or any(name == of for of, _ in self.spilling) else self.passed
            target.setdefault(name, deque()).extendleft(reversed(left))

    def spill_older(self) -> list[tuple[str, bytes]]:
        """Take what is older than the journal, to go before all that is there."""
        self.spilling = [(name, line) for name, lines in self.older.items() for line in lines]
        self.older.clear()
        return self.spilling

    def spill(self, limit: int, *, queue: bool) -> list[tuple[str, bytes]]:
        """Take what was passed over, for the end of the journal, and of the queue too, up to so many bytes."""
        size = self._pass(limit)
        while queue and self.queue and size < limit:
            self.spilling.append(self.queue.popleft())
            size += len(self.spilling[-1][1])
        return self.spilling

    def spilled(self, *, kept: bool, older: bool = False) -> None:
        """End a spill: its lines are in the journal, or back where they were."""
        lines, self.spilling = self.spilling, []
        if kept:
            self.bytes -= _size([line for _, line in lines])
        elif older:
            for name, line in lines:
                self.older.setdefault(name, deque()).append(line)
        else:
            for name, line in reversed(lines):
                self.passed.setdefault(name, deque()).appendleft(line)

    def make_room(self, size: int, name: str) -> int:
        """Drop the newest lines of a name that fails, if that makes room enough for a line of one that does not.

        Returns how many lines those are.
        """
        dropped = 0
        if self.passed and name not in self.passed:
            fullest = max(self.passed, key=lambda of: len(self.passed[of]))
            enough = len(self.passed[fullest]) * OVERHEAD >= size
            while enough and size > 0:
                size -= self._drop_last(fullest)
                dropped += 1
        return dropped

    def give_up_older(self) -> list[tuple[str, bytes]]:
        """Return what is older than the journal, each name's oldest first, and forget it."""
        beside = [*self.in_flight.items(), *self.older.items()]
        lines = [(name, line) for name, waiting in beside for line in waiting]
        self.in_flight.clear()
        self.older.clear()
        self.bytes -= _size([line for _, line in lines])
        return lines

    def give_up(self) -> list[tuple[str, bytes]]:
        """Return everything, each name's oldest first, and forget it."""
        older, spilling = self.give_up_older(), self.spilling
        passed = [(name, line) for name, lines in self.passed.items() for line in lines]
        everything = [*older, *spilling, *passed, *self.queue]
        self.spilling = []
        self.passed.clear()
        self.queue.clear()
        self.bytes = 0
        return everything

    def _take(self, source: dict[str, deque[bytes]], limit: int, blocked: Container[str]) -> int:
        size = 0
        for name in [name for name in source if name not in blocked]:
            if size >= limit:
                break
            size += _move(source, name, self.in_flight.setdefault(name, []), limit - size)
        return size

    def _pass(self, limit: int) -> int:
        size = 0
        while self.passed and size < limit:
            name, moved = next(iter(self.passed)), list[bytes]()
            size += _move(self.passed, name, moved, limit - size)
            self.spilling += [(name, line) for line in moved]
        return size

    def _drop_last(self, name: str) -> int:
        size = len(self.passed[name].pop()) + OVERHEAD
        self.bytes -= size
        if not self.passed[name]:
            del self.passed[name]
        return size


def _move(source: dict[str, deque[bytes]], name: str, target: list[bytes], limit: int) -> int:
    """Move the oldest lines of a name, one at least, up to so many bytes; return how many bytes that is."""
    lines, size = source[name], 0
    while lines and size < limit:
        target.append(lines.popleft())
        size += len(target[-1])
    if not lines:
        del source[name]
    return size


def _size(lines: list[bytes]) -> int:
    return sum(map(len, lines)) + OVERHEAD * len(lines)
