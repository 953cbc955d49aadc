"""Budgets: nothing is sent that would exceed one, whatever happens at once, and storage keeps count."""

import asyncio
import dataclasses
import pickle
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Literal

import pytest
from _spine import at_rest, tanuki_for

import tanuki_async as tanuki
from tanuki_async import Budget, BudgetExceededError, Model, RequestRejectedError, SettingsError, Tanuki
from tanuki_async._records import Usage
from tanuki_async._tally import Spent, Tally
from tanuki_async.abc import ABSTAIN, Student
from tanuki_async.storage.filesystem import FilesystemStorage
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import Answer, FakeClock, Fault, LoopbackServer

GOOD = Answer('{"value":"good"}', usage=Usage(requests=1, input_tokens=100, output_tokens=10))
PRICED = Model(provider="loopback", name="small", price_input=10.0, price_output=100.0)
COST = 0.002  # of GOOD
ROOM = {"max_new_tokens": 10}


def stub(**keywords: Any) -> Any:
    @tanuki.patch(max_repairs=1, **{"generation_params": ROOM, **keywords})
    async def mood(text: str) -> Literal["good", "bad"]:
        """Classify the sentiment."""
        ...

    return mood


stub()  # pydantic loads the rest of itself for its first type, not in the loop


@tanuki.patch(budget=Budget(tokens=0))
async def embed(text: str) -> tanuki.Embedding[list[float]]:
    """Embed."""


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(lambda _: GOOD) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage) as running:
        yield running
        assert at_rest(running)
        for account in running._library.ledger._accounts.values():
            assert (account.aside.tokens, account.aside.requests) == (0, 0)
            assert account.aside.usd == pytest.approx(0, abs=1e-12)


async def spend_all(mood: Any, calls: int) -> int:
    """How many of many calls at once were answered."""
    results = await asyncio.gather(*(mood(f"x {each}") for each in range(calls)), return_exceptions=True)
    assert all(each == "good" or isinstance(each, BudgetExceededError) for each in results), results
    return results.count("good")


async def test_requests_are_counted(opened: Tanuki, server: LoopbackServer) -> None:
    mood = stub(budget=Budget(requests=2))
    await mood("a")
    await mood("b")

    with pytest.raises(BudgetExceededError) as caught:
        await mood("c")

    assert server.served == 2
    error = caught.value
    assert (error.function, error.whose, error.what) == ("mood", "mood()", "requests")
    assert (error.limit, error.spent, error.needed, error.resets) == (2, 2, 1, None)
    assert "budget of mood() is 2 requests" in str(error)
    assert "Raise `budget=`" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    found = await tanuki.status(mood)
    assert (found.budget_left, found.failed) == ({"requests per life": 0}, 1)


async def test_many_at_once_never_exceed_it(opened: Tanuki, server: LoopbackServer) -> None:
    assert await spend_all(stub(budget=Budget(requests=7)), 100) == 7
    assert server.served == 7


async def test_dollars_are_set_aside_before_and_settled_after(opened: Tanuki, server: LoopbackServer) -> None:
    mood = stub(budget=Budget(usd=20 * COST), teacher_models=PRICED)

    answered = [await spend_all(mood, 1) for _ in range(25)]

    spent = (await tanuki.status(mood)).cost
    assert 15 <= sum(answered) <= 20
    assert spent == pytest.approx(COST * sum(answered))
    assert spent <= 20 * COST


async def test_dollars_at_once_never_exceed_it(opened: Tanuki, server: LoopbackServer) -> None:
    mood = stub(budget=Budget(usd=20 * COST), teacher_models=PRICED)
    await spend_all(mood, 100)
    assert 0 < (await tanuki.status(mood)).cost <= 20 * COST


async def test_tokens_are_counted_by_what_was_used(opened: Tanuki, server: LoopbackServer) -> None:
    mood = stub(budget=Budget(tokens=1000))
    await mood("x")
    assert (await tanuki.status(mood)).budget_left == {"tokens per life": 890}


async def test_an_unknown_price_is_not_zero(opened: Tanuki, server: LoopbackServer) -> None:
    with pytest.raises(SettingsError, match=r"Model\(provider='loopback', name='small', price_input=…"):
        await stub(budget=Budget(usd=1))("x")
    assert server.served == 0
    assert await stub(budget=Budget(tokens=100_000))("x") == "good"


async def test_a_long_prompt_is_set_aside_at_its_own_price(opened: Tanuki) -> None:
    dear = dataclasses.replace(PRICED, surcharge=(20, 3.0, 3.0))

    async def needed(model: Model) -> float:
        @tanuki.patch(teacher_models=[model], budget=Budget(usd=0), generation_params={"max_new_tokens": 100})
        async def mood(text: str) -> str:
            """Classify the sentiment."""
            ...

        with pytest.raises(BudgetExceededError) as caught:
            await mood("I like it")
        return caught.value.needed

    assert await needed(dear) == pytest.approx(3 * await needed(PRICED))


async def test_prices_of_nothing_are_prices(opened: Tanuki) -> None:
    free = Model(provider="loopback", name="small", price_input=0, price_output=0)
    assert await stub(budget=Budget(usd=0), teacher_models=free)("x") == "good"


async def test_without_a_limit_the_mean_answer_is_expected(opened: Tanuki, server: LoopbackServer) -> None:
    mood = stub(budget=Budget(tokens=1_500), generation_params={})
    for _ in range(8):  # the first is taken to be 1,024 tokens long, the others 10
        await mood("x")
    assert server.served == 8


async def test_repairs_count_too(opened: Tanuki, server: LoopbackServer) -> None:
    mood = stub(budget=Budget(requests=1))
    server._answer = None  # type: ignore[attr-defined]
    server.put("nonsense")
    with pytest.raises(BudgetExceededError):
        await mood("x")


async def test_failures_cost_nothing(opened: Tanuki, server: LoopbackServer) -> None:
    mood = stub(budget=Budget(requests=1))
    server.put(Fault.status(400))
    with pytest.raises(RequestRejectedError):
        await mood("x")
    assert (await tanuki.status(mood)).budget_left == {"requests per life": 1}


async def test_what_is_cancelled_on_its_way_costs_its_input(opened: Tanuki, server: LoopbackServer) -> None:
    mood = stub(budget=Budget(tokens=10_000, requests=5))
    await mood("read storage")
    server.put(Fault.hang())
    call = asyncio.create_task(mood("x"))
    await server.wait_requests(2)
    call.cancel()
    await asyncio.wait((call,))

    left = (await tanuki.status(mood)).budget_left
    assert left["requests per life"] == 3
    assert 9_000 < left["tokens per life"] < 9_890


async def test_embeddings_count(opened: Tanuki, server: LoopbackServer) -> None:
    with pytest.raises(BudgetExceededError, match="budget of embed"):
        await embed("x")
    assert server.served == 0


async def test_several_budgets_hold_at_once(server: LoopbackServer, storage: MemoryStorage) -> None:
    async with tanuki_for(server, storage, budget=Budget(requests=5)):
        first, second = stub(budget=[Budget(requests=3), Budget(tokens=10_000)]), stub(environment_id=1)
        assert await spend_all(first, 10) == 3
        assert await spend_all(second, 10) == 2
        with pytest.raises(BudgetExceededError, match="the budget of this Tanuki is 5 requests"):
            await second("x")
        assert (await tanuki.status(second)).budget_left == {"requests per life": 0}


async def test_a_day_is_a_day_in_utc(server: LoopbackServer, storage: MemoryStorage, clock: FakeClock) -> None:
    async with tanuki_for(server, storage, clock=clock):
        mood = stub(budget=[Budget(requests=1, per="day"), Budget(requests=2)])
        await mood("x")
        with pytest.raises(BudgetExceededError, match="it starts again at 2026-01-02 00:00 UTC"):
            await mood("x")
        await clock.advance(24 * 3600)
        await mood("x")
        await clock.advance(24 * 3600)
        with pytest.raises(BudgetExceededError, match="never starts again"):
            await mood("x")


@pytest.mark.parametrize("owner", ["function", "tanuki"])
async def test_storage_keeps_count_over_a_restart(server: LoopbackServer, tmp_path: Any, owner: str) -> None:
    budget = Budget(requests=3, per="day")
    settings = {"budget": budget} if owner == "tanuki" else {}
    for answered in (2, 1, 0):
        async with tanuki_for(server, FilesystemStorage(tmp_path), **settings):
            mood = stub(budget=budget) if owner == "function" else stub()
            assert await spend_all(mood, 2) == answered


async def test_what_another_process_spends_is_known_when_tallies_are_saved(
    server: LoopbackServer, storage: MemoryStorage
) -> None:
    mood = stub(budget=Budget(requests=4))
    async with tanuki_for(server, storage) as first:
        await mood("x")
        async with tanuki_for(server, storage) as second:
            assert await spend_all(mood, 2) == 2  # of three that it knows of
            await second._library.ledger.save()
        await first._library.ledger.save()
        assert await spend_all(mood, 5) == 1


async def test_what_ignores_storage_counts_in_memory(opened: Tanuki, server: LoopbackServer) -> None:
    mood = stub(budget=Budget(requests=1), ignore_data_storage=True)
    assert await spend_all(mood, 3) == 1


class Parrot(Student):
    async def answer(self, inputs: Any) -> Any:
        return ABSTAIN if inputs["text"] == "hard" else "good"


class Serving:
    def student(self) -> Student:
        return Parrot()

    def due_audit(self) -> bool:
        return True

    async def audited(self, *, agreed: bool) -> None:
        raise AssertionError("an audit was paid for")

    async def fault(self) -> None: ...


async def test_a_student_goes_on_when_the_budget_is_spent(
    opened: Tanuki, server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    mood = stub(budget=Budget(requests=0))
    desk = opened.desk(mood.__tanuki__)
    await desk.recall()
    desk.apprentice = Serving()

    assert await mood("easy") == "good"
    with pytest.raises(BudgetExceededError):
        await mood("hard")

    await asyncio.sleep(0.01)
    assert server.served == 0
    assert not caplog.records


async def test_a_kept_answer_costs_nothing(opened: Tanuki, server: LoopbackServer) -> None:
    mood = stub(budget=Budget(requests=1), cache="memory")
    assert [await mood("x"), await mood("x")] == ["good", "good"]


async def test_a_storage_that_fails_stops_no_call(server: LoopbackServer, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryStorage):
        async def get(self, key: str) -> Any:
            if "tally" in key and not self.well:
                raise OSError("no disk")
            return await super().get(key)

        well = False

    storage = Broken()
    async with tanuki_for(server, storage):
        assert await spend_all(stub(budget=Budget(requests=1)), 3) == 1
        storage.well = True
    assert "what a budget has spent cannot be read now: no disk" in caplog.text


async def test_that_tallies_cannot_be_saved_is_told_once_until_they_can(
    server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MemoryStorage):
        async def put(self, key: str, value: bytes, *, version: str | None) -> str | None:
            if "tally" in key and not self.well:
                raise OSError("no disk")
            return await super().put(key, value, version=version)

        well = False

    storage, clock = Broken(), FakeClock()

    def told() -> int:
        return caplog.text.count("tallies cannot be saved now: no disk")

    async with tanuki_for(server, storage, clock=clock):
        mood = stub()
        await mood("one")
        for _ in range(3):
            await clock.advance(5)
        assert told() == 1
        storage.well = True
        await clock.advance(5)
        storage.well = False
        await mood("two")
        await clock.advance(5)
        assert told() == 2
        storage.well = True


@pytest.mark.parametrize(
    ("budget", "hint"),
    [
        (5, r"Budget\(usd=5, per='day'\)"),
        (Budget(), "name at least one"),
        (Budget(usd=-1), "0 or more"),
        (Budget(usd="1"), "usd is a number"),  # type: ignore[arg-type]
        (Budget(requests=1, per="week"), "'day' or 'life'"),  # type: ignore[arg-type]
        ([Budget(requests=1), 3], "a list of them"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_written(budget: Any, hint: str) -> None:
    with pytest.raises(SettingsError, match=hint):
        stub(budget=budget)
    with pytest.raises(SettingsError, match=hint):
        Tanuki(budget=budget)


def test_a_tally_keeps_life_and_the_latest_day() -> None:
    tally = Tally()
    tally.count("2026-01-01", Spent(1.0, 10, 1))
    tally.count("2026-01-02", Spent(0.5, 5, 1))
    again = Tally.from_json(tally.to_json())
    again.add(tally)
    assert again.spent == {"life": Spent(3.0, 30, 4), "2026-01-02": Spent(1.0, 10, 2)}


async def test_calls_that_end_at_random_moments_leave_nothing_set_aside(storage: MemoryStorage) -> None:
    drawn = random.Random(11)

    async def answer(_: object) -> Any:
        await asyncio.sleep(drawn.random() * 0.02)
        return drawn.choice([GOOD, GOOD, GOOD, Fault.status(400), Fault.disconnect(), "nonsense"])

    async def call(mood: Any, text: str) -> None:
        with suppress(TimeoutError, tanuki.TanukiError):
            async with asyncio.timeout(drawn.random() * 0.2):
                await mood(text)

    async with LoopbackServer(answer) as server, tanuki_for(server, storage, budget=Budget(requests=10_000)) as opened:
        mood = stub(
            budget=Budget(usd=0.3), teacher_models=PRICED, single_flight=True, cache="memory",
            hedge=tanuki.Hedge(after=0.5, share=0.5), timeout=2,
        )  # fmt: skip
        for calls in (*[5] * 20, 300):  # the first ones tell how long requests take when there are few
            await asyncio.gather(*(call(mood, f"x {drawn.randrange(200)}") for _ in range(calls)))
        await asyncio.sleep(0.01)

        assert at_rest(opened)
        assert not any(opened._flights.values())
        for account in opened._library.ledger._accounts.values():
            assert account.aside.requests == account.aside.tokens == 0
            assert account.aside.usd == pytest.approx(0, abs=1e-12)
        found = await tanuki.status(mood)
        assert found.hedged
        assert found.cached
        assert found.cost <= 0.3
