"""The asserts of align functions as an evaluation: run against the real model, expected against actual."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tanuki_async._expect import place
from tanuki_async._function import PatchedFunction
from tanuki_async._runtime import current


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One assert, checked against the model: what it compares and whether that holds."""

    file: str
    line: int
    holds: bool
    actual: Any
    expected: Any


class Exam:
    """Runs align functions against the real model: nothing is taught, every assert is judged and none raises."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self._answers: list[Any] = []

    def mark(self) -> int:
        return len(self._answers)

    async def ask(self, function: PatchedFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        answer = await current().answer(function, function.spec.bind(args, kwargs))
        if function.spec.streams:  # an assert compares the whole list
            answer = [item async for item in answer]
        self._answers.append(answer)
        return answer

    def judge(self, mark: int, *, holds: bool, left: Any, right: Any) -> bool:
        """Note an assert that mentions an answer; any other is as true as Python says."""
        if self.mark() == mark and not any(side is answer for side in (left, right) for answer in self._answers):
            return holds
        turned = any(right is answer for answer in self._answers[mark:])
        actual, expected = (right, left) if turned else (left, right)
        file, line = place()
        self.verdicts.append(Verdict(file=file, line=line, holds=holds, actual=actual, expected=expected))
        return True

    async def take(self, function: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run one align function that takes no arguments."""
        token = taking.set(self)
        try:
            await function()
        finally:
            taking.reset(token)

    def require(self) -> None:
        """Raise AssertionError that tells every assert which does not hold."""
        wrong = [each for each in self.verdicts if not each.holds]
        told = "\n".join(f"{each.file}:{each.line}: {each.actual!r}, expected {each.expected!r}" for each in wrong)
        if wrong:
            raise AssertionError(f"{len(wrong)} of {len(self.verdicts)} answers differ from what was expected:\n{told}")


taking: ContextVar[Exam | None] = ContextVar("taking", default=None)
"""The exam that align functions run in, if any."""

_always = False


def always(*, examine: bool) -> None:
    """Let every align function of this process be an exam instead of a lesson: for test runners."""
    global _always
    _always = examine


def own_exam() -> Exam | None:
    """Return a new exam where align functions are to be exams."""
    return Exam() if _always else None
