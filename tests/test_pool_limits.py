from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tanuki_async._errors import NotOpenError
from tanuki_async._pool.limits import Gate
from tanuki_async._records import Limits


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
