"""Functions are learnt once, served everywhere, taken back everywhere, whoever dies, conflicts or misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from random import Random
from typing import Any

import pytest

from tanuki_async._distill.course import Course
from tanuki_async._distill.learners import LocalLearner
from tanuki_async._distill.scheduler import POLL_SECONDS, Distiller
from tanuki_async._distill.state import State, Task
from tanuki_async._distill.training import BACK_OFF, LEASE_SECONDS
from tanuki_async._errors import NotOpenError, StorageError
from tanuki_async._lines import encode_example
from tanuki_async._records import Example, JsonValue
from tanuki_async.abc import Abstention, Lease, Student, Versioned
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.students import Verdict
from tanuki_async.testing import FakeClock

HASH = "ab" * 16
AFTER = 100


class Echo(Student):
    """Answers with the parameters it was loaded from."""

    def __init__(self, parameters: bytes) -> None:
        self.parameters = parameters

    async def answer(self, inputs: Mapping[str, JsonValue]) -> JsonValue | Abstention:
        return self.parameters.decode()


class Learned:
    def __init__(self, verdicts: Sequence[Verdict], name: str) -> None:
        self.verdicts, self._name = verdicts, name

    tries = 1
    model = None

    def parameters(self, threshold: float) -> bytes:
        return self._name.encode()


class ScriptedLearner:
    """Learns at once, with an agreement that the test sets; can hang or fail."""

    kind = "scripted"
    name = "scripted"

    def __init__(self) -> None:
        self.agreement = 1.0
        self.why_not: str | None = None
        self.error: Exception | None = None
        self.hanging: asyncio.Event | None = None
        self.started = asyncio.Event()
        self.lessons: list[Any] = []
        self.trainings = 0

    def unavailable(self, task: Task) -> str | None:
        return self.why_not

    async def learn(self, course: Course) -> Learned | str:
        self.trainings += 1
        lessons = self.lessons = list(await course.lessons())
        self.started.set()
        if self.hanging is not None:
            await self.hanging.wait()
        if self.error is not None:
            raise self.error
        right = round(self.agreement * len(lessons))
        verdicts = [Verdict(1.0 - place / 10_000, place < right) for place in range(len(lessons))]
        return Learned(verdicts, f"student {self.trainings}")

    def load(self, parameters: bytes, task: Task) -> Student:
        if parameters == b"torn":
            raise StorageError("torn")
        return Echo(parameters)


async def at_once(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run in place of a thread."""
    return function(*args, **kwargs)


def examples(count: int, start: int = 0, output: str = "x", source: Any = "call") -> list[bytes]:
    return [
        encode_example(Example(args=(f"text {place}",), kwargs={}, output=output, source=source, at="2026"))
        for place in range(start, start + count)
    ]


def make_task(**changes: Any) -> Task:
    options: dict[str, Any] = {
        "hash": HASH,
        "name": "f",
        "closed": True,
        "inputs_of": lambda args, kwargs: {"text": args[0]},
        "student_model": "scripted",
        "distill_after": AFTER,
    }
    return Task(**{**options, **changes})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def storage(clock: FakeClock) -> MemoryStorage:
    return MemoryStorage(clock=clock)


@pytest.fixture
def learner() -> ScriptedLearner:
    return ScriptedLearner()


@pytest.fixture
async def open_distiller(
    storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> AsyncIterator[Callable[..., Distiller]]:
    opened: list[Distiller] = []

    def make(owner: str = "one", **changes: Any) -> Distiller:
        options: dict[str, Any] = {"learners": {"scripted": learner}, "random": Random(0), "run_sync": at_once}
        opened.append(Distiller(changes.pop("storage", storage), clock=clock, owner=owner, **{**options, **changes}))
        return opened[-1]

    yield make
    for distiller in opened:
        await distiller.aclose()


async def write(storage: MemoryStorage, lines: list[bytes], *distillers: Distiller, dataset: str = "PATCHES") -> None:
    written = await storage.append(f"{HASH}/{dataset}", lines)
    for distiller in distillers:
        distiller.on_written(f"{HASH}/{dataset}", written.written)


async def settled(clock: FakeClock, *seen: tuple[Distiller, Task]) -> None:
    """Let every step end and every process notice it."""
    for _ in range(2):
        for distiller, task in seen:
            distiller.student(task)  # a call: it keeps the polling going
        await clock.advance(POLL_SECONDS)


async def serving(
    distiller: Distiller, storage: MemoryStorage, clock: FakeClock, task: Task | None = None
) -> tuple[Task, Student]:
    task = task or make_task()
    await distiller.watch(task)
    await write(storage, examples(AFTER + 1), distiller)
    await settled(clock, (distiller, task))
    student = distiller.student(task)
    assert student is not None
    return task, student


async def test_nothing_is_learnt_up_to_the_threshold(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    distiller, task = open_distiller(), make_task()
    await distiller.watch(task)

    await write(storage, examples(AFTER), distiller)
    await settled(clock, (distiller, task))

    assert learner.trainings == 0
    assert distiller.student(task) is None
    assert (await distiller.state(task)).reason == "100 examples were recorded; learning starts at 101"


async def test_one_more_example_trains_proves_and_serves(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock
) -> None:
    distiller = open_distiller()
    task, student = await serving(distiller, storage, clock)

    state = await distiller.state(task)

    assert await student.answer({}) == "student 1"
    assert (state.phase, state.kind, state.trainings, state.trained_on) == ("serving", "scripted", 1, 101)
    assert state.agreement == 1.0
    assert state.bound is not None
    assert state.bound >= task.min_agreement
    assert distiller.statistics().trained == 1


async def test_one_of_two_processes_trains_and_both_serve(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    one, two, task = open_distiller("one"), open_distiller("two"), make_task()
    await one.watch(task)
    await two.watch(task)

    await write(storage, examples(AFTER + 1), one, two)
    await settled(clock, (one, task), (two, task))

    assert learner.trainings == 1
    assert one.student(task) is not None
    assert two.student(task) is not None


async def test_a_student_trained_before_serves_at_once_unless_told_not_to_look(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock
) -> None:
    await serving(open_distiller("one"), storage, clock)

    later, blind = open_distiller("later"), open_distiller("blind")
    task, unlooked = make_task(), make_task(ignore_finetune_fetching=True)
    await later.watch(task)
    await blind.watch(unlooked)

    assert later.student(task) is not None
    assert blind.student(unlooked) is None


async def test_the_next_training_waits_for_twice_as_many_examples(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    distiller = open_distiller()
    task, first = await serving(distiller, storage, clock)

    await write(storage, examples(99, start=500), distiller)
    await settled(clock, (distiller, task))
    assert learner.trainings == 1
    await write(storage, examples(1, start=900), distiller)
    await settled(clock, (distiller, task))

    assert learner.trainings == 2
    assert distiller.student(task) is not first
    assert (await distiller.state(task)).trainings == 2


async def test_the_old_student_serves_while_a_newer_is_trained(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    distiller = open_distiller()
    task, first = await serving(distiller, storage, clock)
    learner.hanging = asyncio.Event()

    await write(storage, examples(200, start=500), distiller)
    await settled(clock, (distiller, task))

    assert (await distiller.state(task)).phase == "training"
    assert distiller.student(task) is first
    learner.agreement = 0.05
    learner.hanging.set()
    await settled(clock, (distiller, task))
    assert (await distiller.state(task)).phase == "serving"
    assert distiller.student(task) is first


async def test_what_does_not_qualify_stays_with_the_teacher_and_says_why(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    learner.agreement = 0.2
    distiller, task = open_distiller(), make_task()
    await distiller.watch(task)

    await write(storage, examples(AFTER + 1), distiller)
    await settled(clock, (distiller, task))

    state = await distiller.state(task)
    assert (state.phase, state.trainings) == ("collecting", 1)
    assert "not enough to prove 90%" in state.reason
    assert distiller.student(task) is None


async def test_aligned_answers_win_and_later_answers_win(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    distiller, task = open_distiller(), make_task()
    await distiller.watch(task)
    await write(storage, examples(1, output="aligned", source="align"), dataset="SYMBOLIC_ALIGNMENTS")
    await write(storage, [*examples(60, output="early"), *examples(40, start=1, output="late")])

    await distiller.distill(task)

    outputs = [lesson.output for lesson in learner.lessons]
    assert outputs == ["aligned", *["late"] * 40, *["early"] * 19]
    assert [lesson.aligned for lesson in learner.lessons] == [True, *[False] * 59]


class Foreign(MemoryStorage):
    """Also holds lines that this release cannot read."""

    async def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        async for lines in super().scan(name, start=start):
            yield [b'{"v":7}', *lines, b"torn"]


async def test_lines_that_cannot_be_read_are_left_out(
    open_distiller: Any, clock: FakeClock, learner: ScriptedLearner
) -> None:
    storage = Foreign(clock=clock)
    distiller, task = open_distiller(storage=storage), make_task()
    await write(storage, examples(50))

    await distiller.distill(task)

    assert len(learner.lessons) == 50


async def test_a_forced_step_says_how_many_examples_are_missing(open_distiller: Any, storage: MemoryStorage) -> None:
    distiller, task = open_distiller(), make_task()
    await write(storage, examples(12))

    state = await distiller.distill(task)

    assert state.phase == "collecting"
    assert state.reason == "12 of 20 different inputs were recorded; 8 are missing"


async def test_a_forced_step_needs_no_threshold(open_distiller: Any, storage: MemoryStorage) -> None:
    distiller, task = open_distiller(), make_task(distill_after=10_000)
    await write(storage, examples(150))

    state = await distiller.distill(task)

    assert state.phase == "serving"
    assert distiller.student(task) is not None


async def test_repeats_of_the_same_inputs_are_not_read_again_and_again(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    scans: list[str] = []
    scan = storage.scan

    def counted(name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        scans.append(name)
        return scan(name, start=start)

    storage.scan = counted  # type: ignore[method-assign]
    distiller, task = open_distiller(), make_task()
    await distiller.watch(task)

    await write(storage, [*examples(60), *examples(60, output="other")], distiller)
    await settled(clock, (distiller, task))
    await write(storage, examples(10, output="third"), distiller)
    await settled(clock, (distiller, task))

    assert learner.trainings == 0
    assert len(scans) == 2
    assert (await distiller.state(task)).reason == "60 of 101 different inputs were recorded; 41 are missing"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"student_model": None}, "student_model is None"),
        ({"student_model": "openai:gpt-x"}, "'openai:gpt-x' is not available as a way of learning"),
        ({"student_model": ("lora:x", "together:y")}, "'lora:x' is not available"),
        ({"ignore_finetuning": True}, "ignore_finetuning is set"),
    ],
)
async def test_a_way_of_learning_that_is_not_there_is_a_reason_not_an_error(
    open_distiller: Any, storage: MemoryStorage, changes: dict[str, Any], reason: str
) -> None:
    distiller, task = open_distiller(), make_task(**changes)
    await write(storage, examples(AFTER + 50))

    assert reason in (await distiller.distill(task)).reason
    assert reason in (await distiller.state(task)).reason
    assert distiller.student(task) is None


async def test_of_a_list_the_first_that_can_learn_is_taken(open_distiller: Any, storage: MemoryStorage) -> None:
    distiller, task = open_distiller(), make_task(student_model=("lora:x", "scripted"))
    await write(storage, examples(150))

    assert (await distiller.distill(task)).kind == "scripted"


async def test_auto_needs_a_closed_answer(open_distiller: Any) -> None:
    distiller = open_distiller(learners={"local": LocalLearner()})

    state = await distiller.state(make_task(student_model="auto", closed=False))

    assert "the answer is not closed" in state.reason


async def test_a_lease_of_a_dead_process_runs_out_and_another_takes_over(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    hanging = ScriptedLearner()
    hanging.hanging = asyncio.Event()
    doomed, task = open_distiller("doomed", learners={"scripted": hanging}), make_task()
    await doomed.watch(task)
    await write(storage, examples(AFTER + 1), doomed)
    await hanging.started.wait()
    storage_claim = storage.claim  # a frozen process renews nothing: its claims do not arrive

    async def claim(key: str, owner: str, *, seconds: float) -> Any:
        return None if owner == "doomed" else await storage_claim(key, owner, seconds=seconds)

    storage.claim = claim  # type: ignore[method-assign]
    heir = open_distiller("heir")
    await heir.watch(task)
    await settled(clock, (heir, task))
    assert learner.trainings == 0
    for _ in range(4):
        heir.student(task)
        await clock.advance(LEASE_SECONDS / 2)
    await settled(clock, (heir, task))

    assert learner.trainings == 1
    assert heir.student(task) is not None
    assert (await heir.state(task)).phase == "serving"


async def test_whoever_was_overtaken_changes_nothing(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    learner.hanging = asyncio.Event()
    distiller, task = open_distiller(), make_task()
    await distiller.watch(task)
    await write(storage, examples(AFTER + 1), distiller)
    await learner.started.wait()
    found = await storage.get(task.state_key)
    assert found is not None
    other = State.from_json(found.value.replace(b'"trainer":"one:1"', b'"trainer":"other:2"'))
    await storage.put(task.state_key, other.to_json(), version=found.version)

    learner.hanging.set()
    await settled(clock, (distiller, task))

    state = await distiller.state(task)
    assert (state.phase, state.trainer) == ("training", "other:2")
    assert await storage.keys(f"{HASH}/student") in ([], [task.student_key(0)])


class Contended(MemoryStorage):
    """Lets somebody else write just before each of the first puts of a state."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.conflicts = 3

    async def put(self, key: str, value: bytes, *, version: str | None) -> str | None:
        if "/state-" in key and self.conflicts:
            self.conflicts -= 1
            found = await self.get(key)
            await super().put(key, found.value if found else State().to_json(), version=version)
        return await super().put(key, value, version=version)


async def test_a_conflict_is_tried_again(open_distiller: Any, clock: FakeClock) -> None:
    storage = Contended(clock)
    distiller = open_distiller(storage=storage)

    await serving(distiller, storage, clock)

    assert storage.conflicts == 0


async def disagree(distiller: Distiller, task: Task, times: int = 10) -> None:
    for _ in range(times):
        await distiller.audited(task, agreed=False)


async def test_a_revert_reaches_the_other_process(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock
) -> None:
    one, two = open_distiller("one"), open_distiller("two")
    task, _ = await serving(one, storage, clock)
    await two.watch(task)
    assert two.student(task) is not None

    await disagree(one, task)
    assert one.student(task) is None
    await settled(clock, (two, task))

    assert two.student(task) is None
    state = await two.state(task)
    assert state.phase == "reverted"
    assert "audited answers agreed" in state.reason
    assert one.statistics().reverted == 1


async def test_after_a_revert_the_next_doubling_learns_again(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock
) -> None:
    distiller = open_distiller()
    task, _ = await serving(distiller, storage, clock)
    await disagree(distiller, task)

    await write(storage, examples(200, start=500), distiller)
    await settled(clock, (distiller, task))

    state = await distiller.state(task)
    assert (state.phase, state.trainings, state.audits.asked) == ("serving", 2, 0)


async def test_audits_of_two_processes_add_up(open_distiller: Any, storage: MemoryStorage, clock: FakeClock) -> None:
    one, two = open_distiller("one"), open_distiller("two")
    task, _ = await serving(one, storage, clock)
    await two.watch(task)

    for distiller in (one, two):
        for _ in range(5):
            await distiller.audited(task, agreed=True)
    await one.fault(task)
    await settled(clock, (one, task), (two, task))

    audits = (await one.state(task)).audits
    assert (audits.asked, audits.agreed, audits.faults) == (10, 10, 1)


async def test_audits_are_a_share_of_the_answers(open_distiller: Any, storage: MemoryStorage, clock: FakeClock) -> None:
    distiller = open_distiller()
    task = make_task(audit_rate=0.25)
    await distiller.watch(task)

    assert 200 < sum(distiller.due_audit(task) for _ in range(1000)) < 300


class Broken(MemoryStorage):
    """Fails when told to."""

    down = False

    async def get(self, key: str) -> Versioned | None:
        if self.down:
            raise StorageError("storage is down")
        return await super().get(key)


async def test_a_bad_student_is_dismissed_here_even_while_storage_is_down(
    open_distiller: Any, clock: FakeClock
) -> None:
    storage = Broken(clock=clock)
    distiller = open_distiller(storage=storage)
    task, _ = await serving(distiller, storage, clock)
    storage.down = True

    await disagree(distiller, task)

    assert distiller.student(task) is None
    storage.down = False
    await settled(clock, (distiller, task))
    assert (await distiller.state(task)).phase == "reverted"


async def test_storage_that_is_down_delays_but_never_raises_into_a_call(open_distiller: Any, clock: FakeClock) -> None:
    storage = Broken(clock=clock)
    first = open_distiller(storage=storage)
    task, _ = await serving(first, storage, clock)
    storage.down = True
    second = open_distiller("two", storage=storage)

    await second.watch(task)
    assert second.student(task) is None
    with pytest.raises(StorageError, match="down"):
        await second.state(task)
    storage.down = False
    await settled(clock, (second, task))

    assert second.student(task) is not None
    assert second.statistics().unread >= 1


async def test_storage_that_is_down_is_told_once_in_one_line(
    open_distiller: Any, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Broken(clock=clock)
    distiller, task = open_distiller(storage=storage), make_task()
    await distiller.watch(task)
    for _ in range(2):
        storage.down = True
        for _ in range(3):
            await settled(clock, (distiller, task))
        storage.down = False
        await settled(clock, (distiller, task))

    told = [each for each in caplog.records if "could not be read" in each.getMessage()]
    assert [(each.levelname, each.exc_info) for each in told] == [("WARNING", None)] * 2
    assert distiller.statistics().unread >= 6


async def test_a_malformed_student_is_refused_once_and_the_teacher_answers(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock
) -> None:
    task, _ = await serving(open_distiller("one"), storage, clock)
    key = task.student_key(0)
    found = await storage.get(key)
    assert found is not None
    await storage.put(key, b"torn", version=found.version)

    later = open_distiller("later")
    await later.watch(task)
    for _ in range(3):
        await settled(clock, (later, task))

    assert later.student(task) is None
    assert later.statistics().unread == 1


async def test_a_state_that_is_no_state_leaves_the_teacher_answering(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock
) -> None:
    distiller, task = open_distiller(), make_task()
    await storage.put(task.state_key, b"{nonsense", version=None)

    await distiller.watch(task)

    assert distiller.student(task) is None
    with pytest.raises(StorageError, match="not a distillation state"):
        await distiller.state(task)


async def test_another_prompt_version_retires_the_student_and_learns_again(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    await serving(open_distiller("old"), storage, clock)
    learner.hanging = asyncio.Event()
    new, task = open_distiller("new"), make_task(template_version=2)

    await new.watch(task)

    assert new.student(task) is None
    learner.hanging.set()
    await settled(clock, (new, task))
    state = await new.state(task)
    assert (state.phase, state.template_version, state.looks) == ("serving", 2, 2)


async def test_an_older_release_leaves_a_newer_student_alone(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    await serving(open_distiller("new"), storage, clock, make_task(template_version=2))
    old, task = open_distiller("old"), make_task(template_version=1)
    await old.watch(task)
    await write(storage, examples(500, start=500), old)
    await settled(clock, (old, task))

    assert old.student(task) is None
    assert learner.trainings == 1
    assert (await old.state(task)).template_version == 2


async def test_a_failed_training_is_counted_and_tried_again_after_a_pause(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    learner.error = RuntimeError("no memory")
    one, two, task = open_distiller("one"), open_distiller("two"), make_task()
    await one.watch(task)
    await two.watch(task)
    await write(storage, examples(AFTER + 1), one, two)
    for _ in range(5):
        await settled(clock, (one, task), (two, task))

    state = await one.state(task)
    assert (state.phase, state.failures, state.trainings) == ("collecting", 1, 0)
    assert "no memory" in state.reason
    assert learner.trainings == 1
    learner.error = None
    await clock.advance(BACK_OFF)
    await settled(clock, (one, task), (two, task))
    assert one.student(task) is not None
    assert (await one.state(task)).failures == 0


async def test_closing_while_training_gives_the_lease_back_and_leaves_no_task(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    learner.hanging = asyncio.Event()
    before = asyncio.all_tasks()
    distiller, task = open_distiller(), make_task()
    await distiller.watch(task)
    await write(storage, examples(AFTER + 1), distiller)
    await learner.started.wait()

    await distiller.aclose()
    await distiller.aclose()

    assert asyncio.all_tasks() == before
    assert await storage.claim(task.lease_key, "next", seconds=1) is not None
    found = await storage.get(task.state_key)
    assert found is not None
    assert State.from_json(found.value).phase == "collecting"
    with pytest.raises(NotOpenError):
        await distiller.watch(make_task(hash="cd" * 16))


async def test_a_cancelled_forced_step_goes_on_for_others(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    learner.hanging = asyncio.Event()
    distiller, task = open_distiller(), make_task()
    await write(storage, examples(150))
    impatient = asyncio.create_task(distiller.distill(task))
    await learner.started.wait()
    patient = asyncio.create_task(distiller.distill(task))
    await asyncio.sleep(0)

    impatient.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await impatient
    learner.hanging.set()

    assert (await patient).phase == "serving"
    assert learner.trainings == 1


async def test_closing_tells_storage_what_audits_showed(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock
) -> None:
    distiller = open_distiller()
    task, _ = await serving(distiller, storage, clock)
    await distiller.audited(task, agreed=True)

    await distiller.aclose()

    found = await storage.get(task.state_key)
    assert found is not None
    assert State.from_json(found.value).audits.asked == 1


async def test_a_thousand_first_calls_read_storage_once(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock
) -> None:
    reads: list[str] = []
    count = storage.count

    async def counted(name: str) -> int:
        reads.append(name)
        return await count(name)

    storage.count = counted  # type: ignore[method-assign]
    distiller, task = open_distiller(), make_task()

    watched = await asyncio.gather(*[distiller.watch(task) for _ in range(1000)])

    assert len(set(map(id, watched))) == 1
    assert len(reads) == 2


async def test_a_function_that_is_not_called_is_not_polled(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock
) -> None:
    distiller = open_distiller()
    task, _ = await serving(distiller, storage, clock)
    await clock.advance(3 * POLL_SECONDS)
    reads: list[str] = []
    get = storage.get

    async def read(key: str) -> Versioned | None:
        reads.append(key)
        return await get(key)

    storage.get = read  # type: ignore[method-assign]
    await clock.advance(10 * POLL_SECONDS)
    assert reads == []
    distiller.student(task)
    await clock.advance(POLL_SECONDS)

    assert reads == [task.state_key]


async def test_the_local_student_is_learnt_from_recorded_lines(
    storage: MemoryStorage, open_distiller: Any, clock: FakeClock
) -> None:
    rng = Random(1)
    lines = []
    for _ in range(150):
        kind = rng.choice(["bread cheese soup", "goal match team"])
        text = f"{rng.choice(kind.split())} {rng.choice(kind.split())} {rng.choice('abcdefghij')}{rng.random():.3f}"
        output = "food" if "soup" in kind else "sport"
        lines.append(encode_example(Example(args=(text,), kwargs={}, output=output, source="call", at="2026")))
    distiller = open_distiller(learners={"local": LocalLearner()}, run_sync=asyncio.to_thread)
    task = make_task(student_model="auto")
    await write(storage, lines)

    state = await distiller.distill(task)

    assert state.phase == "serving"
    student = distiller.student(task)
    assert await student.answer({"text": "soup cheese a0.123"}) == "food"


class Flaky(MemoryStorage):
    """Fails to renew leases when told to."""

    failures = 0

    async def claim(self, key: str, owner: str, *, seconds: float) -> Lease | None:
        if self.failures:
            self.failures -= 1
            raise StorageError("storage is down")
        return await super().claim(key, owner, seconds=seconds)


@pytest.mark.parametrize(("failures", "lease"), [(1, "kept"), (9, "lost")])
async def test_a_lease_survives_a_short_outage_of_storage_and_not_a_long_one(
    open_distiller: Any, clock: FakeClock, learner: ScriptedLearner, failures: int, lease: str
) -> None:
    storage = Flaky(clock=clock)
    learner.hanging = asyncio.Event()
    distiller, task = open_distiller(storage=storage), make_task()
    await distiller.watch(task)
    await write(storage, examples(AFTER + 1), distiller)
    await learner.started.wait()

    storage.failures = failures
    await clock.advance(1.4 * LEASE_SECONDS)
    storage.failures = 0
    learner.hanging.set()
    await settled(clock, (distiller, task))

    assert learner.trainings == (1 if lease == "kept" else 2)
    assert (await distiller.state(task)).phase == "serving"


async def test_a_step_that_cannot_even_begin_is_counted_and_tried_later(
    open_distiller: Any, clock: FakeClock, learner: ScriptedLearner
) -> None:
    storage = Flaky(clock=clock)
    storage.failures = 1
    distiller, task = open_distiller(storage=storage), make_task()
    await distiller.watch(task)

    await write(storage, examples(AFTER + 1), distiller)
    await settled(clock, (distiller, task))
    assert (distiller.statistics().failed, learner.trainings) == (1, 0)
    await clock.advance(BACK_OFF)
    await settled(clock, (distiller, task))

    assert learner.trainings == 1


async def test_examples_written_before_the_first_look_are_not_learnt_from_too_early(
    open_distiller: Any, storage: MemoryStorage, clock: FakeClock, learner: ScriptedLearner
) -> None:
    learner.why_not = "no way"
    distiller, task = open_distiller(), make_task()
    watching = asyncio.create_task(distiller.watch(task))
    await asyncio.sleep(0)

    await write(storage, examples(AFTER + 50), distiller)
    await watching
    await settled(clock, (distiller, task))

    assert distiller.statistics().failed == 0
    assert learner.trainings == 0


async def test_closing_during_a_forced_step_tells_whoever_waits_for_it(
    open_distiller: Any, storage: MemoryStorage, learner: ScriptedLearner
) -> None:
    learner.hanging = asyncio.Event()
    distiller, task = open_distiller(), make_task()
    await write(storage, examples(150))
    waiting = asyncio.create_task(distiller.distill(task))
    await learner.started.wait()

    await distiller.aclose()

    with pytest.raises(NotOpenError, match="closed while f was being distilled"):
        await waiting


async def test_an_extra_installed_later_is_found_by_a_forced_step(
    open_distiller: Any, storage: MemoryStorage, learner: ScriptedLearner
) -> None:
    learner.why_not = "scikit-learn is not installed"
    distiller, task = open_distiller(), make_task()
    await write(storage, examples(150))
    assert (await distiller.distill(task)).reason == "scikit-learn is not installed"

    learner.why_not = None

    assert (await distiller.distill(task)).phase == "serving"
