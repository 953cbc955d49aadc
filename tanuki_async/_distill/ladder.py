"""One training over several ways of learning: the cheapest that proves itself serves, the next stands behind it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tanuki_async._distill import evaluate
from tanuki_async._distill.course import Absent, Course, Learned, Learner, Lesson, NotNow, Pending, RunSync
from tanuki_async._distill.evaluate import Proof
from tanuki_async._distill.state import State, Task
from tanuki_async.students.adapter import Trained as TrainedAdapter
from tanuki_async.students.in_context import digest_of
from tanuki_async.students.ladder import KIND, Contents, Step, pack


@dataclass(slots=True)
class Climb:
    """How far one training has come: what is proved, and why other ways were not."""

    steps: list[Step] = field(default_factory=list[Step])
    reasons: list[str] = field(default_factory=list[str])
    left: frozenset[int] | None = None
    """Places of the held-out inputs from which all steps abstain; None before there is a step."""
    pending: tuple[Learner, Pending] | None = None
    absent: int = 0
    published: int = 0
    """Steps that serve already, from before a wait."""

    @property
    def kind(self) -> str:
        """What the student is."""
        return self.steps[0].kind if self._is_plain else KIND

    @property
    def model(self) -> str | None:
        """The models that it asks."""
        return ", ".join(step.model for step in self.steps if step.model) or None

    @property
    def _is_plain(self) -> bool:
        return len(self.steps) == 1 and self.pending is None

    def parameters(self, lessons: Sequence[Lesson]) -> bytes:
        """Write the student: a ladder only where there is more than one step, or may be later."""
        if self._is_plain:
            return self.steps[0].parameters
        left = tuple(digest_of(lessons[place].inputs) for place in sorted(self.left or ()))
        return pack(Contents(tuple(self.steps), left if self.pending else ()))

    def proof(self) -> Proof | None:
        """Return what is proved of all steps together: what one abstains from reaches the next. None: nothing is."""
        if not all(step.held_out for step in self.steps):
            return None
        coverage = agreed = 0.0
        for step in self.steps:
            share = (1.0 - coverage) * step.coverage
            coverage, agreed = coverage + share, agreed + share * step.agreement
        bound = min(step.bound for step in self.steps)
        return Proof(
            threshold=0.0,
            agreement=agreed / coverage if coverage else 0.0,
            bound=bound,
            coverage=coverage,
            held_out=self.steps[0].held_out,
            baseline=self.steps[0].baseline,
        )

    def resume(self, contents: Contents, lessons: Sequence[Lesson]) -> None:
        """Go on after a wait, with the steps that were proved before it."""
        digests = frozenset(contents.left)
        self.steps, self.published = list(contents.steps), len(contents.steps)
        self.left = frozenset(place for place, lesson in enumerate(lessons) if digest_of(lesson.inputs) in digests)


@dataclass(slots=True, kw_only=True)
class Climber:
    """Tries the ways of learning a task in order. `state` is that of the training's beginning."""

    task: Task
    rungs: Sequence[Learner]
    state: State
    lessons: Callable[[], Awaitable[Sequence[Lesson]]]
    seed: int
    run_sync: RunSync
    evaluating: Callable[[], Awaitable[None]]

    async def climb(self, climb: Climb) -> None:
        """Learn in each way until nothing is left to be answered, or one has to be waited for. May raise NotNow."""
        for rung in self._from_here():
            course = self._course(rung, climb)
            try:
                outcome = await rung.learn(course)
            except Absent as why:
                climb.absent += 1
                climb.reasons.append(str(why))
                continue
            except NotNow as why:
                if not climb.steps:
                    raise
                climb.reasons.append(str(why))
                continue
            if isinstance(outcome, Pending):
                climb.pending = rung, outcome
                return
            if isinstance(outcome, str):
                climb.reasons.append(outcome)
                continue
            await self._add(climb, rung, outcome, course)
            if climb.left is not None and len(climb.left) < evaluate.fewest_of(self.task.min_agreement, course.alpha):
                return

    def _from_here(self) -> Sequence[Learner]:
        """Return the ways still to be tried: from the one that was waited for, where there is one."""
        names = [rung.name for rung in self.rungs]
        return self.rungs[names.index(self.state.rung) :] if self.state.rung in names else self.rungs

    def _course(self, rung: Learner, climb: Climb) -> Course:
        waited = rung.name == self.state.rung
        return Course(
            task=self.task,
            lessons=self.lessons,
            number=self.state.trainings,
            seed=self.seed,
            alpha=evaluate.alpha_of_look(self.state.looks) / len(self.rungs),
            run_sync=self.run_sync,
            evaluating=self.evaluating,
            left=climb.left,
            job=self.state.job if waited else None,
            polls=self.state.polls if waited else 0,
        )

    def _prove(self, learned: Learned, alpha: float) -> Proof | str:
        if isinstance(learned, TrainedAdapter):
            return evaluate.prove_gain(learned.gain, alpha=alpha)
        if not learned.verdicts:  # it was proved elsewhere, and here is nothing to prove it with
            return Proof(threshold=0.0, agreement=0.0, bound=0.0, coverage=1.0, held_out=0)
        return evaluate.prove(learned.verdicts, min_agreement=self.task.min_agreement, alpha=alpha)

    async def _add(self, climb: Climb, rung: Learner, learned: Learned, course: Course) -> None:
        """Make a step of a student that proves itself, or note why it does not."""
        await self.evaluating()
        alpha = course.alpha / learned.tries
        proof = self._prove(learned, alpha)
        if isinstance(proof, str):
            climb.reasons.append(proof)
            return
        parameters = await self.run_sync(learned.parameters, proof.threshold)
        await self.run_sync(rung.load, parameters, self.task)  # what cannot be read back must not be announced
        step = Step(
            kind=rung.kind,
            parameters=parameters,
            agreement=proof.agreement,
            bound=proof.bound,
            coverage=proof.coverage,
            held_out=proof.held_out,
            baseline=proof.baseline,
            model=learned.model,
        )
        climb.steps.append(step)
        climb.left = frozenset(
            verdict.place
            for verdict in learned.verdicts
            if verdict.place >= 0 and (verdict.score < proof.threshold or verdict.score == -math.inf)
        )
