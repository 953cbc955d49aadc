"""What the demonstration has shown, as numbers: for the tables at its end and for `--json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tanuki_async._about import Status
from tanuki_async._cli.demo_run import Answered, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The calls that one of the two answered, or all of them. Times are in milliseconds, None without calls."""

    calls: int
    share: float
    correct: float | None
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """Requests, tokens and US dollars."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All figures of one run. `bill_without` is what all calls would have cost at the teacher's mean, None if unknown.

    Agreement, its lower bound and coverage are those of the student in use at the end, on inputs held out from its
    training.
    """

    live: bool
    model: str
    storage: str
    hash: str
    seconds: float
    takeover_calls: int | None
    takeover_seconds: float | None
    found_again: bool
    phase: str
    reason: str
    trainings: int
    agreement: float | None
    bound: float | None
    coverage: float | None
    held_out: int
    teacher: Part
    student: Part
    all: Part
    failed: int
    deferred: int
    audits: int
    bill: Bill
    bill_without: Bill | None


def report(outcome: Outcome, *, live: bool, model: str, storage: str) -> Report:
    """Count what happened between the two statuses of a run."""
    progress, before, after = outcome.progress, outcome.before, outcome.after
    calls = progress.answers
    teacher, student = (_part([each for each in calls if each.by == by], len(calls)) for by in ("teacher", "student"))
    takeover = progress.takeover or (None, None)
    return Report(
        live=live,
        model=model,
        storage=storage,
        hash=after.hash,
        seconds=outcome.seconds,
        takeover_calls=takeover[0],
        takeover_seconds=takeover[1],
        found_again=before.student is not None and takeover[0] == 1,
        phase=after.phase,
        reason=after.reason,
        trainings=after.trainings - before.trainings,
        agreement=after.agreement,
        bound=after.bound,
        coverage=after.coverage,
        held_out=after.held_out,
        teacher=teacher,
        student=student,
        all=_part(calls, len(calls)),
        failed=progress.failed,
        deferred=after.deferred - before.deferred,
        audits=after.audits - before.audits,
        bill=_bill(before, after),
        bill_without=_bill_without(after, len(calls)),
    )


def _part(calls: Sequence[Answered], total: int) -> Part:
    times = sorted(1e3 * each.seconds for each in calls)
    return Part(
        calls=len(calls),
        share=len(calls) / max(total, 1),
        correct=sum(each.right for each in calls) / len(calls) if calls else None,
        p50_ms=_quantile(times, 0.5),
        p99_ms=_quantile(times, 0.99),
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _bill(before: Status, after: Status) -> Bill:
    return Bill(
        requests=after.usage.requests - before.usage.requests,
        input_tokens=after.usage.input_tokens - before.usage.input_tokens,
        output_tokens=after.usage.output_tokens - before.usage.output_tokens,
        cost=after.cost - before.cost,
    )


def _bill_without(after: Status, calls: int) -> Bill | None:
    """Price all calls as the teacher's calls were on the average, those of earlier runs included."""
    asked = after.answered_by_teacher + after.audits
    if after.unpriced or not asked:
        return None
    times = calls / asked
    return Bill(
        requests=round(after.usage.requests * times),
        input_tokens=round(after.usage.input_tokens * times),
        output_tokens=round(after.usage.output_tokens * times),
        cost=after.cost * times,
    )
