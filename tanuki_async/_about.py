"""Looking at a patched function, and the verbs that act on one: describe, status, distill, feedback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, ParamSpec

from tanuki_async._distill.state import State
from tanuki_async._errors import InputError
from tanuki_async._expect import Lesson
from tanuki_async._function import PatchedFunction, patched
from tanuki_async._items import with_self
from tanuki_async._records import JsonSchema, Usage
from tanuki_async._runtime import Tanuki, current, library_of
from tanuki_async._settings import Options
from tanuki_async._tally import Tally

P = ParamSpec("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a stub says about itself. `schema` is None for embeddings."""

    name: str
    module: str
    qualname: str
    signature: str
    doc: str
    hash: str
    schema: JsonSchema | None
    closed: bool
    options: Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How one function is doing, over all processes that share its storage.

    `saved` is in US dollars: the student's calls at the teacher's mean price, less what learning, the student and
    audits cost; None where a price is unknown. `student_model` names the models that the student asks, if it asks any.
    Agreement, bound and coverage are shares between 0 and 1, None before the first evaluation. For embeddings,
    agreement is how often an alike pair was closer than another, with the adapter, and `baseline` without. An adapter's
    name has a number: vectors of adapters with different numbers cannot be compared.
    `budget_left` tells what this process may still spend, `{"usd per day": 3.2}`, with the Tanuki's own budget in mind.
    """

    name: str
    hash: str
    phase: str
    reason: str
    teachers: tuple[str, ...]
    student: str | None
    student_model: str | None
    datasets: dict[str, int]
    trainings: int
    agreement: float | None
    bound: float | None
    baseline: float | None
    coverage: float | None
    held_out: int
    answered_by_teacher: int
    answered_by_student: int
    deferred: int
    failed: int
    repaired: int
    audits: int
    hedged: int
    cached: int
    usage: Usage
    cost: float
    unpriced: int
    saved: float | None
    budget_left: dict[str, float] = field(default_factory=dict[str, float])


def describe(function: Callable[..., Any]) -> Description:
    """Return what a patched function's stub says. Needs no event loop. UsageError for any other function."""
    found = patched(function)
    spec = found.spec
    return Description(
        name=spec.name,
        module=spec.module,
        qualname=spec.qualname,
        signature=spec.signature,
        doc=spec.doc,
        hash=spec.hash,
        schema=spec.wire.answer.schema if spec.wire else None,
        closed=spec.closed,
        options=found.options,
    )


async def status(function: Callable[..., Any]) -> Status:
    """Tell phase, models, dataset sizes, agreement, calls by who answered, tokens and cost. May raise StorageError."""
    found = patched(function)
    return await _status(current(), found)


async def distill(function: Callable[..., Any]) -> Status:
    """Train and evaluate a student now, if there is anything to learn from, and tell how it went.

    The status's `reason` says why where nothing was trained. May raise StorageError.
    """
    found = patched(function)
    tanuki = current()
    await tanuki.desk(found).recall()
    await tanuki.flush()
    await library_of(tanuki).distill(tanuki.desk(found))
    return await _status(tanuki, found)


async def feedback(
    function: Callable[P, Coroutine[Any, Any, Any]], correct: Any, /, *args: P.args, **kwargs: P.kwargs
) -> None:
    """Say what the right answer is for some arguments.

    `await feedback(f, "good", "I like it")` is the same as an align function with
    `assert await f("I like it") == "good"`: durable when it returns, shown to the teacher, learnt by the student.
    AlignmentError where `correct` does not fit the declared type.
    """
    found = patched(function)
    if found.spec.embedding:
        raise InputError(found.spec.name, None, "an embedding has no right answer; align two of them with == or !=")
    lesson = Lesson()
    lesson.learn(lesson.expect(found, found.spec.bind(with_self(function, args), kwargs)), correct)
    await current().learn(lesson)


async def _status(tanuki: Tanuki, function: PatchedFunction) -> Status:
    spec, options, library = function.spec, function.options, library_of(tanuki)
    await tanuki.flush()
    state, tally, datasets = await asyncio.gather(
        library.state(tanuki.desk(function)), library.ledger.total(spec, options), library.counts(spec)
    )
    desk = tanuki.desk(function)
    if desk.purse is not None:
        await desk.purse.recall()
    left = desk.purse.left() if desk.purse is not None else {}
    teachers = tuple(str(each.model) for each in desk.teachers)
    return make_status(spec.name, spec.hash, state, tally, datasets, teachers, left)


def make_status(
    name: str,
    function_hash: str,
    state: State,
    tally: Tally,
    datasets: dict[str, int],
    teachers: tuple[str, ...],
    budget_left: dict[str, float] | None = None,
) -> Status:
    """Put together what storage knows of a function."""
    return Status(
        name=name,
        hash=function_hash,
        phase=state.phase,
        reason=state.reason,
        teachers=teachers,
        student=state.who,
        student_model=state.model if state.student else None,
        datasets=datasets,
        trainings=state.trainings,
        agreement=state.agreement,
        bound=state.bound,
        baseline=state.baseline,
        coverage=state.coverage,
        held_out=state.held_out,
        answered_by_teacher=tally.teacher,
        answered_by_student=tally.student,
        deferred=tally.deferred,
        failed=tally.failed,
        repaired=tally.repaired,
        audits=tally.audits,
        hedged=tally.hedged,
        cached=tally.cached,
        usage=tally.total_usage(),
        cost=tally.total_cost(),
        unpriced=tally.unpriced,
        saved=tally.saved(),
        budget_left=budget_left or {},
    )
