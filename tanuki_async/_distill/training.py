"""One step of learning: from counted examples, under a lease, to a proved student or a reason why not."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import TypeAlias

from tanuki_async._clock import Clock, timestamp
from tanuki_async._distill import evaluate, lessons
from tanuki_async._distill.evaluate import Audits, Proof
from tanuki_async._distill.learners import Learned, Learner, Lesson, RunSync
from tanuki_async._distill.state import State, Task
from tanuki_async._errors import StorageError
from tanuki_async.abc import Lease, Storage

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
        self.missing = 0  # examples that were too few, in the last run

    async def run(self, lease: Lease, *, force: bool) -> State:
        """Take one step under `lease`, which is renewed meanwhile and given back at the end, whatever happens."""
        self._trainer = f"{lease.owner}:{lease.token}"
        work = asyncio.create_task(self._step(force=force), name=f"tanuki learn {self._task.name}")
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

    async def _step(self, *, force: bool) -> State:
        state = await read(self._storage, self._task)
        if state.busy:
            logger.info("%s: %s stopped while training; taking over", self._task.name, state.trainer)
        found = await lessons.gather(self._storage, self._task)
        if (missing := self._missing(state, len(found), force=force)) is not None:
            return await self._write(lambda before: before.at_rest(missing))
        await self._begin()
        outcome = await self._learn(found, alpha=evaluate.alpha_of_look(state.looks) / len(self._rungs))
        if isinstance(outcome, str):
            logger.info("%s: the teacher goes on answering: %s", self._task.name, outcome)
            return await self._own(
                lambda before: before.at_rest(outcome, **self._looked(before), trained_on=_trained_on(before, found))
            )
        return await self._serve(*outcome, trained_on=len(found))

    def _missing(self, state: State, seen: int, *, force: bool) -> str | None:
        needed = FEWEST if force else self._task.distill_after * 2**state.trainings + 1
        self.missing = max(0, needed - seen)
        if not self.missing:
            return None
        return f"{seen} of {needed} different inputs were recorded; {self.missing} are missing"

    async def _begin(self) -> None:
        def begin(before: State) -> State | None:
            if before.busy and _token(before.trainer) > _token(self._trainer):
                return None  # our lease ran out before we began
            return dataclasses.replace(before, phase="training", reason="learning", trainer=self._trainer)

        _, begun = await change(self._storage, self._clock, self._task, begin)
        if not begun:
            raise Overtaken

    @staticmethod
    def _looked(before: State) -> Mapping[str, int | str]:
        return {
            "trainings": before.trainings + 1,
            "looks": before.looks + 1,
            "failures": 0,
            "not_before": "",
        }

    async def _learn(self, found: list[Lesson], *, alpha: float) -> tuple[Learner, Learned, Proof] | str:
        """Try each way of learning; return the first that proves its agreement, or why none did."""
        reasons: list[str] = []
        for learner in self._rungs:
            seed = self._random.getrandbits(31)
            learned = await learner.learn(found, seed=seed, match=self._task.match, run_sync=self._run_sync)
            if isinstance(learned, str):
                reasons.append(learned)
                continue
            await self._own(lambda before: dataclasses.replace(before, phase="evaluating", reason="checking agreement"))
            proof = evaluate.prove(learned.verdicts, min_agreement=self._task.min_agreement, alpha=alpha)
            if not isinstance(proof, str):
                return learner, learned, proof
            reasons.append(proof)
        return "; ".join(reasons)

    async def _serve(self, learner: Learner, learned: Learned, proof: Proof, *, trained_on: int) -> State:
        parameters = await self._run_sync(learned.parameters, proof.threshold)
        await self._run_sync(learner.load, parameters)  # what cannot be read back must not be announced
        state = await read(self._storage, self._task)
        key = self._task.student_key(state.looks)
        found = await self._storage.get(key)
        if await self._storage.put(key, parameters, version=found.version if found else None) is None:
            raise Overtaken
        after = await self._own(lambda before: self._served(before, learner.kind, key, proof, trained_on))
        logger.info("%s: a %s student serves; %s", self._task.name, learner.kind, after.reason)
        return after

    def _served(self, before: State, kind: str, key: str, proof: Proof, trained_on: int) -> State:
        return before.at_rest(
            f"agreed on {proof.agreement:.1%} of the {proof.coverage:.0%} of {proof.held_out} held-out inputs that it "
            f"would answer; at least {proof.bound:.1%} with {evaluate.CONFIDENCE:.0%} confidence",
            **self._looked(before),
            student=key,
            kind=kind,
            agreement=proof.agreement,
            bound=proof.bound,
            confidence=evaluate.CONFIDENCE,
            held_out=proof.held_out,
            coverage=proof.coverage,
            trained_on=trained_on,
            audits=Audits(),
            template_version=self._task.template_version,
        )

    async def failed(self, why: str) -> State:
        """Note a failure, so that all processes wait before the next try."""

        def note(before: State) -> State | None:
            if before.busy and before.trainer != self._trainer:
                return None
            pause = min(BACK_OFF * 2**before.failures, 3600.0)
            until = timestamp(self._clock.now() + timedelta(seconds=pause))
            return before.at_rest(f"training failed: {why}", failures=before.failures + 1, not_before=until)

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


def _trained_on(before: State, found: Sequence[Lesson]) -> int:
    """What the serving student learnt from, else what the last try had."""
    return before.trained_on if before.student else len(found)


def _token(trainer: str | None) -> int:
    token = (trainer or "").rpartition(":")[2]
    return int(token) if token.isdecimal() else 0
