"""A cheap model learns by being shown examples, as few as it needs; it is proved, served, audited and taken back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from _learning import Models, fill, serving, shown, until
from _spine import settings_for, tanuki_for
from _time import jump

import tanuki_async as tanuki
from tanuki_async import Tanuki
from tanuki_async._distill.bench import SHARE_OF_TIME
from tanuki_async._records import Model
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import Answer, Fault, LoopbackServer
from tanuki_async.testing.answers import ChatRequest

CHEAP = "loopback:cheap"


def truth(text: str) -> str:
    return f"{len(text)} letters, {text[::-1]}"


@tanuki.patch(student_model=CHEAP, distill_after=200, timeout=5)
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
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    await fill(storage, spell, WORDS, truth)
    async with tanuki_for(server, storage) as running:
        yield running


def right_with(examples: int, models: Models) -> Any:
    """Right from so many examples on, else wrong."""

    def answer(request: ChatRequest) -> Any:
        given = truth(request.arguments["text"])
        return {"value": given if shown(request) >= examples else "no idea"}

    return answer


async def test_a_cheap_model_takes_over_by_itself_and_its_answers_are_no_training_data(
    opened: Tanuki, models: Models, storage: MemoryStorage
) -> None:
    assert await spell("first") == truth("first")
    assert models.asked["small"] == 1
    learnt = await serving(opened, spell)
    recorded, teacher = learnt.datasets["PATCHES"], models.asked["small"]

    for place in range(20):
        assert await spell(f"new {place}") == truth(f"new {place}")

    status = await tanuki.status(spell)
    assert (status.phase, status.student, status.student_model) == ("serving", "in_context", CHEAP)
    assert status.bound is not None
    assert status.bound >= 0.9
    assert status.answered_by_student == 20
    assert models.asked["small"] - teacher <= 5  # audits
    assert status.datasets["PATCHES"] - recorded <= 5


@pytest.mark.parametrize("needed", [0, 4, 16])
async def test_it_is_shown_the_fewest_examples_that_reach_the_agreement(
    opened: Tanuki, models: Models, needed: int
) -> None:
    models.others["cheap"] = right_with(needed, models)

    status = await tanuki.distill(spell)
    models.shown["cheap"].clear()
    await spell("new")

    assert status.student == "in_context"
    assert models.shown["cheap"] == [needed]


async def test_a_model_that_does_not_agree_never_serves_and_costs_few_questions(opened: Tanuki, models: Models) -> None:
    models.others["cheap"] = lambda request: {"value": "no idea"}

    status = await tanuki.distill(spell)

    assert (status.phase, status.student) == ("collecting", None)
    assert "loopback:cheap with 16 examples: agreed with the teacher on 0 of 40 inputs" in status.reason
    assert models.asked["cheap"] <= 3 * 40
    assert await spell("new") == truth("new")


async def test_a_forced_step_learns_only_from_what_it_can_be_examined_on(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    await fill(storage, spell, WORDS[:60], truth)
    async with tanuki_for(server, storage):
        status = await tanuki.distill(spell)

    assert "are too few to examine loopback:cheap on" in status.reason
    assert "cheap" not in models.asked


async def test_questions_are_asked_a_few_at_a_time(opened: Tanuki, server: LoopbackServer) -> None:
    server.latency = 0.005

    await tanuki.distill(spell)

    assert 2 <= server.max_in_flight <= 8


async def test_what_learning_and_serving_cost_is_told_apart(server: LoopbackServer, storage: MemoryStorage) -> None:
    priced = {
        name: Model(provider="loopback", name=name, price_input=price, price_output=price)
        for name, price in (("small", 2.0), ("cheap", 0.1))
    }
    provider = OpenAICompatible(server.url, name="loopback", models=priced)
    await fill(storage, spell, WORDS, truth)
    async with Tanuki(**settings_for(server, storage, providers=[provider], audit_rate=0.0)) as opened:
        await tanuki.distill(spell)
        await spell("new")
        desk = opened.desk(spell.__tanuki__)  # type: ignore[attr-defined]
        total = await opened._library.ledger.total(desk.spec, desk.options)

    assert total.learning_cost > 100 * total.student_cost > 0
    assert total.cost == 0
    assert total.unpriced == 0


async def test_an_examination_takes_at_most_a_part_of_the_budget(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    @tanuki.patch(student_model=CHEAP, budget=tanuki.Budget(requests=300))
    async def spell(text: str) -> str:
        """Tell how long a text is, and write it backwards."""
        ...

    await fill(storage, spell, WORDS, truth)
    async with tanuki_for(server, storage):
        status = await tanuki.distill(spell)

    assert "the budget has room for 75" in status.reason or status.student == "in_context"
    assert models.asked.get("cheap", 0) <= 75


async def test_outages_and_refusals_of_the_student_are_answered_by_the_teacher(
    opened: Tanuki, models: Models, server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    await tanuki.distill(spell)
    for trouble in (Fault.status(403), Answer(None, refusal="No.")):
        models.others["cheap"] = lambda request, trouble=trouble: trouble
        assert await spell(f"after {trouble}") == truth(f"after {trouble}")

    status = await tanuki.status(spell)
    assert status.student == "in_context"
    assert (status.answered_by_teacher, status.deferred) == (2, 2)
    assert caplog.text.count("does not answer as a student; the teacher does") == 1  # it is left alone for a while


async def test_a_student_that_hangs_leaves_time_for_the_teacher(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    @tanuki.patch(student_model=CHEAP, timeout=30)
    async def spell(text: str) -> str:
        """Tell how long a text is, and write it backwards."""
        ...

    await fill(storage, spell, WORDS, truth)
    async with tanuki_for(server, storage):
        await tanuki.distill(spell)
        models.others["cheap"] = lambda request: Fault.hang()
        asked = models.asked["cheap"]

        calling = asyncio.create_task(spell("new"))
        while models.asked["cheap"] == asked:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.001)
        jump(SHARE_OF_TIME * 30)

        assert await calling == truth("new")


async def test_faults_and_disagreement_take_it_back(opened: Tanuki, models: Models) -> None:
    await tanuki.distill(spell)
    models.others["cheap"] = lambda request: {"value": 7}

    for place in range(30):
        assert await spell(f"new {place}") == truth(f"new {place}")

    status = await until(spell, lambda status: status.student is None)
    assert status.phase == "reverted"
    assert "did not fit the type" in status.reason


async def test_aligned_inputs_that_it_gets_wrong_are_left_to_the_teacher(
    opened: Tanuki, models: Models, storage: MemoryStorage
) -> None:
    @tanuki.align
    async def align_spell() -> None:
        assert await spell("special") == "just so"

    await align_spell()
    models.others["small"] = lambda request: {"value": "just so"}
    await tanuki.distill(spell)

    assert await spell("special") == "just so"
    assert await spell("ordinary") == truth("ordinary")


async def test_a_later_process_finds_the_student_in_storage(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    await fill(storage, spell, WORDS, truth)
    async with tanuki_for(server, storage):
        await tanuki.distill(spell)
    asked = models.asked["cheap"]

    async with tanuki_for(server, storage, audit_rate=0.0):
        assert await spell("new") == truth("new")

    assert models.asked == {"cheap": asked + 1}


async def test_two_tanukis_on_one_storage_examine_once(
    server: LoopbackServer, storage: MemoryStorage, models: Models
) -> None:
    await fill(storage, spell, WORDS, truth)
    one, two = tanuki_for(server, storage), tanuki_for(server, storage)
    async with one, two:
        for opened in (one, two):
            await opened.answer(spell.__tanuki__, spell.__tanuki__.spec.bind(("new",), {}))  # type: ignore[attr-defined]
        await until(spell, lambda status: status.student is not None)

    assert models.asked["cheap"] <= 230


async def test_a_model_that_is_not_there_is_not_asked_again_and_counts_as_no_training(
    opened: Tanuki, models: Models
) -> None:
    models.others["cheap"] = lambda request: Fault.status(404, code="model_not_found")

    first = await tanuki.distill(spell)
    asked = models.asked["cheap"]
    again = await tanuki.distill(spell)

    assert (first.trainings, again.trainings) == (0, 0)
    assert "HTTP 404" in again.reason
    assert models.asked["cheap"] == asked


async def test_an_outage_while_learning_is_tried_again_later(opened: Tanuki, models: Models) -> None:
    models.others["cheap"] = lambda request: Fault.status(402)

    status = await tanuki.distill(spell)

    assert status.trainings == 0
    assert "cannot be examined now" in status.reason


async def test_auto_examines_the_cheap_sibling_of_the_teacher(
    server: LoopbackServer, storage: MemoryStorage, models: Models, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    caplog.set_level(logging.INFO)

    @tanuki.patch(teacher_models="openai:gpt-6.2-sol")
    async def spell(text: str) -> str:
        """Tell how long a text is, and write it backwards."""
        ...

    await fill(storage, spell, WORDS, truth)
    async with Tanuki(storage=storage):
        status = await tanuki.distill(spell)

    assert status.student_model == "openai:gpt-6-luna"
    assert models.asked["gpt-6-luna"] <= 400
    assert caplog.text.count("examining openai:gpt-6-luna with at most 224 questions") == 1


async def test_the_teacher_is_not_its_own_student(server: LoopbackServer, storage: MemoryStorage) -> None:
    @tanuki.patch(student_model="loopback:small")
    async def spell(text: str) -> str:
        """Tell how long a text is, and write it backwards."""
        ...

    async with tanuki_for(server, storage):
        assert (await tanuki.status(spell)).reason == "loopback:small is the teacher already"
