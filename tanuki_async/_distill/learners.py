"""The ways of learning that are there, each behind one small seam."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ParamSpec, Protocol, TypeVar

import tanuki_async.students.local as local_student
from tanuki_async._distill.state import Match, Task
from tanuki_async._errors import SettingsError
from tanuki_async._records import JsonValue
from tanuki_async.abc import Student
from tanuki_async.students import Verdict

P = ParamSpec("P")
R = TypeVar("R")


class RunSync(Protocol):
    """Runs a function in a thread, as `asyncio.to_thread` does."""

    async def __call__(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


@dataclass(frozen=True, slots=True)
class Lesson:
    """One example to learn from."""

    inputs: Mapping[str, JsonValue]
    output: JsonValue
    aligned: bool = False


class Learned(Protocol):
    """A trained student that has not proved itself yet."""

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """What held-out inputs showed; each was answered by a student that had not seen it."""
        ...

    def parameters(self, threshold: float) -> bytes:
        """Write the student that answers where it is at least as sure as `threshold`."""
        ...


class Learner(Protocol):
    """One way of learning."""

    kind: str

    def unavailable(self, task: Task) -> str | None:
        """Say why this task cannot be learnt in this way here, or None."""
        ...

    async def learn(
        self, lessons: Sequence[Lesson], *, seed: int, match: Match | None, run_sync: RunSync
    ) -> Learned | str:
        """Learn, or say why nothing can be learnt from these lessons. Cancelling stops it soon."""
        ...

    def load(self, parameters: bytes) -> Student:
        """Read what `Learned.parameters` wrote. Blocks; StorageError where it is malformed."""
        ...


class LocalLearner:
    """Learns a classifier in a worker thread of this process."""

    kind = "local"

    def unavailable(self, task: Task) -> str | None:
        if task.media:
            return "its arguments may hold images or documents, which a local student cannot look at"
        if not task.closed:
            return (
                "the answer is not closed: a local student can learn Literal, Enum, bool, bounded int, None, "
                "unions and sets of these"
            )
        if not _installed("sklearn"):
            return "scikit-learn is not installed: pip install 'tanuki_async[local]'"
        return None

    async def learn(
        self, lessons: Sequence[Lesson], *, seed: int, match: Match | None, run_sync: RunSync
    ) -> Learned | str:
        stop = threading.Event()
        aligned = frozenset(index for index, lesson in enumerate(lessons) if lesson.aligned)
        pairs = [(lesson.inputs, lesson.output) for lesson in lessons]

        def work() -> Learned | str:
            try:
                return local_student.train(pairs, seed=seed, match=match, aligned=aligned, stopped=stop.is_set)
            except local_student.Unlearnable as why:
                return str(why)

        try:
            return await run_sync(work)
        finally:
            stop.set()  # a thread cannot be cancelled; it looks here between its folds

    def load(self, parameters: bytes) -> Student:
        return local_student.LocalStudent.load(parameters)


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # an import hook refuses it, or it was taken out of sys.modules by None
        return False


def local_learners() -> dict[str, Learner]:
    """Return the ways of learning that need nothing but this process, by the name that chooses them."""
    return {"local": LocalLearner()}


def choose(task: Task, learners: Mapping[str, Learner]) -> list[Learner] | str:
    """Return the ways in which `task` may be learnt, cheapest first, or say why there is none."""
    named = task.student_model
    if named is None:
        return "student_model is None: the teacher answers all"
    if named == "auto":
        named = "local"
    rungs: list[Learner] = []
    reasons: list[str] = []
    for name in (named,) if isinstance(named, str) else named:
        learner = learners.get(name) or learners.get(name.partition(":")[0])
        reason = f"{name!r} is not available as a way of learning" if learner is None else learner.unavailable(task)
        if learner is not None and reason is None:
            rungs.append(learner)
        elif reason is not None:
            reasons.append(reason)
    return rungs or "; ".join(reasons) or "student_model is an empty list: the teacher answers all"


def load_student(kind: str | None, parameters: bytes, learners: Mapping[str, Learner]) -> Student:
    """Read a student of any known kind. Blocks."""
    for learner in learners.values():
        if learner.kind == kind:
            return learner.load(parameters)
    raise SettingsError(f"a student of kind {kind!r} was trained for this function, but this release cannot load it")
