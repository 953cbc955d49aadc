"""One timer for many calls ends each when its time is over, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from contextvars import ContextVar

import pytest

from tanuki_async._deadlines import Deadlines


async def late(deadlines: Deadlines, seconds: float = 10.0) -> bool:
    """Sleep within a deadline; tell whether that is what ended it. Any other cancellation goes on."""
    deadline = deadlines.begin()
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if deadline.close():
            return True
        raise
    return deadline.close()


async def test_each_call_gets_its_whole_time() -> None:
    loop, deadlines, ends = asyncio.get_running_loop(), Deadlines(0.05), list[float]()

    async def call(after: float) -> None:
        await asyncio.sleep(after)
        began = loop.time()
        assert await late(deadlines)
        ends.append(loop.time() - began)

    await asyncio.gather(*(call(0.02 * number) for number in range(4)))
    assert min(ends) >= 0.049
    assert not deadlines.running


async def test_who_is_done_in_time_is_left_alone() -> None:
    deadlines = Deadlines(0.02)
    assert not await late(deadlines, 0.0)
    await asyncio.sleep(0.04)
    assert not deadlines.running


async def test_the_time_of_a_later_call_runs_after_that_of_earlier_ones_was_not_needed() -> None:
    deadlines = Deadlines(0.03)
    assert not await late(deadlines, 0.0)
    assert await late(deadlines)


async def test_a_cancellation_by_somebody_else_goes_on() -> None:
    deadlines = Deadlines(5.0)
    task = asyncio.create_task(late(deadlines))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not deadlines.running


async def test_a_cancellation_that_comes_together_with_the_deadline_goes_on() -> None:
    deadlines = Deadlines(5.0)
    task = asyncio.create_task(late(deadlines))
    await asyncio.sleep(0)
    (deadline,) = deadlines.running
    del deadlines.running[deadline]
    deadline.come()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_whose_deadline_passed_is_no_longer_being_cancelled() -> None:
    assert await late(Deadlines(0.01))
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    async with asyncio.timeout(1):
        await asyncio.sleep(0)


async def test_a_thousand_calls_need_one_timer() -> None:
    deadlines = Deadlines(60.0)
    tasks = [asyncio.create_task(late(deadlines)) for _ in range(1000)]
    await asyncio.sleep(0)
    assert len(deadlines.running) == 1000
    loop = asyncio.get_running_loop()
    mine = [handle for handle in loop._scheduled if getattr(handle._callback, "__self__", None) is deadlines]  # type: ignore[attr-defined]
    assert len(mine) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not deadlines.running


async def test_the_timer_rests_only_while_no_call_runs() -> None:
    deadlines = Deadlines(0.01)
    running = asyncio.create_task(late(deadlines))
    await asyncio.sleep(0)
    deadlines.rest()
    assert await running
    deadlines.begin().close()
    deadlines.rest()
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    assert not [each for each in scheduled if getattr(each._callback, "__self__", None) is deadlines]
    assert await late(deadlines)


async def test_what_a_call_had_around_it_is_let_go_of_with_the_call() -> None:
    around, deadlines = ContextVar[object]("around"), Deadlines(60.0)

    async def call() -> weakref.ref[object]:
        around.set(kept := asyncio.Event())
        deadlines.begin().close()
        return weakref.ref(kept)

    kept = await asyncio.create_task(call())
    await asyncio.sleep(0)  # the loop lets go of the task
    gc.collect()
    assert kept() is None


async def test_many_calls_that_end_together_are_ended_without_a_search_for_each() -> None:
    deadlines, task = Deadlines(0.0), asyncio.current_task()
    assert task is not None
    begun = [deadlines.begin() for _ in range(20_000)]
    began = time.perf_counter()
    deadlines._look()
    taken = time.perf_counter() - began
    assert all(each.passed for each in begun)
    assert not deadlines.running
    while task.cancelling():
        task.uncancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    assert taken < 0.06  # 0.01; where each looked for the first that is left, 0.15
