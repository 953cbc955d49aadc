from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterator

import _redis
import pytest

pytest.importorskip("redis.asyncio.sentinel")

from tanuki_async._errors import SettingsError
from tanuki_async._pool.shared import SharedBudget, SharedLimits
from tanuki_async._pool.windows import Spent
from tanuki_async._records import Limits
from tanuki_async.storage._redis_place import RedisPlace

PERIOD = 1.0


@pytest.fixture(scope="module")
def server() -> Iterator[_redis.Server]:
    with _redis.server() as one:
        yield one


@pytest.fixture
def place(server: _redis.Server) -> RedisPlace:
    return RedisPlace.parse(f"{server.url}?prefix={uuid.uuid4().hex}")


def limits(place: RedisPlace) -> SharedLimits:
    return SharedLimits(place, period=PERIOD)


def made(shared: SharedLimits, asked: float | None = None, tokens: float | None = None) -> SharedBudget:
    budget = shared.budget("openai", Limits(requests_per_minute=asked, tokens_per_minute=tokens))
    assert budget is not None
    return budget


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.02)


async def spend(budget: SharedBudget, tokens: float = 0) -> Spent:
    """Wait as the turnstile does."""
    while (spent := budget.spend_nowait(tokens)) is None:  # noqa: ASYNC110
        await asyncio.sleep(budget.wait(tokens))
    return spent


async def rush(budget: SharedBudget, seconds: float, sent: list[float], tokens: float = 0) -> int:
    """Send as fast as may be."""
    count = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if budget.spend_nowait(tokens) is None:
            await asyncio.sleep(0.01)
        else:
            sent.append(time.monotonic())
            count += 1
    return count


def most(moments: list[float]) -> int:
    moments = sorted(moments)
    return max(sum(start <= each < start + PERIOD for each in moments) for start in moments)


async def test_processes_together_never_send_more_than_the_limit_and_nearly_all_of_it(place: RedisPlace) -> None:
    sent: list[float] = []
    several = [limits(place) for _ in range(4)]
    budgets = [made(shared, 40) for shared in several]
    await asyncio.gather(*(rush(budget, PERIOD, sent) for budget in budgets))
    counts = await asyncio.gather(*(rush(budget, 3 * PERIOD, sent) for budget in budgets))
    for shared in several:
        await shared.aclose()
    assert most(sent) <= 40
    assert sum(counts) >= 0.85 * 40 * 3
    assert all(abs(count - sum(counts) / 4) <= 0.2 * sum(counts) / 4 for count in counts), counts


async def test_a_process_that_wants_little_leaves_the_rest_to_the_others(place: RedisPlace) -> None:
    sent: list[float] = []
    calm, busy = limits(place), limits(place)

    async def now_and_then(budget: SharedBudget) -> int:
        for _ in range(5):
            await spend(budget)
            await asyncio.sleep(0.4)
        return 5

    _, many = await asyncio.gather(now_and_then(made(calm, 40)), rush(made(busy, 40), 2.5, sent))
    await calm.aclose()
    await busy.aclose()
    assert many >= 60


async def test_refunded_tokens_may_be_sent_again(place: RedisPlace) -> None:
    shared = limits(place)
    budget = made(shared, tokens=1000)
    began = time.monotonic()
    for _ in range(10):
        budget.settle(await spend(budget, 900), 10)
    await shared.aclose()
    assert time.monotonic() - began < 5 * PERIOD  # without refunds 9


async def test_a_call_larger_than_a_fair_share_gets_its_turn(place: RedisPlace) -> None:
    small, large = limits(place), limits(place)
    sent: list[float] = []
    busy = asyncio.create_task(rush(made(small, tokens=1000), 45, sent, tokens=50))
    await asyncio.sleep(0.3)
    await asyncio.wait_for(spend(made(large, tokens=1000), 900), 40)
    busy.cancel()
    await asyncio.wait({busy})
    await small.aclose()
    await large.aclose()


async def test_the_share_of_a_process_that_died_comes_back(place: RedisPlace) -> None:
    dead, alive = limits(place), limits(place)
    sent: list[float] = []
    gone = made(dead, 40)
    await spend(gone)
    assert gone._task is not None
    gone._task.cancel()  # as a killed process does, it says nothing more
    budget = made(alive, 40)
    await spend(budget)
    assert budget.members == 2
    await rush(budget, 3, sent)
    assert budget.members == 1
    assert len([each for each in sent if each > sent[-1] - PERIOD]) >= 30
    await alive.aclose()
    await dead._clients.aclose()


async def test_without_redis_each_keeps_to_its_part_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with _redis.server() as server:
        place = RedisPlace.parse(server.url)
        one, other = limits(place), limits(place)
        budgets = made(one, 40), made(other, 40)
        await until(lambda: budgets[0].members == budgets[1].members == 2)
        server.kill()
        with caplog.at_level(logging.INFO, "tanuki_async.pool"):
            await until(lambda: budgets[0].alone)
            sent: list[float] = []
            await rush(budgets[0], 2.2, sent)
            assert most(sent) == 20
            await asyncio.to_thread(server.start)
            await until(lambda: not (budgets[0].alone or budgets[1].alone))
        await one.aclose()
        await other.aclose()
    told = [record for record in caplog.records if "not shared now" in record.message]
    assert len(told) == 2  # one for each
    assert "start Redis" in told[0].message


async def test_less_than_one_a_minute_is_refused_as_all_together_would_send_more(place: RedisPlace) -> None:
    shared = limits(place)
    with pytest.raises(SettingsError, match=r"limit of 0\.5 a minute for openai cannot be shared"):
        shared.budget("openai", Limits(requests_per_minute=0.5, tokens_per_minute=100))
    await shared.aclose()
