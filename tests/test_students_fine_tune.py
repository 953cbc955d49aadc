"""A tunable model is trained once by whoever holds the lease, found again by whoever comes later, proved and served."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from _jobs import OpenAIJobs, fixture
from _learning import Models, fill, serving, until
from _spine import settings_for

import tanuki_async as tanuki
from tanuki_async import Tanuki
from tanuki_async._distill.scheduler import POLL_SECONDS
from tanuki_async._distill.state import Task
from tanuki_async._distill.tuned import number_in, tag_of
from tanuki_async._records import Reply
from tanuki_async.providers import _bedrock_control
from tanuki_async.providers.openai import OpenAI
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import FakeClock, Fault, LoopbackServer

BASE = "openai:gpt-4.1-mini-2025-04-14"
TUNED = "ft:gpt-4.1-mini-2025-04-14:acme:"


def truth(text: str) -> str:
    return f"{len(text)} letters, {text[::-1]}"


@tanuki.patch(student_model=BASE, distill_after=200, timeout=5)
async def spell(text: str) -> str:
    """Tell how long a text is, and write it backwards."""
    ...


WORDS = [f"word {place} {'x' * (place % 7)}" for place in range(240)]


@pytest.fixture
def models() -> Models:
    return Models(truth)


@pytest.fixture
async def server(models: Models) -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(models) as running:
        yield running


@pytest.fixture
def jobs(server: LoopbackServer) -> OpenAIJobs:
    return OpenAIJobs(server)


@pytest.fixture
async def storage(jobs: OpenAIJobs) -> MemoryStorage:
    storage = MemoryStorage()
    await fill(storage, spell, WORDS, truth)
    return storage


def opened(server: LoopbackServer, storage: MemoryStorage, **settings: Any) -> Tanuki:
    """A Tanuki with the server as two vendors: the teacher's, and the one that trains."""
    own = settings_for(server, storage, audit_rate=0.0, **settings)
    return Tanuki(**{**own, "providers": [*own["providers"], OpenAI("sk-test", server.url)]})


async def trained(clock: FakeClock, f: Any = spell) -> tanuki.Status:
    """Call now and then until the training ends."""
    for _ in range(200):
        status = await tanuki.status(f)
        if status.phase == "evaluating":
            await asyncio.sleep(0.005)  # over real connections: time must not run away meanwhile
        elif status.phase != "training":
            return status
        else:
            await f("now and then")
            await clock.advance(20.0)
    raise AssertionError(status)


async def test_it_is_trained_looked_at_proved_and_served(
    server: LoopbackServer, storage: MemoryStorage, models: Models, jobs: OpenAIJobs, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    async with opened(server, storage, clock=clock) as running:
        first = await tanuki.distill(spell)
        assert (first.phase, first.student, first.trainings) == ("training", None, 0)
        assert first.reason == f"{BASE} is being trained: ftjob-1 is validating_files"
        assert await spell("meanwhile") == truth("meanwhile")
        seen = set()
        while (status := await tanuki.status(spell)).phase == "training":
            seen.add(status.reason.rpartition(" ")[2])
            await spell("meanwhile")
            await clock.advance(20.0)
        await trained(clock)
        status = await serving(running, spell)
        asked = models.asked["small"]
        assert await spell("after") == truth("after")

    assert {"queued", "running", "paused"} <= seen
    assert (status.student, status.student_model) == ("fine_tune", f"openai:{jobs.jobs['ftjob-1']['fine_tuned_model']}")
    assert status.bound is not None
    assert status.bound >= 0.9
    assert "see whether the terms of that vendor allow it" in status.reason
    assert caplog.text.count("see whether the terms of that vendor allow it") == 1
    assert models.asked["small"] == asked
    assert len(jobs.jobs) == 1
    looks = [each for each in server.requests if getattr(each, "path", "") == "/v1/fine_tuning/jobs/ftjob-1"]
    assert len(looks) == 4


async def test_it_is_trained_on_live_prompts_and_never_on_what_it_is_examined_on(
    server: LoopbackServer, storage: MemoryStorage, jobs: OpenAIJobs
) -> None:
    clock = FakeClock()
    async with opened(server, storage, clock=clock) as running:
        await tanuki.distill(spell)
        await trained(clock)
        await serving(running, spell)
        await spell("live")

    lines = [json.loads(line)["messages"] for line in jobs.files["file-1"][2].splitlines()]
    asked = [each for each in server.requests if getattr(each, "model", "").startswith("ft:")]
    live = asked[-1].messages
    assert live[0]["content"] == lines[0][0]["content"]
    assert [message["role"] for message in lines[0]] == ["system", "user", "assistant"]
    taught = {line[1]["content"] for line in lines}
    examined = {each.messages[-1]["content"] for each in asked[:-1]}
    assert len(taught | examined) >= 240
    assert not taught & examined


async def test_a_restart_finds_the_training_and_goes_on(
    server: LoopbackServer, storage: MemoryStorage, jobs: OpenAIJobs
) -> None:
    async with opened(server, storage, clock=FakeClock()):
        await tanuki.distill(spell)
    later = FakeClock()
    await later.advance(60.0)

    async with opened(server, storage, clock=later):
        await spell("first")
        await later.advance(POLL_SECONDS)
        status = await trained(later)

    assert status.student == "fine_tune"
    assert len(jobs.jobs) == len(jobs.files) == 1


async def test_a_process_that_died_between_upload_and_answer_leaves_one_job(
    server: LoopbackServer, storage: MemoryStorage, jobs: OpenAIJobs
) -> None:
    """Its state was never written, so the next one knows only the tag."""
    async with opened(server, storage, clock=FakeClock()) as first:
        task = first._library.task(first.desk(spell.__tanuki__))  # type: ignore[attr-defined]
    jobs.add(
        {
            "model": "gpt-4.1-mini-2025-04-14",
            "training_file": "file-0",
            "metadata": {"tanuki_tag": tag_of(task, 0, BASE)},
            "suffix": tag_of(task, 0, BASE),
        }
    )

    async with opened(server, storage, clock=FakeClock()):
        status = await tanuki.distill(spell)

    assert "ftjob-1" in status.reason
    assert len(jobs.jobs) == 1


async def test_a_lost_answer_at_creation_starts_no_second_training(
    server: LoopbackServer, storage: MemoryStorage, jobs: OpenAIJobs
) -> None:
    jobs.cut = 1
    clock = FakeClock()
    async with opened(server, storage, clock=clock):
        await tanuki.distill(spell)
        status = await trained(clock)

    assert status.student == "fine_tune"
    assert len(jobs.jobs) == 1


async def test_two_tanukis_on_one_storage_make_one_job_and_one_student(
    server: LoopbackServer, storage: MemoryStorage, jobs: OpenAIJobs, models: Models
) -> None:
    clock = FakeClock()
    one, two = opened(server, storage, clock=clock), opened(server, storage, clock=clock)

    async def ask(each: Tanuki, text: str) -> Any:
        function = spell.__tanuki__  # type: ignore[attr-defined]
        return await each.answer(function, function.spec.bind((text,), {}))

    async with one, two:
        await asyncio.gather(ask(one, "a"), ask(two, "b"))
        for turn in range(40):
            await clock.advance(5.0)
            await asyncio.gather(ask(one, f"a{turn}"), ask(two, f"b{turn}"))
            await trained(clock)
        await clock.advance(POLL_SECONDS)
        await serving(one, spell)
        await serving(two, spell)
        teacher = models.asked["small"]
        assert await ask(one, "last") == await ask(two, "last") == truth("last")
        states = [await each._library.state(each.desk(spell.__tanuki__)) for each in (one, two)]  # type: ignore[attr-defined]

    assert models.asked["small"] == teacher
    assert states[0] == states[1]
    assert (states[0].kind, states[0].trainings, states[0].job) == ("fine_tune", 1, None)
    assert len(jobs.jobs) == len(jobs.files) == 1


async def test_a_training_that_fails_says_why_and_the_next_is_another_one(
    server: LoopbackServer, storage: MemoryStorage, jobs: OpenAIJobs
) -> None:
    jobs.training = ("queued", "failed")
    clock = FakeClock()
    async with opened(server, storage, clock=clock):
        await tanuki.distill(spell)
        status = await trained(clock)
        assert (status.phase, status.trainings) == ("collecting", 1)
        assert "ended as failed: The job failed due to an invalid training file" in status.reason
        jobs.training = ("queued", "succeeded")

        while (await tanuki.distill(spell)).phase != "training":  # noqa: ASYNC110  # the step before may still be ending
            await asyncio.sleep(0.001)
        assert (await trained(clock)).student == "fine_tune"

    suffixes = {job["suffix"] for job in jobs.jobs.values()}
    assert len(suffixes) == 2
    assert all(len(suffix) <= 40 for suffix in suffixes)


async def test_a_closed_account_is_asked_once_and_the_reason_is_visible(
    server: LoopbackServer, storage: MemoryStorage, jobs: OpenAIJobs
) -> None:
    closed = fixture("openai", "error_403_training_not_available")
    jobs.refusal = Reply(status=403, headers=closed["headers"], body=json.dumps(closed["body"]).encode())

    @tanuki.patch(student_model=BASE)
    async def other(text: str) -> str:
        """Another function on the same account."""
        ...

    async with opened(server, storage):
        assert await spell("asked") == truth("asked")
        first = await until(spell, lambda status: "training" in status.reason and "OpenAI" in status.reason)
        uploads = len(jobs.files)
        again = await tanuki.distill(spell)
        await fill(storage, other, WORDS, truth)
        elsewhere = await tanuki.distill(other)

    assert (first.phase, first.trainings) == ("collecting", 0)
    for status in (again, elsewhere):
        assert "no longer able to create new fine-tuning training jobs" in status.reason
    assert len(jobs.files) == uploads == 1


async def test_an_outage_while_it_is_trained_is_waited_out(
    server: LoopbackServer, storage: MemoryStorage, jobs: OpenAIJobs
) -> None:
    clock = FakeClock()
    async with opened(server, storage, clock=clock):
        await tanuki.distill(spell)
        server.route("GET", "/v1/fine_tuning/jobs/ftjob-1", Fault.status(503))
        await clock.advance(30.0)
        ill = await tanuki.distill(spell)
        server.route("GET", "/v1/fine_tuning/jobs/ftjob-1", lambda _: jobs._look("ftjob-1"))
        for _ in range(200):
            await spell("on")
            await clock.advance(60.0)
            if (status := await trained(clock)).student:
                break

    assert "cannot be trained now" in ill.reason
    assert status.student == "fine_tune"
    assert len(jobs.jobs) == 1


async def test_a_tuned_model_that_does_not_agree_never_serves(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    clock = FakeClock()

    def wrong(request: Any) -> Any:
        return {"value": "no idea"} if request.model.startswith("ft:") else {"value": truth(request.arguments["text"])}

    server._chat._constant = wrong
    async with opened(server, storage, clock=clock):
        await tanuki.distill(spell)
        status = await trained(clock)

    assert status.student is None
    assert "agreed with the teacher on 0 of 40 inputs" in status.reason


async def test_a_later_process_finds_the_student_in_storage(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    clock = FakeClock()
    async with opened(server, storage, clock=clock):
        await tanuki.distill(spell)
        await trained(clock)

    async with opened(server, storage, clock=clock):
        before = models.asked["small"]
        await spell("known")
        assert models.asked["small"] == before


async def train_elsewhere(server: LoopbackServer, storage: MemoryStorage) -> None:
    clock = FakeClock()
    async with opened(server, storage, clock=clock):
        await tanuki.distill(spell)
        assert (await trained(clock)).student == "fine_tune"


async def test_a_student_trained_elsewhere_is_found_at_the_provider_and_examined(
    server: LoopbackServer, storage: MemoryStorage, models: Models, jobs: OpenAIJobs
) -> None:
    await train_elsewhere(server, storage)
    new = MemoryStorage()
    await fill(new, spell, WORDS[:180], truth)
    asked = models.asked["small"]

    async with opened(server, new):
        await spell("first")
        status = await until(spell, lambda status: status.student is not None)

    assert (status.student, status.trainings) == ("fine_tune", 1)
    assert status.bound is not None
    assert models.asked["small"] - asked <= 1
    assert len(jobs.jobs) == 1


async def test_without_held_out_data_what_was_trained_elsewhere_serves_and_says_so(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    await train_elsewhere(server, storage)

    async with opened(server, MemoryStorage()) as running:
        await spell("first")
        status = await serving(running, spell)
        asked = models.asked["small"]
        assert await spell("second") == truth("second")

    assert (status.student, status.bound) == ("fine_tune", None)
    assert "only audits watch it" in status.reason
    assert models.asked["small"] == asked


async def test_the_provider_is_not_looked_at_when_told_not_to(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    await train_elsewhere(server, storage)
    looked = len(server.requests)

    def blind() -> Any:
        @tanuki.patch(student_model=BASE, timeout=5, ignore_finetune_fetching=True)
        async def spell(text: str) -> str:
            """Tell how long a text is, and write it backwards."""
            ...

        return spell

    async with opened(server, MemoryStorage()):
        await blind()("first")
        await tanuki.status(blind())

    assert len(server.requests) == looked + 1


async def test_a_ladder_serves_with_what_is_there_while_the_next_is_trained(
    server: LoopbackServer, storage: MemoryStorage, models: Models, jobs: OpenAIJobs
) -> None:
    clock = FakeClock()

    @tanuki.patch(student_model=["loopback:cheap", BASE])
    async def spell(text: str) -> str:
        """Tell how long a text is, and write it backwards."""
        ...

    models.others["cheap"] = lambda request: {"value": "no idea"}
    async with opened(server, storage, clock=clock):
        first = await tanuki.distill(spell)
        questions = models.asked["cheap"]
        status = await trained(clock, spell)

    assert "ftjob-1" in first.reason
    assert models.asked["cheap"] == questions  # it is not examined again at each look
    assert status.student == "fine_tune"


def test_a_tag_is_valid_everywhere_and_tells_its_training_whatever_the_environment() -> None:
    tags: set[str] = set()
    environments = (0, 5, -5, 20261124, -20261124, 10**12, -(10**30))
    for environment in environments:
        task = Task(
            hash="0123456789abcdef" * 2,
            name="spell",
            closed=False,
            inputs_of=lambda _, given: given,
            environment_id=environment,
        )
        for number in (0, 1, 12):
            tag = tag_of(task, number, BASE)
            name = _bedrock_control.job_name(tag)
            assert re.fullmatch(r"(?:[0-9a-z]-?){1,40}", tag)
            assert re.fullmatch(r"(?:[0-9a-zA-Z][_-]?){1,63}", name)  # the narrowest of Bedrock's names
            assert _bedrock_control.tag_of(name) == tag
            assert number_in(tag, task, BASE) == number
            assert number_in(tag, task, "openai:another") is None
            tags.add(tag)
    assert len(tags) == 3 * len(environments)
