from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import _redis
import pytest

pytest.importorskip("redis.asyncio.sentinel")

from tanuki_async._errors import SettingsError
from tanuki_async._pool.shared import SharedBudget, SharedLimits
from tanuki_async._pool.shares import DEAL
from tanuki_async._pool.windows import Spent
from tanuki_async._records import Limits
from tanuki_async.storage._redis_client import Clients
from tanuki_async.storage._redis_place import RedisPlace
from tanuki_async.testing import FakeClock

PERIOD = 1.0


@pytest.fixture(scope="module")
def server() -> Iterator[_redis.Server]:
    with _redis.server() as one:
        yield one


@pytest.fixture
def place(server: _redis.Server) -> RedisPlace:
    return RedisPlace.parse(f"{server.url}?prefix={uuid.uuid4().hex}")


def limits(place: RedisPlace, period: float = PERIOD) -> SharedLimits:
    return SharedLimits(place, period=period)


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


def most(moments: list[float], period: float = PERIOD) -> int:
    moments = sorted(moments)
    return max(sum(start <= each < start + period for each in moments) for start in moments)


async def test_processes_together_never_send_more_than_the_limit_and_nearly_all_of_it(place: RedisPlace) -> None:
    sent: list[float] = []
    several = [limits(place) for _ in range(4)]
    budgets = [made(shared, 40) for shared in several]
    counts = await asyncio.gather(*(rush(budget, 4 * PERIOD, sent) for budget in budgets))
    for shared in several:
        await shared.aclose()
    assert most(sent) <= 40
    assert sum(counts) >= 0.85 * 40 * 4
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


async def test_calls_far_from_the_limit_wait_for_no_round_also_when_redis_stops_and_is_back() -> None:
    with _redis.server() as server:
        several = [limits(RedisPlace.parse(server.url), period=60) for _ in range(2)]
        budgets = [made(shared, 6000) for shared in several]
        for budget in budgets:
            await spend(budget)
        await until(lambda: all(budget._requests is not None and budget._requests.left > 300 for budget in budgets))
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        waited = 0
        for turn in range(250):  # alone after 2 seconds
            if turn == 220:
                assert all(budget.alone for budget in budgets)
                os.kill(server.process.pid, signal.SIGCONT)
            waited += sum(budget.spend_nowait(0) is None for budget in budgets)
            await asyncio.sleep(0.012)
        assert not any(budget.alone for budget in budgets)
        assert waited == 0
        for shared in several:
            await shared.aclose()


@pytest.mark.parametrize("fault", ["paused", "restarted empty"])
async def test_unequal_processes_keep_the_limit_when_redis_is_away_and_when_it_is_back(fault: str) -> None:
    period, sent = 2.0, list[float]()
    with _redis.server() as server:
        several = [limits(RedisPlace.parse(server.url), period) for _ in range(3)]
        budgets = [made(shared, 120) for shared in several]
        await rush(budgets[0], 1.0, sent)  # has nearly all
        assert server.process is not None
        server.kill() if fault == "restarted empty" else os.kill(server.process.pid, signal.SIGSTOP)
        rushing = [asyncio.create_task(rush(budget, 6.5, sent)) for budget in budgets]
        await until(lambda: all(budget.alone for budget in budgets))
        await asyncio.sleep(random.random() * 1.5)
        if fault == "paused":
            os.kill(server.process.pid, signal.SIGCONT)
        else:
            await asyncio.to_thread(server.start)
        counts = await asyncio.gather(*rushing)
        assert not any(budget.alone for budget in budgets)
        for shared in several:
            await shared.aclose()
    assert most(sent, period) <= 120
    assert len([each for each in sent if each > max(sent) - period]) >= 100  # shared again, and used
    assert min(counts) >= 30


async def test_a_process_that_itself_stood_still_does_not_use_what_it_held(place: RedisPlace) -> None:
    clock = FakeClock()
    shared = SharedLimits(place, clock=clock, period=PERIOD)
    budget = made(shared, 40)
    await until(lambda: budget.wait(0) == 0)
    await clock.advance(30)
    assert budget.wait(0) > 0
    await until(lambda: budget.wait(0) == 0)
    await shared.aclose()


async def test_closing_many_accounts_waits_for_a_redis_that_stopped_once_and_for_an_unknown_one_not_at_all() -> None:
    allowed = Limits(requests_per_minute=40)
    with _redis.server() as server:
        place = RedisPlace.parse(server.url)
        known = limits(place)
        budgets = [known.budget(f"account-{number}", allowed) for number in range(6)]
        await until(lambda: all(budget is not None and budget._heard for budget in budgets))
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        unknown = limits(place)
        for number in range(6):
            unknown.budget(f"account-{number}", allowed)
        await asyncio.sleep(0.05)
        async with asyncio.timeout(0.3):
            await unknown.aclose()
        async with asyncio.timeout(0.9):  # each waits half a second
            await known.aclose()


async def test_one_that_starts_without_redis_takes_what_its_url_says(caplog: pytest.LogCaptureFixture) -> None:
    shared = limits(RedisPlace.parse(f"redis://127.0.0.1:{_redis.free_port()}?members=4"))
    budget = made(shared, 40)
    await until(lambda: budget.alone)
    assert sum(budget.spend_nowait(0) is not None for _ in range(40)) == 10
    assert "keeps to 1/4 of them. Start Redis, or tell how many there are at most with ?members=" in caplog.text
    await shared.aclose()


class Process:
    """One that tells the script what it likes."""

    def __init__(self, place: RedisPlace) -> None:
        self.clients, self.name, self.number = Clients(place), uuid.uuid4().hex, 0

    async def ask(
        self, *, units: float = 0, kept: float = 0, wanted: float = 0, number: int | None = None, **more: Any
    ) -> Any:
        self.number = self.number + 1 if number is None else number
        kind = {
            "limit": 100,
            "sent": [(self.number, 0, units)],
            "used": units,
            "kept": kept,
            "wanted": wanted,
            "least": 1,
        }
        kinds = [each | {"refunds": []} for each in (kind, dict.fromkeys(kind, 0) | {"sent": []})]
        said = {"number": self.number, "since": 0, "knew": 0, "at": 0, "patience": 1000, "period": 60_000}
        said |= {"lasting": 400, "interval": 60_000, "kinds": kinds}
        keys = ["{limits}members", "{limits}requests", "{limits}tokens"]
        keys = [f"{self.clients.place.prefix}:{key}" for key in keys]
        return json.loads(await self.clients.run(DEAL, keys, self.name, json.dumps(said | more)))


async def test_what_a_process_tells_twice_counts_once(place: RedisPlace) -> None:
    one, other = Process(place), Process(place)
    reserve = (await one.ask(units=30, number=1))["grants"][0]
    assert "grants" not in await one.ask(units=30, number=1)
    assert (await other.ask(wanted=100))["grants"][0] == 100 - 30 - reserve
    await one.clients.aclose()
    await other.clients.aclose()


async def test_a_message_that_lay_in_a_stopped_server_is_void(place: RedisPlace) -> None:
    one = Process(place)
    now = (await one.ask(units=1))["now"]
    assert (await one.ask(units=50, at=now - 1500))["number"] == 1
    assert "grants" in await one.ask(units=50, at=now - 500)
    await one.clients.aclose()


async def test_a_server_that_lost_the_last_rounds_says_which_is_the_last_it_has(place: RedisPlace) -> None:
    one = Process(place)
    await one.ask(number=5)
    assert (await one.ask(number=9, since=8))["number"] == 5
    assert "grants" in await one.ask(number=10, since=5)
    await one.clients.aclose()


async def test_a_server_that_evicted_only_what_was_sent_asks_for_everything_again(place: RedisPlace) -> None:
    one = Process(place)
    await one.ask(units=90)
    await one.clients.command("forget", "DEL", f"{place.prefix}:{{limits}}requests")
    assert (await one.ask(since=1, wanted=100))["number"] == 0
    assert (await one.ask(units=90, wanted=100))["grants"][0] <= 10
    await one.clients.aclose()


async def test_a_server_whose_clock_was_set_back_goes_on_from_the_latest_time_it_knew(place: RedisPlace) -> None:
    one, dead = Process(place), Process(place)
    await dead.ask()
    before = await one.ask()
    key = f"{place.prefix}:{{limits}}members"
    for name in (one.name, dead.name):  # as if they had been heard by a clock that was a minute ahead
        member = json.loads(await one.clients.command("look", "HGET", key, name))
        await one.clients.command("set", "HSET", key, name, json.dumps(member | {"seen": member["seen"] + 60_000}))
    after = await one.ask()
    assert 59_000 < after["now"] - before["now"] < 61_000
    for _ in range(4):
        await asyncio.sleep(0.17)
        after = await one.ask()
    assert after["members"] == 1  # time goes on, and who is silent is gone
    await one.clients.aclose()
    await dead.clients.aclose()


async def test_after_a_silence_nothing_is_granted_until_all_were_heard(place: RedisPlace) -> None:
    one, other = Process(place), Process(place)
    await one.ask()
    await other.ask(units=10)
    await asyncio.sleep(0.32)  # longer than they hold a share
    first = await one.ask(wanted=50)
    assert (first["settled"], first["grants"][0]) == (False, 0)
    second = await other.ask(units=40)
    assert second["settled"]
    assert (await one.ask(wanted=100))["grants"][0] == 100 - 10 - 40 - second["grants"][0]
    await one.clients.aclose()
    await other.clients.aclose()


async def test_who_is_not_heard_after_a_silence_counts_as_having_sent_all_that_it_could(place: RedisPlace) -> None:
    one, other = Process(place), Process(place)
    held = (await other.ask(units=10, wanted=20))["grants"][0]
    await one.ask()
    await asyncio.sleep(0.32)
    for _ in range(4):
        assert not (await one.ask())["settled"]
        await asyncio.sleep(0.17)
    back = await one.ask(wanted=100)
    assert back["settled"]
    assert back["members"] == 1
    assert back["grants"][0] == 100 - 10 - 10 - held  # what it told, and once more what it had
    await one.clients.aclose()
    await other.clients.aclose()


async def test_a_server_that_forgot_all_grants_nothing_until_those_who_knew_each_other_told(place: RedisPlace) -> None:
    one, other = Process(place), Process(place)
    first = await one.ask(units=30, wanted=70, knew=2)
    assert (first["settled"], first["members"], first["grants"][0]) == (False, 2, 0)
    reserve = (await other.ask(units=60, knew=2))["grants"][0]
    assert (await one.ask(wanted=70))["grants"][0] == 100 - 30 - 60 - reserve
    await one.clients.aclose()
    await other.clients.aclose()


async def test_what_one_held_that_was_taken_for_dead_is_taken_from_it_when_it_comes_back(place: RedisPlace) -> None:
    late, other = Process(place), Process(place)
    held = (await late.ask(wanted=40))["grants"][0]
    for _ in range(4):
        await asyncio.sleep(0.17)
        now = await other.ask(wanted=100)
    assert now["members"] == 1
    await other.ask(kept=100 - held)
    back = await late.ask(kept=held)
    assert back["grants"][0] == -held
    await late.clients.aclose()
    await other.clients.aclose()


async def test_processes_that_die_again_and_again_leave_about_half_to_the_others(place: RedisPlace) -> None:
    steady = Process(place)
    await steady.ask()
    for _ in range(8):
        newborn = Process(place)
        await newborn.ask(lasting=20)
        await newborn.clients.aclose()
        await asyncio.sleep(0.035)  # for which it is silent
        await steady.ask()
    assert 40 <= (await steady.ask(wanted=100))["grants"][0] < 90
    await steady.clients.aclose()


async def test_less_than_one_a_minute_is_refused_as_all_together_would_send_more(place: RedisPlace) -> None:
    shared = limits(place)
    with pytest.raises(SettingsError, match=r"limit of 0\.5 a minute for openai cannot be shared"):
        shared.budget("openai", Limits(requests_per_minute=0.5, tokens_per_minute=100))
    await shared.aclose()
