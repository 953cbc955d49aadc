"""Many calls through a batch API: one batch per chunk, found again after a restart, and what is missing is asked for."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

import pytest
from _jobs import OpenAIJobs
from _spine import recorded, tanuki_for
from _together import TogetherJobs

import tanuki_async as tanuki
from tanuki_async import (
    Budget,
    BudgetExceededError,
    OutputError,
    RefusalError,
    RequestRejectedError,
    Tanuki,
    UsageError,
    _batch,
)
from tanuki_async._records import Model
from tanuki_async.providers.openai import OpenAI
from tanuki_async.providers.together import TogetherAI
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import Answer, FakeClock, Fault, LoopbackServer
from tanuki_async.testing.answers import ChatRequest

TEACHER = "openai:gpt-6-luna"


@tanuki.patch(teacher_models=TEACHER)
async def double(n: int) -> int:
    """Double a number."""
    ...


@tanuki.patch(teacher_models=TEACHER, max_repairs=0)
async def strictly(n: int) -> int:
    """Double a number, at the first try."""
    ...


def answer(request: ChatRequest) -> Any:
    return {"value": request.arguments["n"] * 2}


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(answer) as running:
        yield running


@pytest.fixture
def jobs(server: LoopbackServer) -> OpenAIJobs:
    return OpenAIJobs(server, answer=answer)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def opened(server: LoopbackServer, storage: MemoryStorage, **settings: Any) -> Tanuki:
    clock = settings.pop("clock", None) or FakeClock(autojump=0.005)
    return Tanuki(storage=storage, clock=clock, providers=[OpenAI("sk-test", server.url)], **settings)


async def run(items: Any, f: Any = double, **options: Any) -> list[Any]:
    return [result async for result in tanuki.amap(f, items, mode="batch", **options)]


async def reached(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.001)


async def interrupted(work: Coroutine[Any, Any, Any], jobs: OpenAIJobs) -> None:
    """Begin, and stop while a batch is waited for."""
    task = asyncio.create_task(work)
    await reached(lambda: jobs.batches)
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})


def asked_now(server: LoopbackServer) -> int:
    return sum(isinstance(each, ChatRequest) for each in server.requests)


async def test_results_come_in_order_and_are_recorded_as_the_teachers_at_half_price(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage
) -> None:
    async with opened(server, storage):
        assert await run(range(30)) == [2 * n for n in range(30)]
        status = await tanuki.status(double)
        records = await recorded(storage, double)

    assert asked_now(server) == 0
    assert len(jobs.batches) == 1
    assert [record["model"] for record in records] == [TEACHER] * 30
    assert status.answered_by_teacher == 30
    used = status.usage
    assert used.requests == 30
    assert status.cost == pytest.approx((used.input_tokens * 0.10 + used.output_tokens * 0.50) / 2e6)


async def test_many_items_are_several_batches_of_which_some_are_on_their_way_at_once(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_batch, "SIZE", 10)
    taken = 0

    async def items() -> AsyncIterator[int]:
        nonlocal taken
        for n in range(95):
            taken += 1
            yield n

    async with opened(server, storage):
        results = tanuki.amap(double, items(), mode="batch")
        assert await anext(results) == 0
        assert taken <= (_batch.AHEAD + 1) * 10 + 1
        assert [result async for result in results] == [2 * n for n in range(1, 95)]
        assert sorted(await run(range(25), ordered=False)) == [2 * n for n in range(25)]

    assert len(jobs.batches) == 10 + 3


async def test_what_does_not_fit_or_only_failed_is_asked_for_directly(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage
) -> None:
    odd = {3: "nonsense", 5: Fault.status(500), 7: Fault.status(429)}
    jobs.answer = lambda request: odd.get(request.arguments["n"]) or answer(request)

    async with opened(server, storage):
        assert await run(range(10)) == [2 * n for n in range(10)]

    assert asked_now(server) == 3


async def test_what_failed_for_good_is_an_error_in_its_place(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage
) -> None:
    odd = {3: "nonsense", 5: Answer(None, refusal="No."), 7: Fault.status(400)}
    jobs.answer = lambda request: odd.get(request.arguments["n"]) or answer(request)

    async with opened(server, storage):
        results = await run(range(10), strictly, on_error="return")
        skipped = await run(range(10), strictly, on_error="skip")
        with pytest.raises(OutputError):
            await run(range(10), strictly)

    assert {n: type(result) for n, result in enumerate(results) if isinstance(result, Exception)} == {
        3: OutputError,
        5: RefusalError,
        7: RequestRejectedError,
    }
    assert skipped == [2 * n for n in range(10) if n not in odd]
    assert asked_now(server) == 0


async def test_an_item_that_does_not_fit_the_parameters_is_an_error_in_its_place(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage
) -> None:
    async with opened(server, storage):
        results = await run([1, "x", 3], on_error="return")

    assert isinstance(results[1], tanuki.InputError)
    assert results[::2] == [2, 6]


async def test_what_an_expired_batch_left_is_asked_for_directly(server: LoopbackServer, storage: MemoryStorage) -> None:
    OpenAIJobs(server, answer=answer, batch=("validating", "in_progress", "expired"))

    async with opened(server, storage):
        assert await run(range(10)) == [2 * n for n in range(10)]

    assert asked_now(server) == 5


async def test_a_batch_that_the_provider_refuses_is_an_error_and_is_not_sent_again_at_full_price(
    server: LoopbackServer, storage: MemoryStorage
) -> None:
    OpenAIJobs(server, answer=answer, batch=("validating", "failed"))

    async with opened(server, storage):
        with pytest.raises(RequestRejectedError, match="not parseable as valid JSON"):
            await run(range(10))

    assert asked_now(server) == 0


async def test_a_lost_answer_at_creation_makes_no_second_batch(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage
) -> None:
    jobs.cut = 1

    async with opened(server, storage):
        assert await run(range(10)) == [2 * n for n in range(10)]

    assert len(jobs.batches) == 1


async def test_an_outage_is_waited_out(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    look = jobs._look_at_batch
    ill = iter([Fault.status(503), Fault.disconnect(), Fault.status(429, retry_after=30)])
    jobs._look_at_batch = lambda batch: next(ill, None) or look(batch)  # type: ignore[method-assign]

    async with opened(server, storage):
        assert await run(range(10)) == [2 * n for n in range(10)]

    assert "asking for a batch again" in caplog.text


async def test_a_restart_goes_on_waiting_for_the_same_batch(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage, tmp_path: Path
) -> None:
    path = tmp_path / "kept.jsonl"
    async with opened(server, storage, clock=FakeClock()):
        await interrupted(run(range(30), checkpoint=path), jobs)

    async with opened(server, storage):
        assert await run(range(30), checkpoint=path) == [2 * n for n in range(30)]
        assert await run(range(30), checkpoint=path) == [2 * n for n in range(30)]

    assert len(jobs.batches) == 1
    assert jobs.batches["batch_1"]["status"] == "completed"
    assert asked_now(server) == 0
    assert len(await asyncio.to_thread(lambda: path.read_text().splitlines())) == 32  # with the head and the batch


async def test_items_that_changed_since_are_not_given_the_answers_of_others(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage, tmp_path: Path
) -> None:
    path = tmp_path / "kept.jsonl"
    async with opened(server, storage, clock=FakeClock()):
        await interrupted(run([1, 2, 3], checkpoint=path), jobs)

    async with opened(server, storage):
        assert await run([1, 7, 3], checkpoint=path) == [2, 14, 6]

    assert asked_now(server) == 1


async def test_a_batch_that_nobody_will_come_back_for_is_cancelled(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage
) -> None:
    async with opened(server, storage, clock=FakeClock()):
        await interrupted(run(range(30)), jobs)
        await reached(lambda: jobs.batches["batch_1"]["status"] == "cancelled")


async def test_what_was_answered_before_or_is_in_the_cache_is_not_sent(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage
) -> None:
    @tanuki.patch(teacher_models=TEACHER, cache="memory")
    async def cached(n: int) -> int:
        """Double a number."""
        ...

    async with opened(server, storage):
        await cached(3)
        assert await run(range(5), cached) == [0, 2, 4, 6, 8]

    lines = [json.loads(line) for line in jobs.files["file-1"][2].splitlines()]
    assert len(lines) == 4
    assert len({line["custom_id"] for line in lines}) == 4
    assert all(len(line["custom_id"]) <= 64 for line in lines)


async def test_budgets_hold_for_batches(server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage) -> None:
    @tanuki.patch(teacher_models=TEACHER, budget=Budget(requests=15))
    async def limited(n: int) -> int:
        """Double a number."""
        ...

    async with opened(server, storage):
        assert await run(range(10), limited) == [2 * n for n in range(10)]
        assert (await tanuki.status(limited)).budget_left == {"requests per life": 5}
        with pytest.raises(BudgetExceededError):
            await run(range(10, 20), limited)

    assert len(jobs.batches) == 1


async def test_progress_is_told(server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage) -> None:
    told: list[tuple[int, int]] = []
    async with opened(server, storage):
        await run(["x", 1, 2], on_error="skip", progress=lambda done, failed: told.append((done, failed)))

    assert told == [(1, 1), (2, 1), (3, 1)]


async def test_nothing_is_nothing(server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage) -> None:
    async with opened(server, storage):
        assert await run([]) == []
    assert jobs.batches == {}


async def test_together_takes_batches_too(server: LoopbackServer, storage: MemoryStorage) -> None:
    qwen = Model(provider="together", name="Qwen/Qwen3.5-9B", price_input=0.17, price_output=0.25)

    @tanuki.patch(teacher_models=qwen)
    async def double(n: int) -> int:
        """Double a number."""
        ...

    jobs = TogetherJobs(server, answer=answer)
    clock = FakeClock(autojump=0.005)
    async with Tanuki(storage=storage, clock=clock, providers=[TogetherAI("tg-test", server.url)]):
        assert await run(range(20), double) == [2 * n for n in range(20)]

    assert len(jobs.batches) == 1
    assert asked_now(server) == 0


async def test_a_provider_without_batches_is_told(server: LoopbackServer, storage: MemoryStorage) -> None:
    @tanuki.patch
    async def double(n: int) -> Literal[1, 2]:
        """Double a number."""
        ...

    async with tanuki_for(server, storage):
        with pytest.raises(UsageError, match="needs a provider with a batch API, and loopback has none"):
            await run([1], double)


async def test_what_is_asked_directly_is_logged(
    server: LoopbackServer, jobs: OpenAIJobs, storage: MemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    jobs.answer = lambda request: "nonsense" if request.arguments["n"] == 1 else answer(request)
    async with opened(server, storage):
        await run(range(3))

    assert "3 calls are the batch batch_1" in caplog.text
    assert "asking for 1 of a batch directly" in caplog.text
