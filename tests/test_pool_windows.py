from __future__ import annotations

import random

import pytest

from tanuki_async._pool.windows import MINUTE, SLICES, LocalBudget, Window
from tanuki_async._records import Limits
from tanuki_async.testing import FakeClock


def most_in_any_window(sent: list[tuple[float, float]], seconds: float = MINUTE) -> float:
    """The largest sum of units over all windows of that length."""
    most = running = 0.0
    first = 0
    for moment, units in sent:
        running += units
        while sent[first][0] <= moment - seconds:
            running -= sent[first][1]
            first += 1
        most = max(most, running)
    return most


@pytest.mark.parametrize("seed", range(30))
def test_the_limit_holds_in_any_minute_whenever_requests_come_and_however_large_they_are(seed: int) -> None:
    draw = random.Random(seed)
    limit = draw.choice([1, 3, 60, 1000, 50_000])
    window, now, sent = Window(limit), 0.0, list[tuple[float, float]]()
    for _ in range(600):
        now += draw.choice([0.0, 0.0, 0.001, 0.3, 5.0]) * draw.random()
        units = float(draw.randint(1, max(1, limit // draw.choice([1, 3, 40]))))
        now += window.wait(now, units)
        assert window.wait(now, units) == 0
        window.spend(now, units)
        sent.append((now, units))
    assert most_in_any_window(sent) <= limit


@pytest.mark.parametrize("seed", range(10))
def test_the_limit_holds_for_what_was_really_used_when_guesses_are_too_high(seed: int) -> None:
    draw = random.Random(seed)
    window, now, sent = Window(1000), 0.0, list[tuple[float, float]]()
    for _ in range(400):
        now += draw.random()
        guessed = float(draw.randint(1, 400))
        now += window.wait(now, guessed)
        used = guessed * draw.random()
        window.refund(window.spend(now, guessed), guessed - used)
        sent.append((now, used))
    assert most_in_any_window(sent) <= 1000 + 1e-6
    assert now < 400 * 100 / 1000 * 61 * 1.5  # the refunds are used


def test_a_rested_window_gives_all_at_once_and_nothing_more_within_the_minute() -> None:
    window = Window(60)
    for _ in range(60):
        assert window.wait(0.0, 1) == 0
        window.spend(0.0, 1)
    assert window.wait(0.0, 1) == pytest.approx(61)
    assert window.wait(59.9, 1) > 0
    assert window.wait(61.0, 60) == 0


def test_memory_is_bounded_and_little_is_lost_by_that() -> None:
    window, sent = Window(1_000_000), 0
    for step in range(600_000):
        now = step / 5000
        if window.wait(now, 1) == 0:
            window.spend(now, 1)
            sent += 1
    assert sent == 600_000
    assert len(window._slices) <= SLICES * 1.05 + 2
    assert window.used == pytest.approx(5000 * 61, rel=0.01)


def test_less_than_one_in_a_minute_comes_in_ones() -> None:
    window = Window(0.5)
    window.spend(0.0, 1)
    assert window.wait(0.0, 1) == pytest.approx(122)


def test_more_than_the_limit_waits_for_an_empty_window() -> None:
    window = Window(10)
    window.spend(5.0, 1)
    assert window.wait(5.0, 50) == pytest.approx(61)
    with pytest.raises(ValueError, match="greater than 0"):
        Window(0)


def test_what_has_aged_is_not_refunded() -> None:
    window = Window(10)
    old = window.spend(0.0, 10)
    assert window.wait(70.0, 10) == 0
    window.spend(70.0, 10)
    window.refund(old, 10)
    assert window.used == 10
    assert window.wait(70.0, 1) > 0


def test_a_budget_takes_requests_and_tokens_together_or_neither() -> None:
    clock = FakeClock()
    budget = LocalBudget.of(Limits(requests_per_minute=2, tokens_per_minute=100), clock)
    spent = budget.spend_nowait(90)
    assert spent is not None
    assert budget.spend_nowait(20) is None
    budget.settle(spent, 50)
    second = budget.spend_nowait(20)
    assert second is not None
    assert budget.spend_nowait(1) is None
    budget.give_back(second)
    assert budget.spend_nowait(30) is not None


def test_use_beyond_the_guess_is_charged_now() -> None:
    clock = FakeClock()
    budget = LocalBudget.of(Limits(tokens_per_minute=100), clock)
    spent = budget.spend(10)
    budget.settle(spent, 150)
    assert budget.tokens is not None
    assert budget.tokens.used == 150
    assert budget.wait(1) == pytest.approx(61)
    budget.settle(LocalBudget.of(Limits(requests_per_minute=5), clock).spend(10), 99)  # no tokens were counted for it
    assert budget.tokens.used == 150


def test_limits_may_change_while_they_hold() -> None:
    clock = FakeClock()
    budget = LocalBudget.of(Limits(requests_per_minute=10), clock)
    for _ in range(5):
        budget.spend(1)
    budget.adjust(5, 100)
    assert budget.spend_nowait(1) is None
    assert budget.limits() == Limits(requests_per_minute=5, tokens_per_minute=100)
    assert budget.counts_tokens
    budget.adjust(6, None)
    assert budget.spend_nowait(1) is not None
    budget.adjust(None, None)
    assert budget.limits() == Limits()


def test_what_went_out_before_a_limit_was_known_counts() -> None:
    budget = LocalBudget.of(Limits(requests_per_minute=10), FakeClock())
    budget.begin_with(7)
    assert [budget.spend_nowait(1) is not None for _ in range(4)] == [True, True, True, False]
    LocalBudget.of(Limits(tokens_per_minute=10), FakeClock()).begin_with(7)
