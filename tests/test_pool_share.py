"""What one process may send of a shared limit, by itself and while it is alone."""

from __future__ import annotations

from typing import Any

from tanuki_async._pool.share import Share
from tanuki_async._pool.windows import UNEVEN

PERIOD = 60.0
SPAN = PERIOD * (1 + UNEVEN)


def asked(share: Share, now: float, number: int, since: int) -> Any:
    return share.ask(now, number, since)


def test_what_was_sent_is_told_once_and_again_to_who_lost_it() -> None:
    share = Share(100, PERIOD)
    share.spend(0, 3)
    assert asked(share, 1, 1, 0)["sent"] == [(1, 1000, 3)]
    share.spend(1, 4)
    assert asked(share, 1.5, 2, 1)["sent"] == [(2, 500, 4)]
    assert asked(share, 2, 3, 2)["sent"] == []
    assert asked(share, 2, 4, 0)["sent"] == [(2, 1000, 4), (1, 2000, 3)]


def test_what_nobody_answered_is_told_again_with_its_number_so_that_it_counts_once() -> None:
    share = Share(100, PERIOD)
    share.spend(0, 3)
    asked(share, 0, 1, 0)
    share.spend(0.01, 4)
    assert asked(share, 1, 2, 0)["sent"] == [(2, 990, 4), (1, 1000, 3)]


def test_what_is_older_than_a_period_is_told_to_nobody_and_not_kept() -> None:
    share = Share(100, PERIOD)
    for second in range(200):
        share.spend(second, 1)
        asked(share, second, second + 1, second)
    assert len(asked(share, 200, 201, 0)["sent"]) == 60
    assert share.window.used == 60


def test_a_refund_is_told_with_the_slot_that_the_units_were_counted_in() -> None:
    share = Share(100, PERIOD)
    early = share.spend(0, 10)
    share.refund(early, 4)
    assert asked(share, 1, 1, 0)["sent"] == [(1, 1000, 6)]
    share.told(1_000_000, 0, 0)  # slots are 250 ms long
    share.refund(early, 5)
    said = asked(share, 2, 2, 1)
    assert said["sent"] == []
    assert said["refunds"] == [(2, 3996, 5)]
    assert asked(share, 3, 3, 1)["refunds"] == [(2, 3996, 5)]
    assert asked(share, 3, 4, 3)["refunds"] == []


def test_what_is_told_again_is_told_without_what_was_refunded() -> None:
    share = Share(100, PERIOD)
    early = share.spend(0, 10)
    asked(share, 0, 1, 0)
    share.told(1_000_000, 0, 0)
    share.refund(early, 5)
    said = asked(share, 1, 2, 0)  # the server has lost it
    assert said["sent"] == [(1, 1000, 5)]
    assert said["refunds"] == []


def test_a_share_that_is_not_wanted_goes_back_but_for_the_reserve() -> None:
    share = Share(100, PERIOD)
    share.told(0, 50, 20)
    said = asked(share, 0, 1, 0)
    assert said["kept"] == share.left == 20
    share.told(0, 0, 0)
    assert asked(share, 0, 2, 1)["kept"] == 0


def fall_silent(share: Share, now: float = 0) -> None:
    """Ask, and get no answer."""
    share.ask(now, 1_000, 0)


def test_alone_a_process_sends_no_more_in_a_period_than_it_had() -> None:
    share = Share(100, PERIOD)
    share.told(0, 40, 40)
    share.spend(0, 25)
    fall_silent(share)
    share.spend(0.5, 5)
    share.hold_alone(1, 1, 50)
    assert share.left == 10
    share.spend(1, 10)
    share.hold_alone(SPAN, 2, 50)
    assert share.left == 25  # what it sent first counts no more
    share.hold_alone(3 * SPAN, 3, 50)
    assert share.left == 40


def test_what_aged_before_redis_fell_silent_may_be_anothers_and_what_ages_later_may_be_sent_again() -> None:
    share = Share(100, PERIOD)
    share.told(0, 40, 0)
    share.spend(0, 30)
    share.spend(1, 10)
    fall_silent(share, SPAN)
    share.ask(SPAN + 1, 1_001, 0)
    share.hold_alone(SPAN + 2, 2, 50)
    assert share.left == 10


def test_after_a_period_alone_who_had_more_keeps_to_an_equal_part_and_after_another_who_had_less_has_it_too() -> None:
    more, less = Share(100, PERIOD), Share(100, PERIOD)
    more.told(0, 80, 80)
    less.told(0, 5, 5)
    fall_silent(more)
    fall_silent(less)
    had = [(share.allowed(0, 50), share.allowed(SPAN, 50), share.allowed(2 * SPAN, 50)) for share in (more, less)]
    assert had == [(80, 50, 50), (5, 5, 50)]


def test_alone_a_request_larger_than_what_one_had_waits_and_one_larger_than_an_equal_part_goes_by_itself() -> None:
    share = Share(100, PERIOD)
    fall_silent(share)
    for seconds, lacks in ((0, True), (SPAN, True), (2 * SPAN, False)):
        assert share.lacks(30)
        share.hold_alone(0, seconds, 10)
        assert share.lacks(30) == lacks
    share.spend(0, 30)
    share.lacks(30)
    share.hold_alone(1, 3 * SPAN, 10)
    assert share.left == 0


def test_what_a_process_may_send_alone_it_holds_when_it_asks_again() -> None:
    share = Share(100, PERIOD)
    share.told(0, 40, 40)
    share.spend(0, 25)
    fall_silent(share)
    share.hold_alone(1, 1, 50)
    assert asked(share, 1, 1_001, 0)["kept"] == share.left == 15
