"""One step of learning: from counted examples, under a lease, to a proved student or a reason why not."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any, TypeAlias

from tanuki_async._clock import Clock, timestamp
from tanuki_async._distill import evaluate, lessons
from tanuki_async._distill.course import Learner, Lesson, Pending, RunSync
from tanuki_async._distill.evaluate import Audits, Proof
from tanuki_async._distill.ladder import Climb, Climber
from tanuki_async._distill.state import State, Task
from tanuki_async._distill.tuned import FineTuneLearner
from tanuki_async._errors import StorageError
from tanuki_async._records import Job
from tanuki_async.abc import Lease, Storage
from tanuki_async.students.ladder import KIND as LADDER
from tanuki_async.students.ladder import unpack

logger = logging.getLogger("tanuki_async.distill")

LEASE_SECONDS = 30.0
BACK_OFF = 60.0  # seconds after the first failure; doubles with each, to an hour at most
FEWEST = 20
"""Examples below which not even a forced step trains."""
TRIES = 50
"""Compare-and-set attempts; each failure means that another process succeeded."""

Change: TypeAlias = Callable[[State], State | None]


class Overtaken(Exception):  # noqa: N818  # no error: a normal outcome among many processes
    """Another process holds the lease now; what was learnt here is dropped."""


async def read(storage: Storage, task: Task) -> State:
    """Read the state that all processes share."""
    found = await storage.get(task.state_key)
    return State() if found is None else State.from_json(found.value)


async def change(storage: Storage, clock: Clock, task: Task, how: Change) -> tuple[State, bool]:
    """Replace the state by what `how` makes of it, atomically; None leaves it. Return it and whether it changed."""
    for _ in range(TRIES):
        found = await storage.get(task.state_key)
        before = State() if found is None else State.from_json(found.value)
        after = how(before)
        if after is None:
            return before, False
        after = dataclasses.replace(after, updated_at=timestamp(clock.now()))
        if await storage.put(task.state_key, after.to_json(), version=found.version if found else None) is not None:
            return after, True
    raise StorageError(f"{task.name}: the distillation state could not be written, {TRIES} times others were first")


def enough(task: Task, state: State) -> int:
    """Return the number of examples beyond which the next training is due.

    Pairs must have doubled since the last look: a new adapter makes vectors that were stored incomparable.
    """
    if task.embed is not None:
        return max(task.distill_after, 2 * state.tried_with)
    return task.distill_after << state.trainings  # doubles with each


class Training:
    """Trains one task once. `rungs` are tried in order; the first that proves itself serves."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        task: Task,
        rungs: Sequence[Learner],
        *,
        random: Random,
        run_sync: RunSync,
    ) -> None:
        self._storage, self._clock, self._task, self._rungs = storage, clock, task, rungs
        self._random, self._run_sync = random, run_sync
        self._trainer = ""
        self._found: list[Lesson] | None = None
        self._pairs = 0  # as they are counted, before any is left out
        self.missing = 0  # examples that were too few, in the last run

    async def run(self, lease: Lease, *, force: bool, fetch: bool = False) -> State:
        """Take one step under `lease`, which is renewed meanwhile and given back at the end, whatever happens.

        With `fetch`, a student that was trained at a provider before is looked for there first.
        """
        self._trainer = f"{lease.owner}:{lease.token}"
        work = asyncio.create_task(self._step(force=force, fetch=fetch), name=f"tanuki learn {self._task.name}")
        renewal = asyncio.create_task(self._renew(lease), name=f"tanuki lease {self._task.name}")
        try:
            await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                raise Overtaken from renewal.exception()
            return work.result()
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            with suppress(StorageError):  # else the lease runs out, and whoever takes over sees that nobody trains
                await self._rest("the training was interrupted because its process ended")
            raise
        finally:
            renewal.cancel()
            await asyncio.wait({renewal, work})
            with suppress(StorageError):  # it runs out by itself
                await self._storage.release(lease)

    async def _renew(self, lease: Lease) -> None:
        """Return when the lease is lost, or could not be renewed for as long as it lasts."""
        until = self._clock.monotonic() + LEASE_SECONDS
        while self._clock.monotonic() < until:
            await self._clock.sleep(LEASE_SECONDS / 3)
            try:
                renewed = await self._storage.claim(lease.key, lease.owner, seconds=LEASE_SECONDS)
            except StorageError as error:
                logger.warning("%s: the lease could not be renewed: %s", self._task.name, error)
                continue
            if renewed is None or renewed.token != lease.token:
                return
            until = self._clock.monotonic() + LEASE_SECONDS

    async def _step(self, *, force: bool, fetch: bool) -> State:
        state = await read(self._storage, self._task)
        if fetch and state.is_fresh:
            state = await self._fetch(state)
        if state.busy and state.job is None:
            logger.info("%s: %s stopped while training; taking over", self._task.name, state.trainer)
        if state.job is None or state.rung not in [rung.name for rung in self._rungs]:
            state = dataclasses.replace(state, job=None, rung=None)  # nobody here knows how to go on with it
            missing = self._missing(state, len(await self._lessons()), force=force)
            if missing is not None:
                return await self._write(lambda before: before.at_rest(missing))
        await self._begin()
        climb = await self._climb(state)
        if climb.pending is not None:
            return await self._wait(state, climb, *climb.pending)
        if len(climb.steps) > climb.published:
            return await self._serve(state, climb)
        return await self._conclude(climb)

    async def _fetch(self, state: State) -> State:
        """Take over a training that succeeded at a provider before, if there is one; the rest is as with any other."""
        for rung in self._rungs:
            if isinstance(rung, FineTuneLearner) and (found := await rung.trained_before(self._task)) is not None:
                return await self._adopt(rung, *found)
        return state

    async def _adopt(self, rung: FineTuneLearner, job: Job, number: int) -> State:
        logger.info("%s: %s was trained before: %s", self._task.name, rung.model, job.id)
        return await self._write(
            lambda before: (
                dataclasses.replace(before, trainings=number, job=job.id, rung=rung.name) if before.is_fresh else None
            )
        )

    async def _lessons(self) -> list[Lesson]:
        """Read all examples, once."""
        if self._found is None:
            if self._task.embed is not None:
                self._pairs = await lessons.count(self._storage, self._task)
            self._found = await lessons.gather(self._storage, self._task)
        return self._found

    def _missing(self, state: State, seen: int, *, force: bool) -> str | None:
        needed = FEWEST if force else enough(self._task, state) + 1
        self.missing = max(0, needed - seen)
        if not self.missing:
            return None
        return f"{seen} of {needed} different inputs were recorded; {self.missing} are missing"

    async def _begin(self) -> None:
        def begin(before: State) -> State | None:
            if before.busy and _token(before.trainer) > _token(self._trainer):
                return None  # our lease ran out before we began
            reason = before.reason if before.job else "learning"
            return dataclasses.replace(before, phase="training", reason=reason, trainer=self._trainer)

        _, begun = await change(self._storage, self._clock, self._task, begin)
        if not begun:
            raise Overtaken

    async def _climb(self, state: State) -> Climb:
        """Try each way of learning; go on where an earlier step had to wait."""
        climb = Climb()
        climber = Climber(
            task=self._task,
            rungs=self._rungs,
            state=state,
            lessons=self._lessons,
            seed=self._random.getrandbits(31),
            run_sync=self._run_sync,
            evaluating=self._evaluating,
        )
        key = self._task.student_key(state.looks)
        waited = state.job is not None and state.student == key and state.kind == LADDER
        if waited and (found := await self._storage.get(key)) is not None:
            climb.resume(unpack(found.value), await self._lessons())
        await climber.climb(climb)
        return climb

    async def _evaluating(self) -> None:
        await self._own(lambda before: dataclasses.replace(before, phase="evaluating", reason="checking agreement"))

    async def _wait(self, state: State, climb: Climb, rung: Learner, pending: Pending) -> State:
        """Leave a training that goes on elsewhere to whoever looks next; what is proved so far serves meanwhile."""
        changes: dict[str, Any] = {}
        if len(climb.steps) > climb.published:
            changes = await self._published(state, climb)
        polls = state.polls + 1 if state.job == pending.job else 1
        until = timestamp(self._clock.now() + timedelta(seconds=pending.seconds))
        return await self._own(
            lambda before: dataclasses.replace(
                before,
                **changes,
                phase="training",
                reason=pending.reason,
                job=pending.job,
                rung=rung.name,
                polls=polls,
                failures=0,
                not_before=until,
            )
        )

    async def _conclude(self, climb: Climb) -> State:
        """Note that no new student came of it, and why."""
        outcome = "; ".join(climb.reasons)
        logger.info("%s: %s", self._task.name, outcome or "nothing more can be learnt")
        if climb.absent == len(self._rungs):  # nothing was tried, so nothing is counted
            return await self._own(lambda before: before.at_rest(outcome))
        found = await self._lessons()
        return await self._own(
            lambda before: before.at_rest(outcome, **self._looked(before), trained_on=_trained_on(before, found))
        )

    async def _serve(self, state: State, climb: Climb) -> State:
        changes = await self._published(state, climb)
        reason = _told(climb.proof())
        if (notice := self._notice(climb)) is not None:
            logger.warning("%s: %s", self._task.name, notice)
            reason = f"{reason}; {notice}"
        after = await self._own(lambda before: before.at_rest(reason, **{**self._looked(before), **changes}))
        logger.info("%s: a student of kind %s serves; %s", self._task.name, climb.kind, after.reason)
        return after

    async def _published(self, state: State, climb: Climb) -> dict[str, Any]:
        """Put the student into storage; return what the state says of it."""
        found = await self._lessons()
        key = self._task.student_key(state.looks, len(climb.steps))
        parameters = await self._run_sync(climb.parameters, found)
        there = await self._storage.get(key)
        if await self._storage.put(key, parameters, version=there.version if there else None) is None:
            raise Overtaken
        proof = climb.proof()
        return {
            "student": key,
            "kind": climb.kind,
            "model": climb.model,
            "agreement": proof.agreement if proof else None,
            "bound": proof.bound if proof else None,
            "baseline": proof.baseline if proof else None,
            "confidence": evaluate.CONFIDENCE if proof else None,
            "held_out": proof.held_out if proof else 0,
            "coverage": proof.coverage if proof else None,
            "trained_on": len(found),
            "audits": Audits(),
            "template_version": self._task.template_version,
        }

    def _looked(self, before: State) -> dict[str, Any]:
        """Return what a training that came to its end changes, whatever came of it."""
        counts = {"trainings": before.trainings + 1, "looks": before.looks + 1, "tried_with": self._pairs}
        return {**counts, "failures": 0, "not_before": "", "job": None, "rung": None, "polls": 0}

    def _notice(self, climb: Climb) -> str | None:
        """Say so where one vendor's model was trained on the answers of another's: their terms may limit that."""
        if self._task.bench is None:
            return None
        teachers = {teacher.provider.name for teacher in self._task.bench.desk.teachers}
        tuned = [step.model for step in climb.steps if step.kind == "fine_tune" and step.model]
        strangers = [model for model in tuned if model.partition(":")[0] not in teachers]
        if not strangers:
            return None
        return (
            f"{', '.join(strangers)} was trained on answers of {', '.join(sorted(teachers))}: "
            "see whether the terms of that vendor allow it"
        )

    async def failed(self, why: str) -> State:
        """Note a failure, so that all processes wait before the next try."""

        def note(before: State) -> State | None:
            if before.busy and before.trainer != self._trainer:
                return None
            pause = min(BACK_OFF * 2**before.failures, 3600.0)
            until = timestamp(self._clock.now() + timedelta(seconds=pause))
            return before.at_rest(why, failures=before.failures + 1, not_before=until)

        state, _ = await change(self._storage, self._clock, self._task, note)
        return state

    async def _rest(self, reason: str) -> None:
        def rest(before: State) -> State | None:
            return before.at_rest(reason) if before.busy and before.trainer == self._trainer else None

        await change(self._storage, self._clock, self._task, rest)

    async def _own(self, how: Change) -> State:
        """Change the state if the lease it was taken under is still ours."""
        state, changed = await change(
            self._storage,
            self._clock,
            self._task,
            lambda before: how(before) if before.busy and before.trainer == self._trainer else None,
        )
        if not changed:
            raise Overtaken
        return state

    async def _write(self, how: Change) -> State:
        state, _ = await change(self._storage, self._clock, self._task, how)
        return state


def _told(proof: Proof | None) -> str:
    if proof is None:
        return "it was trained and proved before; there is nothing here to examine it on, so only audits watch it"
    return f"{proof.seen}; at least {proof.bound:.1%} with {evaluate.CONFIDENCE:.0%} confidence"


def _trained_on(before: State, found: Sequence[Lesson]) -> int:
    """What the serving student learnt from, else what the last try had."""
    return before.trained_on if before.student else len(found)


def _token(trainer: str | None) -> int:
    token = (trainer or "").rpartition(":")[2]
    return int(token) if token.isdecimal() else 0
