"""When to learn, who serves, and what audits decide: one Distiller per open Tanuki, many on one storage."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

from tanuki_async._clock import SYSTEM_CLOCK, Clock, timestamp
from tanuki_async._distill import evaluate, lessons
from tanuki_async._distill.course import Learner, NotNow, RunSync
from tanuki_async._distill.learners import choose, load_student, local_learners
from tanuki_async._distill.state import State, Task
from tanuki_async._distill.training import BACK_OFF, LEASE_SECONDS, Overtaken, Training, change, enough, read
from tanuki_async._distill.tuned import FineTuneLearner
from tanuki_async._distill.watched import Note, Watched, add_up
from tanuki_async._errors import NotOpenError, StorageError
from tanuki_async.abc import Storage, Student

logger = logging.getLogger("tanuki_async.distill")

POLL_SECONDS = 1.0
"""How old may be what a process knows of a function that is being called: one small read each."""
FINE_TUNE = FineTuneLearner.kind
RECOUNT_SECONDS = 30.0
"""How often examples that other processes wrote are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillerStatistics:
    """What one Distiller did since it was made."""

    watched: int
    serving: int
    training: int
    trained: int
    failed: int
    reverted: int
    unread: int  # times that storage or a student in it could not be read


class Distiller:
    """Learns watched functions in the background and tells who serves them.

    Nothing here raises into a call: what fails is logged, counted, and tried again later. A function that is not
    called costs nothing; one that is costs a read of its state each POLL_SECONDS, so a student that another process
    trained or reverted is noticed that late. Belongs to the event loop of its first `watch`.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        clock: Clock = SYSTEM_CLOCK,
        owner: str,
        learners: Mapping[str, Learner] | None = None,
        random: Random | None = None,
        run_sync: RunSync | None = None,
    ) -> None:
        self._storage, self._clock, self._owner = storage, clock, owner
        self._learners = local_learners() if learners is None else dict(learners)
        self._random = random or Random()
        self._run_sync: RunSync = run_sync or asyncio.to_thread
        self._watched: dict[str, Watched] = {}
        self._starts: dict[str, asyncio.Task[None]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._trained = self._failed = self._reverted = self._unread = 0

    def student(self, task: Task) -> Student | None:
        """Whoever serves `task` now. None also where it is not watched yet."""
        watched = self._watched.get(task.key)
        return None if watched is None else watched.student()

    def due_audit(self, task: Task) -> bool:
        """Draw whether this answer of the student shall be checked."""
        watched = self._watched.get(task.key)
        return watched is not None and watched.due_audit()

    async def audited(self, task: Task, *, agreed: bool) -> None:
        """Take note of one check of the student. Reverts when the audits say so."""
        if (watched := self._watched.get(task.key)) is not None:
            await watched.audited(agreed=agreed)

    async def fault(self, task: Task) -> None:
        """Take note that the student's answer did not fit the type."""
        if (watched := self._watched.get(task.key)) is not None:
            await watched.fault()

    def on_written(self, name: str, new: int) -> None:
        """Count distinct examples just written to a dataset, or to a hash."""
        function, _, dataset = name.partition("/")
        if self._closing is not None:
            return
        for watched in self._watched.values():
            if watched.task.hash == function and dataset in ("", *lessons.datasets(watched.task)):
                watched.seen += new
                self._consider(watched)

    async def watch(self, task: Task) -> Watched:
        """Begin to watch `task`: read how far it is and load who serves it. Once; later calls only look it up."""
        watched = self._watched.get(task.key)
        if watched is not None and task.key not in self._starts:
            return watched
        if self._closing is not None:
            raise NotOpenError("this Tanuki is closed; nothing can be distilled")
        if watched is None:
            watched = self._watched[task.key] = Watched(task, self._random, self._settle)
            start = asyncio.create_task(self._start(watched), name=f"tanuki recall {task.name}")
            self._starts[task.key] = start
            start.add_done_callback(lambda _: self._starts.pop(task.key, None))
        await asyncio.wait({self._starts[task.key]})  # goes on for others when this caller is cancelled
        return watched

    async def state(self, task: Task) -> State:
        """Return how far `task` is, read now, with the reason why it is there."""
        watched = await self.watch(task)
        state = await read(self._storage, task)
        if state.student is None and watched.unable is not None:
            return dataclasses.replace(state, reason=watched.unable)
        if state.updated_at:
            return state
        return dataclasses.replace(state, reason=self._progress(watched, state))

    async def distill(self, task: Task, *, force: bool = True) -> State:
        """Take one step now and return the state it led to. Raises StorageError.

        Each step that gets as far as evaluating is one more look, and makes the next proofs a little harder.
        """
        watched = await self.watch(task)
        await self._survey(watched)
        if watched.unable is not None:
            return dataclasses.replace(await read(self._storage, task), reason=watched.unable)
        step = watched.step or self._spawn(watched, force=force)
        await asyncio.wait({step})  # goes on for others when this caller is cancelled
        if step.cancelled():
            raise NotOpenError(f"this Tanuki was closed while {task.name} was being distilled")
        return step.result()

    def statistics(self) -> DistillerStatistics:
        """Return what was done so far."""
        return DistillerStatistics(
            watched=len(self._watched),
            serving=sum(watched.serving is not None for watched in self._watched.values()),
            training=sum(watched.step is not None for watched in self._watched.values()),
            trained=self._trained,
            failed=self._failed,
            reverted=self._reverted,
            unread=self._unread,
        )

    async def aclose(self, *, timeout: float = 10.0) -> None:
        """Stop learning, tell storage what audits showed, give leases back. Safe to call twice.

        Takes `timeout` seconds at most, and goes on by itself if the caller is cancelled meanwhile.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(timeout), name="tanuki distiller close")
        await asyncio.shield(self._closing)

    async def _close(self, timeout: float) -> None:
        owned = [self._poller, *self._starts.values(), *(watched.step for watched in self._watched.values())]
        tasks = {task for task in owned if task is not None}
        tasks.add(asyncio.create_task(self._settle_all(), name="tanuki audits"))
        for task in tasks:
            if task.get_name() != "tanuki audits":
                task.cancel()
        _, late = await asyncio.wait(tasks, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            logger.error("distiller: %d tasks did not stop within %g s", len(late), timeout)
            await asyncio.wait(late, timeout=1.0)

    async def _settle_all(self) -> None:
        for watched in self._watched.values():
            await self._settle(watched)

    async def _start(self, watched: Watched) -> None:
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll(), name="tanuki distiller")
        await self._survey(watched)
        await self._look(watched, first=True)
        fetched = not watched.task.ignore_finetune_fetching and watched.state.is_fresh
        if fetched and any(rung.kind == FINE_TUNE for rung in watched.rungs) and watched.step is None:
            self._spawn(watched, force=False, fetch=True)

    async def _survey(self, watched: Watched) -> None:
        """Find the ways in which a function can be learnt here, or why there is none."""
        if watched.task.ignore_finetuning:
            watched.unable = "ignore_finetuning is set: the teacher answers all"
            return
        rungs = await self._run_sync(choose, watched.task, self._learners)  # looks for packages on disk
        watched.rungs, watched.unable = ([], rungs) if isinstance(rungs, str) else (rungs, None)

    async def _poll(self) -> None:
        while True:
            await self._clock.sleep(POLL_SECONDS)
            for watched in list(self._watched.values()):
                if watched.used or watched.pending:
                    watched.used = False
                    await self._settle(watched)
                    await self._look(watched)

    async def _look(self, watched: Watched, *, first: bool = False, fresh: bool = False) -> None:
        """Notice what other processes did; start what is due."""
        try:
            if first or fresh or self._clock.monotonic() - watched.counted_at >= RECOUNT_SECONDS:
                watched.counted_at = self._clock.monotonic()
                watched.seen = await lessons.count(self._storage, watched.task)
            await self._refresh(watched, first=first)
        except StorageError as error:
            self._unread += 1
            if not watched.unreadable:
                logger.warning("%s: the distillation state could not be read: %s", watched.task.name, error)
            watched.unreadable = True
        except Exception:  # a storage may be a user's own; the next poll tries again, calls go to the teacher
            self._unread += 1
            logger.exception("%s: the distillation state could not be read", watched.task.name)
        else:
            watched.unreadable = False
            self._consider(watched)

    async def _refresh(self, watched: Watched, *, first: bool = False) -> None:
        """Read the state; make the student it names serve."""
        watched.state = state = await read(self._storage, watched.task)
        task = watched.task
        if first and task.ignore_finetune_fetching:
            watched.refused = state.student
        if state.student is not None and (state.template_version or 0) < task.template_version:
            watched.state = state = await self._retire(task)
        if (
            state.student is None
            or state.student == watched.refused
            or state.template_version != task.template_version
            or task.ignore_finetuning
            or task.student_model is None
        ):
            watched.dismiss()
        elif state.student != watched.serving_key:
            await self._load(watched, state)

    async def _load(self, watched: Watched, state: State) -> None:
        assert state.student is not None
        found = await self._storage.get(state.student)
        try:
            if found is None:
                raise StorageError(f"{state.student} is not there")
            student = await self._run_sync(load_student, watched.task, state.kind, found.value, self._learners)
        except Exception:  # whatever is in storage, calls go to the teacher; a newer student is tried again
            self._unread += 1
            logger.exception("%s: the student %s cannot be used", watched.task.name, state.student)
            watched.dismiss()
            watched.refused = state.student
            watched.pending.clear()
            return
        watched.pending.clear()
        watched.serving, watched.serving_key = student, state.student
        logger.info("%s: the student %s serves here", watched.task.name, state.student)

    async def _retire(self, task: Task) -> State:
        """Take back a student trained on another version of the prompt; what it learnt from is due again."""

        def retire(before: State) -> State | None:
            if before.student is None or (before.template_version or 0) >= task.template_version:
                return None
            return before.without_student(
                "collecting",
                f"the prompt changed from version {before.template_version} to {task.template_version}",
                job=None,
                rung=None,
                polls=0,
                trainings=max(0, before.trainings - 1),
            )

        state, changed = await change(self._storage, self._clock, task, retire)
        self._reverted += changed
        return state

    def _consider(self, watched: Watched) -> None:
        """Start a training if one is due."""
        if watched.step is None and self._closing is None and self._due(watched):
            self._spawn(watched, force=False)

    def _due(self, watched: Watched) -> bool:
        state, task = watched.state, watched.task
        if watched.unable is not None or timestamp(self._clock.now()) < state.not_before:
            return False
        if (state.template_version or 0) > task.template_version:
            return False  # a newer release is at work
        if self._clock.monotonic() < watched.rest_until:
            return False
        return state.busy or state.job is not None or watched.seen > max(enough(task, state), watched.enough)

    def _spawn(self, watched: Watched, *, force: bool, fetch: bool = False) -> asyncio.Task[State]:
        step = watched.step = asyncio.create_task(
            self._step(watched, force=force, fetch=fetch), name=f"tanuki distill {watched.task.name}"
        )
        step.add_done_callback(lambda done: self._stepped(watched, done))
        return step

    def _stepped(self, watched: Watched, done: asyncio.Task[State]) -> None:
        watched.step = None
        if not done.cancelled():
            done.exception()  # retrieved here; `_step` has logged and counted it

    async def _step(self, watched: Watched, *, force: bool, fetch: bool) -> State:
        watched.rest_until = self._clock.monotonic() + LEASE_SECONDS / 2
        try:
            state = await self._learn(watched, force=force, fetch=fetch)
        except StorageError as error:
            self._failed += 1
            watched.rest_until = self._clock.monotonic() + BACK_OFF
            logger.warning("%s: nothing can be learnt now: %s", watched.task.name, error)
            raise
        watched.state = state
        await self._survey(watched)  # a way of learning may have turned out not to be there
        await self._look(watched, fresh=True)
        return state

    async def _learn(self, watched: Watched, *, force: bool, fetch: bool) -> State:
        task = watched.task
        lease = await self._storage.claim(task.lease_key, self._owner, seconds=LEASE_SECONDS)
        if lease is None:
            state = await read(self._storage, task)
            return dataclasses.replace(state, reason=f"another process is training ({state.reason})")
        training = Training(
            self._storage, self._clock, task, watched.rungs, random=self._random, run_sync=self._run_sync
        )
        try:
            state = await training.run(lease, force=force, fetch=fetch)
        except Overtaken:
            logger.warning("%s: another process took over the training", task.name)
            return await read(self._storage, task)
        except NotNow as why:
            logger.info("%s: %s", task.name, why)
            return await training.failed(str(why))
        except Exception as error:  # learners and storages may be a user's own; calls go to the teacher meanwhile
            self._failed += 1
            watched.rest_until = self._clock.monotonic() + BACK_OFF
            logger.exception("%s: training failed", task.name)
            return await training.failed(f"training failed: {error!r}")
        self._trained += state.looks > watched.state.looks
        watched.rest_until = 0.0
        watched.enough = watched.seen + training.missing if training.missing else 0
        return state

    async def _settle(self, watched: Watched) -> None:
        """Tell storage what audits showed since the last time; revert in every process when they say so."""
        key = watched.serving_key or watched.refused
        if not watched.pending or key is None:
            return
        noted, watched.pending = watched.pending, watched.fresh()
        try:
            state, _ = await change(
                self._storage, self._clock, watched.task, lambda before: _audited(before, key, noted, watched.task)
            )
        except Exception:  # a storage may be a user's own; what was seen is kept and told at the next poll
            self._unread += 1
            watched.pending.extendleft(reversed(noted))
            logger.exception("%s: audits could not be written", watched.task.name)
            return
        if state.student is None:  # another one that took its place is loaded at the next look
            self._reverted += state.phase == "reverted" and watched.state.phase != "reverted"
            watched.dismiss(refuse=True)
            if watched.withdrawn != key:  # and not again for each audit that was on its way
                watched.withdrawn = key
                logger.warning("%s: the student is withdrawn: %s", watched.task.name, state.reason)
        watched.state = state

    def _progress(self, watched: Watched, state: State) -> str:
        needed = enough(watched.task, state) + 1
        return f"{watched.seen} examples were recorded; learning starts at {needed}"


def _audited(before: State, key: str, noted: Iterable[Note], task: Task) -> State | None:
    """Add audits of the student `key` to the state, and take it away if they say so."""
    if before.student != key:
        return None
    audits = add_up(before.audits, noted, task.min_agreement)
    if not evaluate.must_revert(audits):
        return dataclasses.replace(before, audits=audits)
    reason = (
        f"reverted: {audits.agreed} of {audits.asked} audited answers agreed, {audits.faults} did not fit the type; "
        f"recently fewer than {task.min_agreement:.0%}"
    )
    return before.without_student(before.phase if before.busy else "reverted", reason, audits=audits)
