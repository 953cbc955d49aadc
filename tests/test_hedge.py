"""A request that takes long is sent once more: when, how often, who wins, and that the loser is gone."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from _spine import at_rest, recorded, tanuki_for

import tanuki_async as tanuki
from tanuki_async import BudgetExceededError, Hedge, ProviderUnavailableError, Tanuki
from tanuki_async._hedge import FEWEST, WINDOW, Hedger
from tanuki_async._tally import Tally
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import FakeClock, Fault, LoopbackServer
from tanuki_async.testing.answers import ChatRequest

QUICK, SLOW = 0.002, 5.0
GOOD, BAD = '{"value":"good"}', '{"value":"bad"}'
Mood = Literal["good", "bad"]


class Script:
    """Answers quickly until told otherwise; then each request takes what the script says, in order."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, Any]] = []

    async def __call__(self, request: ChatRequest) -> Any:
        seconds, answer = self.steps.pop(0) if self.steps else (QUICK, GOOD)
        await asyncio.sleep(seconds)
        return answer


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def server(script: Script) -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(script) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage) as running:
        yield running
        assert at_rest(running)
        assert running.statistics().pool.http.in_flight == 0


def stub(**keywords: Any) -> Any:
    @tanuki.patch(timeout=3, **{"hedge": Hedge(after=0.95, share=0.2), **keywords})
    async def mood(text: str) -> Mood:
        """Classify the sentiment."""
        ...

    return mood


stub()  # pydantic loads the rest of itself for its first type, not in the loop


async def warm_up(mood: Any, calls: int = FEWEST) -> None:
    for each in range(calls):
        await mood(f"warm up {each}")


async def test_a_slow_request_is_overtaken_by_a_second_one(
    opened: Tanuki, server: LoopbackServer, script: Script, storage: MemoryStorage
) -> None:
    mood = stub()
    await warm_up(mood)
    script.steps = [(SLOW, BAD), (QUICK, GOOD)]

    assert await asyncio.wait_for(mood("slow"), 1) == "good"

    assert server.served == FEWEST + 2
    assert (await tanuki.status(mood)).hedged == 1
    assert len(await recorded(storage, mood)) == FEWEST + 1


async def test_the_loser_is_cancelled_and_its_connection_closed(
    opened: Tanuki, server: LoopbackServer, script: Script
) -> None:
    mood = stub()
    await warm_up(mood)
    script.steps = [(SLOW, BAD), (QUICK, GOOD)]

    await mood("slow")

    for _ in range(100):
        if server.connections == 1:
            break
        await asyncio.sleep(0.001)
    assert server.connections == 1
    assert at_rest(opened)


async def test_the_first_request_may_still_win(opened: Tanuki, server: LoopbackServer, script: Script) -> None:
    mood = stub()
    await warm_up(mood)
    script.steps = [(0.1, GOOD), (SLOW, BAD)]

    assert await mood("slow") == "good"
    assert (await tanuki.status(mood)).hedged == 1


async def test_an_answer_that_does_not_fit_does_not_win(opened: Tanuki, server: LoopbackServer, script: Script) -> None:
    mood = stub(max_repairs=0)
    await warm_up(mood)
    script.steps = [(0.1, GOOD), (QUICK, "nonsense")]

    assert await mood("slow") == "good"
    assert (await tanuki.status(mood)).usage.requests == FEWEST + 2  # both were paid for


async def test_nothing_is_sent_twice_before_enough_was_seen(
    opened: Tanuki, server: LoopbackServer, script: Script
) -> None:
    mood = stub()
    await warm_up(mood, FEWEST - 1)
    script.steps = [(0.1, GOOD)]

    await mood("slow")

    assert server.served == FEWEST
    assert (await tanuki.status(mood)).hedged == 0


async def test_hedges_keep_to_their_share(opened: Tanuki, server: LoopbackServer, script: Script) -> None:
    mood = stub(hedge=Hedge(after=0.5, share=0.1))
    await warm_up(mood, 20)
    script.steps = [(0.03, GOOD)] * 60

    await asyncio.gather(*(mood(f"slow {each}") for each in range(20)))

    found = await tanuki.status(mood)
    assert 1 <= found.hedged <= 4  # a tenth of 40


async def test_a_failed_hedge_does_no_harm(opened: Tanuki, server: LoopbackServer, script: Script) -> None:
    mood = stub()
    await warm_up(mood)
    script.steps = [(0.1, GOOD), (0, Fault.status(400))]

    assert await mood("slow") == "good"


async def test_a_hedge_answers_when_the_first_request_fails(
    opened: Tanuki, server: LoopbackServer, script: Script
) -> None:
    mood = stub()
    await warm_up(mood)
    script.steps = [(0.05, Fault.status(400)), (0.1, GOOD)]

    assert await mood("slow") == "good"


async def test_only_both_failing_is_an_error(server: LoopbackServer, script: Script, storage: MemoryStorage) -> None:
    clock = FakeClock(autojump=0.02)
    async with tanuki_for(server, storage, clock=clock) as opened:
        mood = stub()
        await warm_up(mood)
        script.steps = [(0, Fault.status(500))] * 30

        with pytest.raises(ProviderUnavailableError):
            await mood("x")
        assert at_rest(opened)


async def test_a_cancelled_call_cancels_both(opened: Tanuki, server: LoopbackServer, script: Script) -> None:
    mood = stub()
    await warm_up(mood)
    script.steps = [(SLOW, GOOD), (SLOW, GOOD)]

    call = asyncio.create_task(mood("slow"))
    await server.wait_requests(FEWEST + 2)
    assert opened.statistics().pool.in_flight == 2
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert at_rest(opened)


async def test_a_budget_that_is_spent_keeps_from_hedging_only(
    opened: Tanuki, server: LoopbackServer, script: Script
) -> None:
    mood = stub(budget=tanuki.Budget(requests=FEWEST + 1))
    await warm_up(mood)
    script.steps = [(0.1, GOOD)]

    assert await mood("slow") == "good"

    assert (await tanuki.status(mood)).hedged == 0
    with pytest.raises(BudgetExceededError):
        await mood("one more")


async def test_a_hundred_hedged_calls_leave_nothing_behind(
    opened: Tanuki, server: LoopbackServer, script: Script
) -> None:
    mood = stub(hedge=Hedge(after=0.5, share=0.9))
    await warm_up(mood)
    script.steps = [(0.02, GOOD), (0.001, GOOD)] * 100

    answers = await asyncio.gather(*(mood(f"x {each}") for each in range(100)))

    assert answers == ["good"] * 100
    assert at_rest(opened)


def hedger(**keywords: Any) -> Hedger:
    return Hedger(Hedge(**keywords), clock=FakeClock(), tally=Tally())


def test_the_delay_is_the_nearest_rank_of_the_latest_latencies() -> None:
    found = hedger(after=0.95)
    for each in range(1, 20):
        found.saw(each)
    assert found.delay() is None
    found.saw(20)
    assert found.delay() == 19
    for _ in range(WINDOW):
        found.saw(0.5)
    assert found.delay() == 0.5


@pytest.mark.parametrize(
    ("keywords", "hint"),
    [
        ({"hedge": 0.95}, "Hedge"),
        ({"hedge": Hedge(after=1.0)}, "after"),
        ({"hedge": Hedge(share=0)}, "share"),
        ({"hedge": Hedge(share="half")}, "a number"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_work_is_refused_at_decoration(keywords: dict[str, Any], hint: str) -> None:
    with pytest.raises(tanuki.SettingsError, match=hint):
        stub(**keywords)


def test_true_means_the_defaults() -> None:
    assert tanuki.describe(stub(hedge=True)).options.hedge == Hedge()
    assert tanuki.describe(stub(hedge=False)).options.hedge is None


async def test_embeddings_are_not_hedged(opened: Tanuki) -> None:
    @tanuki.patch(hedge=True)
    async def embed(text: str) -> tanuki.Embedding[list[float]]:
        """Embed."""
        ...

    with pytest.raises(tanuki.SettingsError, match="leave out hedge"):
        await embed("x")
