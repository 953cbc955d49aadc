from __future__ import annotations

import pytest

from tanuki_async._pool.adaptive import Pace


def test_too_much_halves_what_ran_once_per_round() -> None:
    pace = Pace(1000)
    assert pace.full
    assert pace.slower(1, 40, 40)
    assert pace.allowed == 20
    assert not pace.slower(39, 40, 40)  # sent before the slow-down: no news
    assert pace.slower(41, 60, 20)
    assert pace.allowed == 10


def test_one_is_always_allowed() -> None:
    pace = Pace(4)
    for number in range(10):
        pace.slower(number + 1, number + 1, 1)
    assert pace.allowed == 1
    assert pace.wait(1e9, 0) == 0


def test_rounds_of_answers_allow_more_by_steps_that_grow_until_all_is_allowed_again() -> None:
    pace = Pace(1000)
    pace.slower(1, 8, 8)
    allowed = [pace.allowed]
    while not pace.full:
        for _ in range(int(pace.allowed)):
            pace.faster()
        allowed.append(pace.allowed)
    assert allowed[1] - allowed[0] == pytest.approx(1, abs=0.5)
    assert allowed[2] - allowed[1] == pytest.approx(2, abs=0.5)
    assert 30 < len(allowed) < 60
    assert pace.allowed == 1000


def test_starts_of_one_round_are_spread() -> None:
    pace, now, starts = Pace(100), 10.0, list[float]()
    pace.slower(1, 50, 50)
    while len(starts) < 20:
        wait = pace.wait(now, 0)
        assert wait is not None
        now += wait
        pace.start(now)
        starts.append(now)
    assert 0.3 < starts[-1] - starts[0] < 0.5


def test_as_many_as_are_allowed_and_no_more() -> None:
    pace = Pace(10)
    pace.slower(1, 10, 10)
    assert pace.wait(0.0, 5) is None
    assert pace.wait(0.0, 4) == 0


def test_a_restart_begins_with_one() -> None:
    pace = Pace(100)
    pace.restart(7)
    assert pace.allowed == 1
    assert not pace.slower(7, 7, 1)
