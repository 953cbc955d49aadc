"""Students that are trained at a provider: one job per training, whoever starts it, found again by its tag."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from hashlib import blake2b, sha256
from random import Random

from tanuki_async._distill import evaluate
from tanuki_async._distill.asked import HELD_OUT, Asked, AskedLearner, Exam, bench_of
from tanuki_async._distill.course import Absent, Course, Lesson, NotNow, Outcome, Pending
from tanuki_async._distill.state import Task
from tanuki_async._errors import (
    AuthenticationError,
    ProviderError,
    RequestRejectedError,
    SettingsError,
)
from tanuki_async._lines import compact
from tanuki_async._records import Job, Training
from tanuki_async._route import Teacher
from tanuki_async.abc import Tuning
from tanuki_async.students.in_context import Recipe

logger = logging.getLogger("tanuki_async.distill")

FEWEST_LINES = 10
"""Lines below which providers refuse to train."""
MOST_TRAININGS = 32
"""Trainings of one function: each is due with twice as many examples as the one before."""
FIRST_LOOK, LONGEST_LOOK = 15.0, 600.0
"""Seconds between two looks at a training: the first, which grows by half each time, and the longest."""


class FineTuneLearner(AskedLearner):
    """Has a provider train a model on the recorded calls, as live prompts would show them."""

    kind = "fine_tune"

    async def _learn(self, course: Course) -> Outcome:
        bench = bench_of(course.task)
        who = bench.find(self.model)
        tuning = who.provider.tuning
        assert tuning is not None
        job = await self._job(course, who, tuning)
        if isinstance(job, str):
            return job
        if job.status == "running":
            seconds = min(FIRST_LOOK * 1.5**course.polls, LONGEST_LOOK)
            return Pending(job.id, f"{self.model} is being trained: {job.id} is {job.told}", seconds)
        if job.status != "succeeded" or job.model is None:
            return f"the training {job.id} of {self.model} ended as {job.told}: {job.reason or 'no reason was given'}"
        return await self._examined(course, job, f"{who.provider.name}:{job.model}")

    async def trained_before(self, task: Task) -> tuple[Job, int] | None:
        """Look at the provider for the latest training of this function in its environment that succeeded.

        Return it with its number; None where there is none, or where the provider does not tell.
        """
        bench = bench_of(task)
        tuning = bench.find(self.model).provider.tuning
        assert tuning is not None
        try:
            listed = await tuning.jobs(bench.http)
        except (ProviderError, SettingsError) as error:
            logger.debug("%s: whether it was trained before is not known: %s", task.name, error)
            return None
        ready = [job for job in listed if job.status == "succeeded" and job.model]
        numbered = [(job, number_in(job.tag or "", task, self.model)) for job in ready]
        found = [(job, number) for job, number in numbered if number is not None]
        return max(found, key=lambda each: each[1]) if found else None

    async def _job(self, course: Course, who: Teacher, tuning: Tuning) -> Job | str:
        """Look at the training, or start it; safe to be repeated by anyone at any time."""
        http = bench_of(course.task).http
        try:
            if course.job is not None:
                job = await tuning.get(course.job, http)
                if job.tag in (None, tag_of(course.task, course.number, self.model)):
                    return job  # else it was trained for another version of the prompt
            training = await self._training(course, who)
            if isinstance(training, str):
                return training
            job = await tuning.start(training, http)
        except (AuthenticationError, SettingsError) as error:
            raise Absent(f"{self.model} cannot be trained: {error}") from error
        except RequestRejectedError as error:
            if course.job is None and (error.code == "training_not_available" or error.status == 404):
                raise Absent(f"{self.model} cannot be trained for this account: {error}") from error
            return f"{self.model} cannot be trained: {error}"
        except ProviderError as error:
            raise NotNow(f"{self.model} cannot be trained now: {error}") from error
        logger.info(
            "%s: %s is being trained on %d lines: %s", course.task.name, self.model, len(training.lines), job.id
        )
        return job

    async def _training(self, course: Course, who: Teacher) -> Training | str:
        lessons, bench = await course.lessons(), bench_of(course.task)
        held = frozenset(_held_out(course, lessons))
        needed = evaluate.fewest_of(course.task.min_agreement, course.alpha)
        if len(held) < needed:
            return f"{len(held)} held-out inputs are too few to examine {self.model} on; {needed} could be enough"
        taught = [lesson.example for place, lesson in enumerate(lessons) if place not in held]
        if len(taught) < FEWEST_LINES:
            return f"{len(taught)} examples are too few to train {self.model}; it takes {FEWEST_LINES}"
        lines = await course.run_sync(lambda: tuple(line for line in map(bench.line, taught) if line is not None))
        return Training(base=who.model.name, tag=tag_of(course.task, course.number, self.model), lines=lines)

    async def _examined(self, course: Course, job: Job, model: str) -> Outcome:
        bench, lessons = bench_of(course.task), await course.lessons()
        try:
            who = bench.find(model)
        except SettingsError as error:
            return f"{model} was trained, but cannot be asked: {error}"
        head = bench.head()
        held = _held_out(course, lessons)
        if course.left is not None:
            held = [place for place in held if place in course.left]
        if len(held) < evaluate.fewest_of(course.task.min_agreement, course.alpha) and course.left is None:
            # Whoever began this training had the examples to prove it, so it was trained and is used elsewhere.
            return Asked([], Recipe(kind=self.kind, model=model, job=job.id))
        places = Random(course.seed).sample(held, min(HELD_OUT, len(held)))
        exam = Exam(course, bench, who, lessons)
        logger.info("%s: examining %s with at most %d questions", course.task.name, model, len(places))
        await course.evaluating()
        verdicts = await exam.verdicts(head, places, alpha=course.alpha)
        if isinstance(verdicts, str):
            return f"{model}: {verdicts}"
        withheld = await exam.withheld(head, frozenset())
        return Asked(verdicts, Recipe(kind=self.kind, model=model, withheld=withheld, job=job.id))


def tag_of(task: Task, number: int, model: str) -> str:
    """Return the mark by which any process finds this training again: at most 40 of a-z, 0-9 and -."""
    base = sha256(model.encode()).hexdigest()[:4]
    tag = f"tanuki-{task.hash[:12]}-e{task.environment_id}-n{number}-t{task.template_version}-{base}"
    return tag if len(tag) <= 40 else f"tanuki-{sha256(tag.encode()).hexdigest()[:32]}"


def number_in(tag: str, task: Task, model: str) -> int | None:
    """Return the number in a tag that `tag_of` made for this task and model; None for any other tag."""
    digits = re.search(r"-n(\d+)-", tag)
    likely = (int(digits[1]),) if digits else range(MOST_TRAININGS)  # a long tag is a digest, which does not tell
    return next((number for number in likely if tag == tag_of(task, number, model)), None)


def _held_out(course: Course, lessons: Sequence[Lesson]) -> list[int]:
    """Return the places of inputs that are never trained on: in every process the same, however many there are.

    A share of all that calls brought, by a digest of each input: about as many as an examination asks about of those
    with which this training is due, at least a tenth and at most half.
    """
    due = course.task.distill_after * 2**course.number
    share = min(0.5, max(0.1, HELD_OUT / due))
    return [
        place
        for place, lesson in enumerate(lessons)
        if not lesson.aligned
        and int.from_bytes(blake2b(compact(lesson.inputs), digest_size=4, key=b"held out").digest()) < share * 2**32
    ]
