from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest

from tanuki_async.testing import FakeClock


async def test_time_stands_still_until_it_is_moved() -> None:
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0.01)
    assert not sleeper.done()
    assert clock.monotonic() == 0
    await clock.advance(1)
    assert sleeper.done()
    assert clock.monotonic() == 1


async def test_sleepers_wake_at_their_own_moment_and_in_the_order_of_their_coming() -> None:
    clock = FakeClock()
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as tasks:
        for name, seconds in (("late", 3), ("first", 1), ("second", 1), ("middle", 2)):
            tasks.create_task(sleep(name, seconds))
        await clock.advance(2.5)
        assert woken == [("first", 1), ("second", 1), ("middle", 2)]
        await clock.advance(0.5)
    assert woken[-1] == ("late", 3)


async def test_a_task_that_sleeps_again_wakes_within_one_advance() -> None:
    clock = FakeClock()
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await clock.sleep(1)
            await asyncio.sleep(0)
            ticks.append(clock.monotonic())

    task = asyncio.create_task(tick())
    await clock.advance(5)
    task.cancel()
    assert ticks == [1, 2, 3, 4, 5]
    assert clock.sleeps == [1] * 6


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(1))
    await clock.wait_sleeping(1)
    sleeper.cancel()
    await clock.advance(0)
    assert clock.sleeping == 0
    await clock.advance(2)
    assert sleeper.cancelled()


async def test_a_sleep_of_nothing_lets_others_run() -> None:
    clock = FakeClock()
    ran: list[int] = []
    asyncio.get_running_loop().call_soon(ran.append, 1)
    await clock.sleep(0)
    assert ran == [1]


async def test_the_date_follows() -> None:
    clock = FakeClock(start=datetime(2026, 5, 1, tzinfo=UTC))
    await clock.advance(3600)
    assert clock.now() == datetime(2026, 5, 1, 1, tzinfo=UTC)


async def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="go back"):
        await FakeClock().advance(-1)


async def test_a_task_that_never_rests_is_an_error_not_a_hang() -> None:
    clock = FakeClock()

    async def spin() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    task = asyncio.create_task(spin())
    with pytest.raises(RuntimeError, match="never stops working"):
        await clock.advance(1)
    task.cancel()


async def test_with_autojump_hours_pass_at_once_and_in_order() -> None:
    clock = FakeClock(autojump=0)
    began = time.monotonic()
    order: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        order.append(seconds)

    await asyncio.gather(*(sleep(seconds) for seconds in (3600, 60, 7200)))
    assert order == [60, 3600, 7200]
    assert clock.monotonic() == 7200
    assert time.monotonic() - began < 1


async def test_autojump_waits_for_work_that_is_under_way() -> None:
    clock = FakeClock(autojump=0)
    queue: asyncio.Queue[float] = asyncio.Queue()

    async def work() -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        queue.put_nowait(clock.monotonic())

    await asyncio.gather(clock.sleep(10), work())
    assert queue.get_nowait() == 0


async def test_autojump_can_wait_for_threads() -> None:
    clock = FakeClock(autojump=0.05)

    async def work() -> float:
        await asyncio.to_thread(time.sleep, 0.01)
        return clock.monotonic()

    _, seen = await asyncio.gather(clock.sleep(10), work())
    assert seen == 0


async def test_autojump_survives_a_cancelled_sleeper() -> None:
    clock = FakeClock(autojump=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await clock.sleep(5)
    await clock.sleep(1)
    assert clock.monotonic() == 1
