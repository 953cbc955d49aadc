"""Students that are models: how they are examined, and how few examples a cheap one needs."""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from tanuki_async._distill import evaluate
from tanuki_async._distill.bench import Bench
from tanuki_async._distill.course import Absent, Course, Lesson, NotNow, Outcome
from tanuki_async._distill.state import Task
from tanuki_async._errors import (
    AuthenticationError,
    BudgetExceededError,
    InputError,
    OutputError,
    PromptTooLongError,
    ProviderError,
    RefusalError,
    RequestRejectedError,
    SettingsError,
)
from tanuki_async._lines import compact
from tanuki_async._records import Head, JsonValue
from tanuki_async._route import Teacher
from tanuki_async.abc import Student
from tanuki_async.students import Verdict
from tanuki_async.students.in_context import AskedStudent, Recipe, choose, digest_of
from tanuki_async.students.local import label_of

logger = logging.getLogger("tanuki_async.distill")

COUNTS = (0, 4, 16)
"""How many examples a cheap model is shown; the fewest that reach the agreement serve."""
HELD_OUT = 300
"""Inputs that one candidate is asked about, at most."""
QUESTIONS = 400
"""Questions that one evaluation of a model asks, over all its candidates, at most."""
SCREEN = 40
"""Questions after which it is looked whether it makes sense to go on."""
ALIGNED = 50
"""Aligned inputs that a student is asked about; where it is wrong, it will not answer."""
AT_ONCE = 8
HOPELESS = 0.1
"""Chance at which a candidate is given up that could have proved itself."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A model with its prompt, which was examined."""

    verdicts: Sequence[Verdict]
    recipe: Recipe
    tries: int = 1

    @property
    def model(self) -> str:
        return self.recipe.model

    def parameters(self, threshold: float) -> bytes:
        return self.recipe.to_json()


def load_asked(parameters: bytes, task: Task) -> Student:
    """Make a student of what storage keeps of one that is a model. SettingsError where the model is not known here."""
    recipe, bench = Recipe.from_json(parameters), task.bench
    if bench is None:
        raise SettingsError(f"the student {recipe.model} cannot be asked here")
    who, head = bench.find(recipe.model), bench.head(recipe.examples)

    async def ask(inputs: Mapping[str, JsonValue]) -> JsonValue:
        return await bench.ask(who, head, inputs, "student")

    return AskedStudent(recipe.model, ask, withheld=recipe.withheld, clock=bench.desk.clock)


@dataclass(slots=True)
class Exam:
    """Asks a model what its teacher was asked. Raises Absent or NotNow where it cannot be asked at all."""

    course: Course
    bench: Bench
    who: Teacher
    lessons: Sequence[Lesson]
    asked: int = field(default=0, init=False)
    trouble: Exception | None = field(default=None, init=False)
    """Why it did not answer, the last time that it did not."""

    async def verdicts(self, head: Head, places: Sequence[int], *, alpha: float) -> list[Verdict] | str:
        """Examine on these lessons, or say why the agreement is not proved; as soon as that is clear."""
        found: list[Verdict] = []
        while len(found) < len(places):
            found += await self.each(head, places[len(found) : len(found) + SCREEN])
            if len(found) < len(places) and self._hopeless(found, len(places), alpha):
                if all(verdict.score == -math.inf for verdict in found):
                    return f"answered none of {len(found)} inputs: {self.trouble}"
                agreed = sum(verdict.agreed for verdict in found)
                return f"agreed with the teacher on {agreed} of {len(found)} inputs: too few to go on asking"
        proof = evaluate.prove(found, min_agreement=self.course.task.min_agreement, alpha=alpha)
        return proof if isinstance(proof, str) else found

    def _hopeless(self, found: Sequence[Verdict], total: int, alpha: float) -> bool:
        answered = [verdict for verdict in found if verdict.score > -math.inf]
        agreed = sum(verdict.agreed for verdict in answered)
        wanted = self.course.task.min_agreement
        if not answered or evaluate.upper_bound(agreed, len(answered), HOPELESS) < wanted:
            return True
        at_best = [*found, *[Verdict(1.0, True)] * (total - len(found))]
        return isinstance(evaluate.prove(at_best, min_agreement=wanted, alpha=alpha), str)

    async def each(self, head: Head, places: Sequence[int]) -> list[Verdict]:
        """Ask about each of these lessons, a few at a time."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(place: int) -> Verdict:
            async with gate:
                return await self._one(head, place)

        self.asked += len(places)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(place)) for place in places]
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
        return [task.result() for task in tasks]

    async def _one(self, head: Head, place: int) -> Verdict:
        lesson = self.lessons[place]
        try:
            answer = await self.bench.ask(self.who, head, lesson.inputs, "learning")
        except OutputError:
            return Verdict(1.0, False, place)
        except (RefusalError, PromptTooLongError, InputError, TimeoutError) as error:  # there it abstains
            self.trouble = error
            return Verdict(-math.inf, False, place)
        except (AuthenticationError, SettingsError) as error:
            raise Absent(str(error)) from error
        except RequestRejectedError as error:
            if error.status == 404:
                raise Absent(str(error)) from error
            self.trouble = error
            return Verdict(-math.inf, False, place)
        except (ProviderError, BudgetExceededError) as error:
            raise NotNow(f"{self.who.model} cannot be examined now: {error}") from error
        return Verdict(1.0, self._agrees(answer, lesson.output), place)

    def _agrees(self, answer: JsonValue, wanted: JsonValue) -> bool:
        task = self.course.task
        alike = label_of if task.closed else compact
        return alike(answer) == alike(wanted) or (task.match is not None and task.match(answer, wanted))

    async def withheld(self, head: Head, shown: frozenset[int]) -> tuple[str, ...]:
        """Return digests of aligned inputs that the model gets wrong though it is not shown the answer."""
        places = [place for place, lesson in enumerate(self.lessons) if lesson.aligned and place not in shown]
        wrong = [verdict.place for verdict in await self.each(head, places[-ALIGNED:]) if not verdict.agreed]
        return tuple(digest_of(self.lessons[place].inputs) for place in wrong)


class AskedLearner(ABC):
    """Makes students that are models. A model that was found to be absent stays so in this process."""

    kind: str

    def __init__(self, model: str) -> None:
        self.model = model
        self.name = f"{self.kind} {model}"
        self._absent: str | None = None

    def unavailable(self, task: Task) -> str | None:
        return self._absent or why_not_asked(self.model, task)

    async def learn(self, course: Course) -> Outcome:
        try:
            return await self._learn(course)
        except Absent as why:
            self._absent = str(why)
            raise

    @abstractmethod
    async def _learn(self, course: Course) -> Outcome:
        """Learn, or say why not. Raises Absent where the model cannot be asked or trained at all."""

    def load(self, parameters: bytes, task: Task) -> Student:
        return load_asked(parameters, task)


class InContextLearner(AskedLearner):
    """Shows a cheap model as few examples as it needs to agree with the teacher."""

    kind = "in_context"

    async def _learn(self, course: Course) -> Outcome:
        bench = bench_of(course.task)
        lessons, who, alpha = await course.lessons(), bench.find(self.model), course.alpha / len(COUNTS)
        shown = {count: await course.run_sync(_shown, lessons, count) for count in COUNTS}
        held = _held_out(course, lessons, frozenset(place for each in shown.values() for place in each))
        needed = evaluate.fewest_of(course.task.min_agreement, alpha)
        if len(held) < needed:
            return f"{len(held)} inputs are too few to examine {self.model} on; {needed} could be enough"
        exam = Exam(course, bench, who, lessons)
        heads = {count: bench.head([lessons[place].example for place in shown[count]]) for count in COUNTS}
        able = await _affordable(bench, who, heads[COUNTS[-1]], [lessons[place] for place in held])
        if able < needed:
            raise NotNow(f"examining {self.model} takes {needed} questions or more, and the budget has room for {able}")
        logger.info("%s: examining %s with at most %d questions", course.task.name, self.model, min(able, QUESTIONS))
        await course.evaluating()
        why = ""
        for count in COUNTS:
            places = held[: min(able, QUESTIONS) - exam.asked]
            if len(places) < needed:
                break
            verdicts = await exam.verdicts(heads[count], places, alpha=alpha)
            if isinstance(verdicts, str):
                why = f"{self.model} with {count} examples: {verdicts}"
                continue
            withheld = await exam.withheld(heads[count], frozenset(shown[count]))
            examples = tuple(lessons[place].example for place in shown[count])
            recipe = Recipe(kind=self.kind, model=self.model, examples=examples, withheld=withheld)
            return Asked(verdicts, recipe, tries=len(COUNTS))
        return why


def bench_of(task: Task) -> Bench:
    """Return the bench of a task that has one: only such tasks are learnt with models."""
    assert task.bench is not None
    return task.bench


def why_not_asked(model: str, task: Task) -> str | None:
    """Say why a model cannot be a student here, or None."""
    if task.bench is None:
        return f"{model} cannot be asked here"
    try:
        who = task.bench.find(model)
    except SettingsError as error:
        return str(error)
    if who.model in [teacher.model for teacher in task.bench.desk.teachers]:
        return f"{model} is the teacher already"
    if who.model.kind == "embedding":
        return f"{model} makes embeddings; it cannot answer"
    if untaken := task.bench.desk.spec.media - who.model.attachments:
        return f"{model} takes no {' and no '.join(sorted(f'{kind}s' for kind in untaken))}"
    return None


async def _affordable(bench: Bench, who: Teacher, head: Head, lessons: Sequence[Lesson]) -> int:
    try:
        return await bench.affordable(who, head, [lesson.inputs for lesson in lessons])
    except SettingsError as error:
        raise NotNow(str(error)) from error


def _shown(lessons: Sequence[Lesson], count: int) -> list[int]:
    """Choose examples: up to half of them aligned ones, the rest from calls."""
    aligned = [place for place, lesson in enumerate(lessons) if lesson.aligned]
    called = [place for place, lesson in enumerate(lessons) if not lesson.aligned]
    first = choose([(lessons[place].inputs, lessons[place].output) for place in aligned], count // 2)
    rest = choose([(lessons[place].inputs, lessons[place].output) for place in called], count - len(first))
    return [aligned[place] for place in first] + [called[place] for place in rest]


def _held_out(course: Course, lessons: Sequence[Lesson], shown: frozenset[int]) -> list[int]:
    """Draw inputs to examine on, of those that calls brought and that no candidate is shown."""
    places = range(len(lessons)) if course.left is None else sorted(course.left)
    free = [place for place in places if place not in shown and not lessons[place].aligned]
    return Random(course.seed).sample(free, min(HELD_OUT, len(free)))
