from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tanuki_async._errors import NotOpenError
from tanuki_async._pool.limits import Gate, Rate
from tanuki_async._records import Limits
from tanuki_async.testing import FakeClock


async def test_a_gate_lets_in_as_many_as_it_has_places() -> None:
    gate = Gate(2)
    assert [gate.enter_nowait() for _ in range(3)] == [True, True, False]
    assert gate.inside == 2
    gate.leave()
    assert gate.enter_nowait()


async def test_a_gate_is_first_come_first_served() -> None:
    gate, order = Gate(1), list[int]()

    async def visit(number: int) -> None:
        await gate.enter()
        order.append(number)
        await asyncio.sleep(0)
        gate.leave()

    await asyncio.gather(*(visit(number) for number in range(50)))
    assert order == list(range(50))
    assert (gate.inside, gate.waiting) == (0, 0)


async def test_who_is_cancelled_in_the_queue_leaves_no_trace() -> None:
    gate = Gate(1)
    assert gate.enter_nowait()
    waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    assert gate.waiting == 3
    waiting[0].cancel()
    await asyncio.wait({waiting[0]})
    gate.leave()
    await waiting[1]
    assert (gate.inside, gate.waiting) == (1, 1)
    gate.leave()
    await waiting[2]
    gate.leave()
    assert (gate.inside, gate.waiting) == (0, 0)


async def test_who_is_let_in_and_cancelled_in_the_same_moment_gives_the_place_on() -> None:
    gate = Gate(1)
    assert gate.enter_nowait()
    first, second = (asyncio.create_task(gate.enter()) for _ in range(2))
    await asyncio.sleep(0)
    gate.leave()
    first.cancel()
    await asyncio.wait_for(second, 1)
    assert first.cancelled()
    assert (gate.inside, gate.waiting) == (1, 0)


async def test_a_closed_gate_sends_all_away() -> None:
    gate = Gate(1)
    assert gate.enter_nowait()
    waiting = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    gate.close()
    with pytest.raises(NotOpenError):
        await waiting
    gate.leave()
    assert not gate.enter_nowait()
    with pytest.raises(NotOpenError):
        await gate.enter()


def test_a_gate_without_places_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Gate(0)


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"requests_per_minute": 0.0}, {"tokens_per_minute": -1.0}])
def test_a_limit_of_nothing_is_refused_rather_than_taken_for_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="None"):
        Limits(**wrong)


async def test_fewer_than_one_request_per_minute_is_a_limit_too() -> None:
    clock = FakeClock(autojump=0)
    rate = Rate(0.5, clock=clock)
    await rate.spend(1)
    await rate.spend(1)
    assert clock.monotonic() == pytest.approx(120)


async def test_a_rate_gives_a_minutes_worth_at_once_and_then_as_time_goes() -> None:
    clock = FakeClock(autojump=0)
    rate = Rate(60, clock=clock)
    for _ in range(60):
        assert rate.spend_nowait(1)
    assert not rate.spend_nowait(1)
    await rate.spend(5)
    assert clock.monotonic() == pytest.approx(5)


async def test_a_big_request_is_not_overtaken() -> None:
    clock = FakeClock(autojump=0)
    rate, order = Rate(60, clock=clock), list[str]()
    await rate.spend(60)

    async def spend(name: str, units: float) -> None:
        await rate.spend(units)
        order.append(f"{name} {clock.monotonic():.0f}")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(spend("big", 50))
        tasks.create_task(spend("small", 1))
        await asyncio.sleep(0)
        assert not rate.spend_nowait(0.1)
    assert order == ["big 50", "small 51"]


async def test_a_cancelled_spender_spends_nothing() -> None:
    clock = FakeClock()
    rate = Rate(60, clock=clock)
    await rate.spend(60)
    task = asyncio.create_task(rate.spend(10))
    await clock.wait_sleeping()
    assert rate.waiting == 1
    task.cancel()
    await asyncio.wait({task})
    await clock.advance(10)
    assert rate.spend_nowait(10)
    assert rate.waiting == 0


async def test_what_was_guessed_wrong_is_corrected() -> None:
    clock = FakeClock(autojump=0)
    rate = Rate(60, clock=clock)
    await rate.spend(60)
    rate.correct(-10)
    assert rate.spend_nowait(10)
    rate.correct(20)
    await rate.spend(1)
    assert clock.monotonic() == pytest.approx(21)


async def test_what_can_never_fit_is_told() -> None:
    with pytest.raises(ValueError, match="never fit"):
        await Rate(60, clock=FakeClock()).spend(61)
    with pytest.raises(ValueError, match="greater than 0"):
        Rate(0)
