"""Stops asking a model that does not answer, and finds out with single requests when it does again."""

from __future__ import annotations

from typing import Literal

FAILURES = 8
"""Failures in a row that open the circuit: more than the tries of one call."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0

State = Literal["closed", "open", "probing"]


class Circuit:
    """Closed: all may pass. Open: one request may, after each pause; pauses double until one is answered.

    A probe that hangs stops nobody: the next one goes after the next pause.
    """

    __slots__ = ("_pause", "_probe", "failures", "last", "probe_at")

    def __init__(self) -> None:
        self.failures = 0
        """In a row, up to now."""
        self.last = ""
        """What the last of them was."""
        self.probe_at: float | None = None
        """When the next request may be sent; None while the circuit is closed."""
        self._probe = 0  # the number of the request that is out as a probe
        self._pause = FIRST_PAUSE

    def state(self) -> State:
        """Tell how it stands."""
        if self.probe_at is None:
            return "closed"
        return "probing" if self._probe else "open"

    def failed(self, number: int, last: str, now: float) -> bool:
        """Count the failure of request `number`; True if that opened the circuit, or a probe found it still so."""
        self.failures += 1
        self.last = last
        if self.probe_at is not None:
            if number != self._probe:
                return False
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        elif self.failures < FAILURES:
            return False
        self.probe_at, self._probe = now + self._pause, 0
        return True

    def answered(self) -> bool:
        """Count an answer, which closes the circuit; True if it was open."""
        was_open = self.probe_at is not None
        self.failures, self.probe_at, self._probe, self._pause = 0, None, 0, FIRST_PAUSE
        return was_open

    def wait(self, now: float) -> float:
        """Tell in how many seconds a request may go; 0 for now."""
        return 0.0 if self.probe_at is None else max(0.0, self.probe_at - now)

    def start(self, number: int, now: float) -> None:
        """Count request `number`: if the circuit is open, it is the probe."""
        if self.probe_at is not None:
            self._probe, self.probe_at = number, now + self._pause

    def ended(self, number: int) -> None:
        """Forget the probe if it was request `number`, which ended without telling anything."""
        if number == self._probe:
            self._probe = 0
