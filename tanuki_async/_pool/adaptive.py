"""How many at once a provider stands: halved when it says that it is too much, raised step by step when it answers."""

from __future__ import annotations

import math

SPREAD = 0.5
"""Seconds over which the starts of one round are spread while less than everything is allowed."""
_AHEAD = 0.02  # seconds' worth of starts that may come together, so that timers need not be finer


class Pace:
    """How many requests may run at once, between 1 and `places`, and how closely they may follow one another.

    Requests count up: what was sent before the last slow-down tells nothing new when it fails.
    """

    __slots__ = ("_follows", "_step", "_until", "allowed", "places")

    def __init__(self, places: int) -> None:
        self.places = places
        self.allowed = float(places)
        self._step = 1.0
        self._until = 0  # the last request that was sent before the last slow-down
        self._follows = -math.inf  # the moment at which the last start would have been due

    @property
    def full(self) -> bool:
        """Whether nothing is held back."""
        return self.allowed >= self.places

    def slower(self, number: int, sent: int, inside: int) -> bool:
        """Halve what is allowed, as request `number` was too much while `inside` ran; True if that was news."""
        if number <= self._until:
            return False
        self._until, self._step = sent, 1.0
        self.allowed = max(1.0, min(self.allowed, inside) / 2)
        return True

    def restart(self, sent: int) -> None:
        """Allow one at a time, and then ever more."""
        self._until, self._step, self.allowed = sent, 1.0, 1.0

    def faster(self) -> None:
        """Count one answer: a round of them allows a step more, and makes the next step larger by one."""
        share = 1 / self.allowed
        self.allowed = min(float(self.places), self.allowed + self._step * share)
        self._step += share

    def wait(self, now: float, inside: int) -> float | None:
        """Tell in how many seconds one more may start; None for: when one has ended."""
        if inside >= int(self.allowed):
            return None
        return max(0.0, self._follows + SPREAD / self.allowed - now)

    def start(self, now: float) -> None:
        """Count one start."""
        self._follows = max(now - _AHEAD, self._follows + SPREAD / self.allowed)
