"""Many small pieces of work leave the loop its turns, in order and with none forgotten."""

from __future__ import annotations

import asyncio

import pytest

from tanuki_async._pool.rounds import PIECES, Rounds


class Counted:
    """Counts the pieces of each round of the loop."""

    def __init__(self, *, at_once: int) -> None:
        self.done: list[int] = []
        self.rounds: list[int] = [0]
        self.pieces = Rounds[int](asyncio.get_running_loop(), self.work, at_once=at_once)

    def work(self, piece: int) -> None:
        self.done.append(piece)
        self.rounds[-1] += 1

    async def until(self, count: int) -> None:
        while len(self.done) < count:
            await asyncio.sleep(0)
            self.rounds.append(0)


@pytest.mark.parametrize("at_once", [0, PIECES])
async def test_all_is_done_in_order_a_few_in_each_round(at_once: int) -> None:
    counted = Counted(at_once=at_once)
    for piece in range(1000):
        counted.pieces.put(piece)
    assert len(counted.done) == at_once
    counted.rounds.append(0)
    await counted.until(1000)
    assert counted.done == list(range(1000))
    assert max(counted.rounds) <= PIECES
    assert not counted.pieces.waiting


async def test_a_few_pieces_need_no_further_round() -> None:
    counted = Counted(at_once=PIECES)
    for piece in range(PIECES):
        counted.pieces.put(piece)
    assert len(counted.done) == PIECES


async def test_what_comes_while_others_wait_does_not_overtake_them() -> None:
    counted = Counted(at_once=PIECES)
    for piece in range(100):
        counted.pieces.put(piece)
    while len(counted.done) < 150:
        counted.pieces.put(len(counted.done) + counted.pieces.waiting)
        await asyncio.sleep(0)
    assert counted.done == list(range(len(counted.done)))


async def test_it_stops_asking_for_rounds_when_nothing_is_left() -> None:
    loop, counted = asyncio.get_running_loop(), Counted(at_once=0)
    counted.pieces.put(1)
    for _ in range(3):
        await asyncio.sleep(0)
    assert counted.done == [1]
    assert not any(getattr(handle._callback, "__self__", None) is counted.pieces for handle in loop._ready)  # type: ignore[attr-defined]


async def test_a_piece_that_fails_or_is_interrupted_stops_none_that_come_after_it() -> None:
    loop, told, done = asyncio.get_running_loop(), list[object](), list[int]()

    def work(piece: int) -> None:
        if piece == 1:
            raise RuntimeError("the handle is closed")
        done.append(piece)

    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    pieces = Rounds[int](loop, work, at_once=0)
    for piece in range(5):
        pieces.put(piece)
    for _ in range(4):
        await asyncio.sleep(0)
    pieces.put(5)
    for _ in range(4):
        await asyncio.sleep(0)
    assert done == [0, 2, 3, 4, 5]
    assert [str(error) for error in told] == ["the handle is closed"]
