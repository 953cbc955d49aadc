"""What one process may send of one kind of unit, and what it sent, where limits are shared."""

from __future__ import annotations

import math

from tanuki_async._pool.windows import SLICES, Slice, Window

__all__ = ["Share"]

_SAME = 1e-6


class Share:
    """Units that may be sent until the share runs out, and those that were sent within the last period.

    What was sent is told in numbered rounds, and remembered with the number: whoever lost what some rounds told is told
    it again, and nothing counts twice.
    """

    def __init__(self, limit: float, period: float) -> None:
        self.window = Window(limit, period=period)
        self.limit = self.window.limit
        self.left = self.least = self._wanted_before = self._hold = self._own = 0.0
        self._refunds: dict[Slice, float] = {}
        self._refunds_told: list[tuple[int, int, float]] = []
        self._asked: list[tuple[Slice, int]] = []
        self._answered = True  # whether the last round was

    def spend(self, now: float, units: float) -> Slice:
        """Count units as sent now."""
        self.left -= units
        return self.window.spend(now, units)

    def refund(self, of: Slice, units: float) -> None:
        """Count units of a slice as never sent: here if nobody was told of them yet, else where they were counted."""
        units = min(units, of.units)
        self.window.refund(of, units)
        if of.told:
            self._refunds[of] = self._refunds.get(of, 0.0) + units
        else:
            self.left += units

    def lacks(self, units: float) -> bool:
        """Tell whether so many units cannot be sent now, and remember that they are wanted."""
        units = min(units, self.limit)
        if self.left >= units - _SAME:
            return False
        self.want(units)
        return True

    def want(self, units: float) -> None:
        """Remember that so many units are wanted at once."""
        self.least = max(self.least, min(units, self.limit))

    def ask(self, now: float, number: int, since: int) -> dict[str, object]:
        """Say in round `number` what rounds after `since` have to tell, and what is wanted next.

        That is much where something lacked, else twice what was sent lately, as what came just now may not have been
        taken yet. Beyond that it holds what the last round let it keep.
        """
        sent = self._sent(now, number, since)
        if self._answered:  # what ages after this, nobody can have been given, if there is no answer
            self._answered, self._own = False, self.window.used + max(self.left, 0.0)
        lately = max(2 * sum(units for told, _, units in sent if told == number), self._wanted_before)
        self._wanted_before = self.least
        demand = self.limit if self.least else min(math.ceil(lately), self.limit)
        hold = max(demand, self._hold)
        least, self.least = min(math.ceil(self.least) or 1, self.limit), 0.0
        self.left = min(max(self.left, 0.0), hold)
        if self.left < min(least, hold):
            self.left = 0.0  # of no use alone: another may complete it
        return {
            "limit": self.limit,
            "sent": sent,
            "refunds": self._refunded(number, since),
            "used": max(self.window.used, 0.0),
            "kept": self.left,
            "wanted": max(demand - self.left, 0.0),
            "least": least,
        }

    def _sent(self, now: float, number: int, since: int) -> list[tuple[int, int, float]]:
        """The round in which each slice was told first, its age in milliseconds, its units."""
        self._asked = []
        for each in self.window.cut(now):
            if each.told and each.told <= since:
                break
            each.told = each.told or number
            self._asked.append((each, round((now - each.last) * 1000)))
        return [(each.told, age, each.units) for each, age in self._asked]

    def _refunded(self, number: int, since: int) -> list[tuple[int, int, float]]:
        """The same for refunds, of which the slot is said. A slice that is told again has what is left of it."""
        self._refunds_told = [each for each in self._refunds_told if each[0] > since]
        for of, units in self._refunds.items():
            if of.told <= since and of.slot is not None:
                self._refunds_told.append((number, of.slot, units))
        self._refunds.clear()
        return self._refunds_told

    def told(self, moment: int, grant: float, hold: float) -> None:
        """Take what a round gave at a moment of the server's, in milliseconds."""
        grain = self.window.period * 1000 / SLICES
        for each, age in self._asked:
            each.slot = math.floor((moment - age) / grain)
        self.left += grant
        self._answered = True
        self._hold = hold

    def run_out(self) -> None:
        """Hold nothing: it may be another's by now."""
        self.left, self._answered = 0.0, True

    def rest(self) -> None:
        """Hold nothing, and want nothing."""
        self.left = self.least = self._wanted_before = self._hold = 0.0

    # Alone

    def begin_alone(self, own: float) -> None:
        """Have so much for a period, where nothing was shared so far."""
        self._own = own

    def allowed(self, seconds: float, part: float) -> float:
        """Tell how much may be sent in a period after so many seconds alone; `part` is an equal part of the limit.

        That is what was sent in the last one, or could be sent, when Redis fell silent. Who had more than a part keeps
        to it after one period, so that who had less may send as much after another.
        """
        if seconds < self.window.span:
            return self._own
        return min(self._own, part) if seconds < 2 * self.window.span else part

    def hold_alone(self, now: float, seconds: float, part: float) -> None:
        """Hold what may be sent until the next round: a server that is back by then cannot know of more."""
        self.window.cut(now)
        self.left = max(self.allowed(seconds, part) - self.window.used, 0.0)
        if seconds >= 2 * self.window.span and self.window.used < _SAME:
            self.left = max(self.left, self.least)  # larger than a part: one at a time
        self._hold = max(self._hold, self.left)
