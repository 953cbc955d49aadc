from __future__ import annotations

import pytest

from tanuki_async._errors import (
    AuthenticationError,
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    QuotaExceededError,
    RateLimitedError,
    RefusalError,
    RequestRejectedError,
)
from tanuki_async._pool.retry import Retry, is_retryable, try_again
from tanuki_async.testing import FakeClock


@pytest.mark.parametrize(
    ("kind", "again"),
    [
        (ProviderUnreachableError, True),
        (ProviderUnavailableError, True),
        (RateLimitedError, True),
        (QuotaExceededError, False),
        (AuthenticationError, False),
        (RequestRejectedError, False),
        (RefusalError, False),
        (ProviderError, False),
    ],
)
def test_only_what_may_pass_is_tried_again(kind: type[ProviderError], again: bool) -> None:
    assert is_retryable(kind("x")) is again


@pytest.mark.parametrize("wish", [True, False])
def test_the_servers_own_wish_counts_most(wish: bool) -> None:
    error = RequestRejectedError("x") if wish else ProviderUnavailableError("x")
    error.should_retry = wish
    assert is_retryable(error) is wish


def test_what_the_connections_know_counts_through_a_provider_that_tells_it_in_its_own_name() -> None:
    told, known = ProviderUnreachableError("x", "openai"), ProviderUnreachableError("x")
    known.should_retry = False
    told.__cause__ = known
    assert not is_retryable(told)


def test_delays_double_up_to_a_cap_and_are_random() -> None:
    error = ProviderUnavailableError("x")
    assert [Retry().delay(error, n, lambda: 1.0) for n in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert Retry().delay(error, 3, lambda: 0.25) == 0.5
    assert Retry().delay(error, 2000, lambda: 0.0) == 0


def test_the_servers_hint_is_a_least_wait() -> None:
    error = RateLimitedError("x", retry_after=2.0)
    assert Retry().delay(error, 1, lambda: 0.0) == 2.0
    assert Retry().delay(error, 1, lambda: 1.0) == pytest.approx(2.2)


def test_a_hint_that_did_not_help_is_stretched() -> None:
    error = RateLimitedError("x", retry_after=0.0)
    assert [Retry().delay(error, n, lambda: 1.0) for n in range(1, 5)] == [0, 0.5, 1, 2]


@pytest.mark.parametrize(
    ("hint", "left", "worth"),
    [(120.0, None, True), (121.0, None, False), (5.0, 4.0, False), (3.0, 4.0, True), (None, 0.1, True)],
)
def test_a_wait_that_is_too_long_is_not_waited(hint: float | None, left: float | None, worth: bool) -> None:
    assert Retry().worth_it(RateLimitedError("x", retry_after=hint), left) is worth


async def again_until(outcomes: list[object], clock: FakeClock, tries: int = 6) -> object:
    async def again() -> object:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    first = ProviderUnavailableError("first")
    return await try_again(again, first, policy=Retry(tries=tries), pause=clock.sleep, draw=lambda: 1.0)


async def test_it_waits_and_tries_until_it_succeeds() -> None:
    clock = FakeClock(autojump=0)
    outcomes = [ProviderUnreachableError("second"), RateLimitedError("third", retry_after=7.0), "answer", "unused"]
    assert await again_until(outcomes, clock) == "answer"
    assert clock.sleeps == [0.5, 1.0, pytest.approx(8.7)]
    assert outcomes == ["unused"]


async def test_an_error_that_stays_ends_it() -> None:
    clock = FakeClock(autojump=0)
    with pytest.raises(AuthenticationError):
        await again_until([AuthenticationError("no"), "unused"], clock)
    assert clock.sleeps == [0.5]


async def test_the_tries_are_counted_with_the_first() -> None:
    clock = FakeClock(autojump=0)
    left: list[object] = [ProviderUnavailableError(str(n)) for n in range(9)]
    with pytest.raises(ProviderUnavailableError):
        await again_until(left, clock, tries=3)
    assert len(left) == 7


async def test_a_bug_is_not_retried() -> None:
    with pytest.raises(ZeroDivisionError):
        await again_until([ZeroDivisionError()], FakeClock(autojump=0))


def test_an_answer_that_had_begun_is_not_asked_for_again() -> None:
    error = ProviderUnreachableError("cut")
    assert is_retryable(error)
    error.begun = True
    assert not is_retryable(error)
