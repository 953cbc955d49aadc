"""How many at once a provider stands: fewer with each one that it refuses, step by step more when it answers."""

from __future__ import annotations

import math

SPREAD = 0.5
"""Seconds over which the starts of one round are spread after a pause, and while less than everything is allowed."""
HANGS = 10.0
"""Seconds without an answer after which a request may be taken for one that never gets any."""
_UNUSUAL = 4  # times the usual seconds
_CUT = 0.7  # of what ran, for each that was refused: a round of which all are refused halves what is allowed
_FEW = 8  # a round of fewer tells little
_IN_A_ROW = 4  # so many refusals without an answer between mean that even what ran was too much
_AHEAD = 0.02  # seconds' worth of starts that may come together, so that timers need not be finer


class Pace:
    """How many requests may run at once, between 1 and `places`, and how closely they may follow one another.

    A round is what runs at one time. Where one in a hundred is refused, little changes; where all are, half is left.
    Rounds without a refusal allow ever larger steps more.
    """

    __slots__ = ("_follows", "_row", "_running", "_spread_until", "_step", "_until", "allowed", "places")

    def __init__(self, places: int) -> None:
        self.places = places
        self.allowed = float(places)
        self._step = 1.0
        self._row = 0
        self._until = 0  # the last request of the round that was refused last
        self._running = places  # how many that round had
        self._spread_until = -math.inf
        self._follows = -math.inf  # the moment at which the last start would have been due

    def full(self, now: float) -> bool:
        """Tell whether nothing is held back."""
        return self.allowed >= self.places and now >= self._spread_until

    def resume(self, at: float) -> None:
        """Spread what starts from that moment on: after a pause, many wait."""
        self._spread_until = at + SPREAD

    def slower(self, number: int, sent: int, inside: int) -> None:
        """Count the refusal of request `number`, when `sent` were sent in all and `inside` were running."""
        if number > self._until:
            self._until, self._running = sent, inside
        self._row += 1
        if self._row >= _IN_A_ROW:
            self.allowed = min(self.allowed, self._running)
        self.allowed = max(1.0, self.allowed * (1 - _CUT / max(_FEW, self._running)))
        self._step = min(self._step, max(1.0, self.allowed / 32))

    def restart(self) -> None:
        """Allow one at a time, and then ever more."""
        self.allowed = self._step = 1.0

    def faster(self) -> None:
        """Count one answer: a round of them allows a step more, and makes the next step larger."""
        share = 1 / self.allowed
        self.allowed = min(float(self.places), self.allowed + self._step * share)
        self._step = min(self._step + share, max(1.0, self.allowed / 4))
        self._row = 0

    def wait(self, now: float, inside: int) -> float | None:
        """Tell in how many seconds one more may start; None for: when one has ended."""
        if inside >= int(self.allowed):
            return None
        return max(0.0, self._follows + SPREAD / self.allowed - now)

    def start(self, now: float) -> None:
        """Count one start."""
        self._follows = max(now - _AHEAD, self._follows + SPREAD / self.allowed)


class Running:
    """The requests that are out, oldest first. Such as hang must not count for ever as what a server stands."""

    __slots__ = ("_since", "_usual")

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._usual = 0.0  # seconds until an answer

    def start(self, number: int, now: float) -> None:
        """Count request `number` in."""
        self._since[number] = now

    def end(self, number: int) -> None:
        """Count request `number` out."""
        del self._since[number]

    def answered(self, number: int, now: float) -> None:
        """Learn what is usual."""
        self._usual += (now - self._since[number] - self._usual) / 8

    def hanging(self, now: float) -> tuple[int, float]:
        """Tell how many hang, and in how many seconds one more does."""
        patience = max(HANGS, _UNUSUAL * self._usual)
        for count, since in enumerate(self._since.values()):
            if (left := since + patience - now) > 0:
                return count, left
        return len(self._since), math.inf
