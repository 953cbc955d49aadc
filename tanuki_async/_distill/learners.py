"""The ways of learning that are there, each behind one small seam, and which of them a task may use."""

from __future__ import annotations

import threading
from collections.abc import Mapping, MutableMapping, Sequence

import tanuki_async.students.local as local_student
from tanuki_async._distill.adapted import AdapterLearner, is_installed
from tanuki_async._distill.asked import InContextLearner
from tanuki_async._distill.course import Course, Learner, Outcome
from tanuki_async._distill.state import Task
from tanuki_async._distill.tuned import FineTuneLearner
from tanuki_async._errors import SettingsError
from tanuki_async._models import sibling
from tanuki_async.abc import Student
from tanuki_async.students.ladder import KIND as LADDER
from tanuki_async.students.ladder import Ladder, unpack


class LocalLearner:
    """Learns a classifier in a worker thread of this process."""

    kind = "local"
    name = "local"

    def unavailable(self, task: Task) -> str | None:
        if task.media:
            return "its arguments may hold images or documents, which a local student cannot look at"
        if not task.closed:
            return (
                "the answer is not closed: a local student can learn Literal, Enum, bool, bounded int, None, "
                "unions and sets of these"
            )
        if not is_installed("sklearn"):
            return "scikit-learn is not installed: pip install 'tanuki_async[local]'"
        return None

    async def learn(self, course: Course) -> Outcome:
        if course.left is not None:
            return "a local student stands before others, not behind them"
        lessons = await course.lessons()
        stop = threading.Event()
        aligned = frozenset(index for index, lesson in enumerate(lessons) if lesson.aligned)
        pairs = [(lesson.inputs, lesson.output) for lesson in lessons]

        def work() -> Outcome:
            match, seed = course.task.match, course.seed
            try:
                return local_student.train(pairs, seed=seed, match=match, aligned=aligned, stopped=stop.is_set)
            except local_student.Unlearnable as why:
                return str(why)

        try:
            return await course.run_sync(work)
        finally:
            stop.set()  # a thread cannot be cancelled; it looks here between its folds

    def load(self, parameters: bytes, task: Task) -> Student:
        return local_student.LocalStudent.load(parameters)


def local_learners() -> dict[str, Learner]:
    """Return the ways of learning that need nothing but this process, by the name that chooses them."""
    return {"local": LocalLearner(), "adapter": AdapterLearner()}


def choose(task: Task, learners: MutableMapping[str, Learner]) -> list[Learner] | str:
    """Return the ways in which `task` may be learnt, cheapest first, or say why there is none. May import modules.

    A learner for a model joins `learners` at its first use, so that what it found out about the account is kept.
    """
    named = task.student_model
    if named is None:
        return "student_model is None: the teacher answers all"
    found = _automatic(task, learners) if named == "auto" else _named(named, task, learners)
    rungs: list[Learner] = []
    reasons: list[str] = []
    for each in found:
        reason = each if isinstance(each, str) else each.unavailable(task)
        if not isinstance(each, str) and reason is None:
            rungs.append(each)
        elif reason is not None:
            reasons.append(reason)
    return rungs or "; ".join(reasons) or "student_model is an empty list: the teacher answers all"


def _automatic(task: Task, learners: MutableMapping[str, Learner]) -> list[Learner | str]:
    found: list[Learner | str] = []
    if (here := learners.get("adapter" if task.embed else "local")) is not None:
        found.append(here)
    if task.bench is not None and (name := sibling(task.bench.desk.teachers[0].model)) is not None:
        found.append(_joined(InContextLearner(name), learners))
    return found


def _named(named: str | Sequence[str], task: Task, learners: MutableMapping[str, Learner]) -> list[Learner | str]:
    found: list[Learner | str] = []
    for name in (named,) if isinstance(named, str) else named:
        here = "adapter" if task.embed is not None and name == "local" else name
        learner = learners.get(here) or learners.get(here.partition(":")[0])
        if learner is not None:
            found.append(learner)
        elif task.bench is None or ":" not in name:
            found.append(f"{name!r} is not available as a way of learning")
        else:
            found += _with_model(name, task, learners)
    return found


def _with_model(name: str, task: Task, learners: MutableMapping[str, Learner]) -> list[Learner | str]:
    """Fine-tune where that can be done. Where its result would not answer by itself, see first how the model does."""
    assert task.bench is not None
    try:
        who = task.bench.find(name)
    except SettingsError as error:
        return [str(error)]
    tuning = who.provider.tuning
    if tuning is None or not tuning.trains(who.model.name):
        return [_joined(InContextLearner(name), learners)]
    tuned = _joined(FineTuneLearner(name), learners)
    return [tuned] if tuning.serves else [_joined(InContextLearner(name), learners), tuned]


def _joined(learner: Learner, learners: MutableMapping[str, Learner]) -> Learner:
    return learners.setdefault(learner.name, learner)


def load_student(task: Task, kind: str | None, parameters: bytes, learners: Mapping[str, Learner]) -> Student:
    """Read a student of any known kind. Blocks."""
    if kind == LADDER:
        steps = unpack(parameters).steps
        return Ladder([load_student(task, step.kind, step.parameters, learners) for step in steps])
    loaders: list[Learner] = [*learners.values(), InContextLearner(""), FineTuneLearner("")]
    for learner in loaders:
        if learner.kind == kind:
            return learner.load(parameters, task)
    raise SettingsError(f"a student of kind {kind!r} was trained for this function, but this release cannot load it")
