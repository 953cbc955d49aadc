from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from tanuki_async._pool.adaptive import HANGS, Pace, Running


def refuse_round(pace: Pace, sent: int, size: int) -> int:
    """A whole round is refused; returns how many were sent by then."""
    for number in range(sent + 1, sent + size + 1):
        pace.slower(number, sent + size, size)
    return sent + size


def test_a_round_of_refusals_halves_what_ran_however_much_was_allowed() -> None:
    pace = Pace(1000)
    assert pace.full(0.0)
    sent = refuse_round(pace, 0, 40)
    assert pace.allowed == pytest.approx(20, abs=2)
    refuse_round(pace, sent, 20)
    assert pace.allowed == pytest.approx(10, abs=1)


def test_one_is_always_allowed() -> None:
    pace, sent = Pace(4), 0
    for _ in range(30):
        sent = refuse_round(pace, sent, 2)
    assert pace.allowed == 1
    assert pace.wait(1e9, 0) == 0


def test_rare_refusals_change_little() -> None:
    pace, draw = Pace(1000), random.Random(1)
    for number in range(50_000):
        if draw.random() < 0.01:
            pace.slower(number, number + int(pace.allowed), int(pace.allowed))
        else:
            pace.faster()
    assert pace.allowed > 900


def test_it_settles_near_what_the_server_stands() -> None:
    pace, sent, sizes = Pace(1000), 0, list[float]()
    refused = total = 0
    for _ in range(300):
        size = int(pace.allowed)
        for number in range(sent + 1, sent + size + 1):
            if number - sent > 50:
                pace.slower(number, sent + size, size)
            else:
                pace.faster()
        sent += size
        sizes.append(pace.allowed)
        refused, total = refused + max(0, size - 50), total + size
    assert 40 < sum(sizes[50:]) / 250 < 70
    assert refused < total / 5


def test_rounds_of_answers_allow_ever_more_until_all_is_allowed_again() -> None:
    pace = Pace(1000)
    pace.restart()
    allowed = [pace.allowed]
    while not pace.full(0.0):
        for _ in range(int(pace.allowed)):
            pace.faster()
        allowed.append(pace.allowed)
    assert allowed[1] == 2
    assert all(later <= 1 + earlier * 1.3 for earlier, later in pairwise(allowed))
    assert 20 < len(allowed) < 60
    assert pace.allowed == 1000


def test_starts_of_one_round_are_spread() -> None:
    pace, now, starts = Pace(100), 10.0, list[float]()
    refuse_round(pace, 0, 50)
    while len(starts) < 20:
        wait = pace.wait(now, 0)
        assert wait is not None
        now += wait
        pace.start(now)
        starts.append(now)
    assert 0.3 < starts[-1] - starts[0] < 0.5


def test_as_many_as_are_allowed_and_no_more() -> None:
    pace = Pace(10)
    refuse_round(pace, 0, 10)
    most = int(pace.allowed)
    assert pace.wait(0.0, most) is None
    assert pace.wait(0.0, most - 1) == 0


def test_starts_after_a_pause_are_spread_even_if_all_are_allowed() -> None:
    pace, now = Pace(10), 60.0
    pace.resume(60.0)
    assert not pace.full(60.4)
    for _ in range(5):
        pace.start(now)
        now += pace.wait(now, 0) or 0.0
    assert now == pytest.approx(60.23, abs=0.01)
    assert pace.full(60.5)


def test_what_takes_far_longer_than_usual_counts_as_hanging() -> None:
    running = Running()
    assert running.hanging(0.0) == (0, math.inf)
    for number in range(5):
        running.start(number, float(number))
    assert running.hanging(HANGS + 1.5) == (2, 0.5)
    running.end(0)
    assert running.hanging(HANGS + 1.5) == (1, 0.5)
    assert running.hanging(100.0) == (4, math.inf)


def test_what_is_usual_is_learnt() -> None:
    running = Running()
    for number in range(100):
        running.start(number, 0.0)
        running.answered(number, 30.0)
        running.end(number)
    running.start(100, 0.0)
    assert running.hanging(100.0)[0] == 0
    assert running.hanging(121.0)[0] == 1
