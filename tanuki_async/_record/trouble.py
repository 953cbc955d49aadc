"""Names that storage fails on: when each is tried again, with how many lines, and which line is refused for good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tanuki_async._clock import Clock
from tanuki_async._errors import StorageError

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "Trouble", "Troubles", "Verdict"]

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
_NARROW, _BESIDE = 4, 10
"""After so many failures, half as many lines are tried; what is behind the first of them is written without it."""
_REFUSALS = 10
"""A line that was refused so often is refused for good."""

Verdict: TypeAlias = Literal["wait", "narrow", "beside", "refused"]


@dataclass(slots=True)
class Trouble:
    """A name that fails: why, since when, and when it is due again."""

    error: StorageError
    since: float
    due: float
    counted: float  # when a refusal of its first line was last counted, or might have been
    others: int  # appends that had gone well then, anywhere
    pause: float = FIRST_PAUSE
    failures: int = 0
    suspects: int = 0  # lines, from the first, one of which is the reason
    refusals: int = 0

    def put_off(self, now: float) -> None:
        """Make it due after a pause, twice as long as the last. One that was not due yet stays so."""
        if now >= self.due:
            self.due, self.pause = now + self.pause, min(self.pause * 2, LONGEST_PAUSE)


class Troubles:
    """Each name by itself: one that fails is tried again after growing pauses, and no other waits for it.

    A line is refused for good when storage refused it alone ten times, half a minute apart or more, and took other
    lines in between, each time. Where a line is taken that failed before, storage fails at random, or was down: then
    all counting begins anew.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._names: dict[str, Trouble] = {}
        self._taken = 0

    def __bool__(self) -> bool:
        return bool(self._names)

    @property
    def due(self) -> float | None:
        """When the first of them is to be tried again."""
        return min((trouble.due for trouble in self._names.values()), default=None)

    def resting(self) -> dict[str, StorageError]:
        """Return the names that are not due yet, and why they wait."""
        now = self._clock.monotonic()
        return {name: trouble.error for name, trouble in self._names.items() if trouble.due > now}

    def last(self, seconds: float) -> bool:
        """Tell whether each of them has lasted for so long."""
        now = self._clock.monotonic()
        return all(now - trouble.since > seconds for trouble in self._names.values())

    def size(self, name: str, lines: int) -> int:
        """Return how many of so many lines are to be tried at once."""
        trouble = self._names.get(name)
        return lines if trouble is None or trouble.failures < _NARROW else min(max(trouble.suspects // 2, 1), lines)

    def failed(self, name: str, size: int, error: StorageError) -> Verdict:
        """Note that the first lines of a name failed, so many, and say what that means.

        wait: try again later. narrow: try fewer now. beside: leave the first, and try those behind it.
        """
        now = self._clock.monotonic()
        trouble = self._of(name, error, now)
        trouble.suspects = size
        if trouble.failures >= _NARROW and size > 1:
            return "narrow"
        trouble.failures += 1
        trouble.put_off(now)
        if trouble.failures <= _NARROW:
            return "wait"
        if now - trouble.counted >= LONGEST_PAUSE and self._taken > trouble.others:
            trouble.refusals += 1
            trouble.counted, trouble.others = now, self._taken
        if trouble.refusals >= _REFUSALS:
            return "refused"
        return "beside" if trouble.failures >= _BESIDE else "wait"

    def stalled(self, name: str, error: StorageError) -> None:
        """Note that the lines of a name could not even be tried, or none at all would have gone."""
        now = self._clock.monotonic()
        self._of(name, error, now).put_off(now)

    def turn(self, name: str) -> int:
        """Return a number that is another one each time that the name failed."""
        return self._names[name].failures

    def took(self) -> None:
        """Note that storage took something new."""
        self._taken += 1

    def succeeded(self, name: str, size: int) -> None:
        """Note that the first lines of a name were taken, so many."""
        if (trouble := self._names.get(name)) is None:
            return
        recovered = 0 < trouble.suspects <= size
        trouble.suspects -= size
        if trouble.suspects > 0:
            self._begin_anew(trouble)
            return
        del self._names[name]
        if recovered:
            for other in self._names.values():
                other.refusals = 0

    def gave_up(self, name: str) -> None:
        """Note that the first line of a name was set aside; the next is tried alone."""
        trouble = self._names[name]
        trouble.suspects = 0
        self._begin_anew(trouble)

    def keep(self, names: Iterable[str]) -> None:
        """Forget all but these names: nothing of the others waits."""
        names = set(names)
        self._names = {name: trouble for name, trouble in self._names.items() if name in names}

    def _of(self, name: str, error: StorageError, now: float) -> Trouble:
        trouble = self._names.setdefault(name, Trouble(error, now, now, now, self._taken))
        trouble.error = error
        return trouble

    def _begin_anew(self, trouble: Trouble) -> None:
        trouble.failures, trouble.refusals, trouble.pause = _NARROW, 0, FIRST_PAUSE
        trouble.counted, trouble.others = self._clock.monotonic(), self._taken
