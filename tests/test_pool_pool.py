from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import AsyncIterator

import pytest

from tanuki_async._errors import (
    NotOpenError,
    ProviderError,
    ProviderUnavailableError,
    RateLimitedError,
    SettingsError,
)
from tanuki_async._pool.http import Connections
from tanuki_async._pool.pool import Pool, Progress
from tanuki_async._records import AnswerSchema, Completion, GenerationParams, Head, Limits, Model, Request, Turn, Usage
from tanuki_async.abc import Http, Provider
from tanuki_async.testing import Answer, FakeClock, FakeProvider

HEAD = Head(function="f", system="x" * 400, answer=AnswerSchema(name="f", schema={"type": "object"}, strict=True))
MODEL = Model(provider="fake", name="m")
REQUEST = Request(model=MODEL, head=HEAD, turns=(Turn("user", "hi"),))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(autojump=0)


@pytest.fixture
async def pool(clock: FakeClock) -> AsyncIterator[Pool]:
    pool = make_pool(clock)
    yield pool
    await pool.aclose()


def make_pool(clock: FakeClock, **options: object) -> Pool:
    return Pool(Connections(), clock=clock, random=lambda: 0.0, **options)  # type: ignore[arg-type]


async def test_an_answer_comes_through_and_is_counted(pool: Pool) -> None:
    provider = FakeProvider(Answer("yes", usage=Usage(requests=1, input_tokens=10, output_tokens=2)))
    for _ in range(2):
        assert (await pool.complete(provider, REQUEST, Progress())).text == "yes"
    (account,) = pool.statistics().accounts
    assert (account.provider, account.requests, account.retries, account.failures) == ("fake", 2, 0, 0)
    assert account.usage == Usage(requests=2, input_tokens=20, output_tokens=4)
    assert (account.in_flight, account.waiting) == (0, 0)


async def test_embeddings_go_the_same_way(pool: Pool) -> None:
    provider = FakeProvider(embedding=lambda request: [[float(len(text))] for text in request.texts])
    provider.limit(1, retry_after=1)
    vectors, usage = await pool.embed(provider, MODEL, ["a", "bb"], Progress())
    assert vectors == [[1.0], [2.0]]
    assert pool.statistics().accounts[0].retries == 1
    assert pool.statistics().accounts[0].usage == usage


async def test_a_failure_is_tried_again_and_told_in_the_progress(pool: Pool, clock: FakeClock) -> None:
    provider, progress = FakeProvider("yes"), Progress()
    provider.fail(ProviderUnavailableError("ill", "fake", "m", 503))
    provider.limit(1, retry_after=3)
    assert (await pool.complete(provider, REQUEST, progress)).text == "yes"
    assert progress.tried == ["fake:m: HTTP 503 after 0.0 s", "HTTP 429 after 0.0 s"]
    assert clock.monotonic() == pytest.approx(3)
    assert pool.statistics().accounts[0].retries == 2


async def test_endless_429_ends_when_the_tries_are_used_up(pool: Pool, clock: FakeClock) -> None:
    provider = FakeProvider()
    provider.limit(100, retry_after=2)
    with pytest.raises(RateLimitedError) as caught:
        await pool.complete(provider, REQUEST, Progress())
    assert len(provider.calls) == 6
    assert caught.value.tried == ("fake:m: HTTP 429 after 0.0 s", *(f"HTTP 429 after {2 * n}.0 s" for n in range(1, 6)))
    assert "tried 6 times" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).tried == caught.value.tried
    assert pool.statistics().accounts[0].failures == 1


async def test_a_retry_that_would_come_too_late_is_not_waited_for(pool: Pool, clock: FakeClock) -> None:
    provider = FakeProvider()
    provider.limit(2, retry_after=30)
    with pytest.raises(RateLimitedError):
        await pool.complete(provider, REQUEST, Progress(deadline=clock.monotonic() + 45))
    assert len(provider.calls) == 2
    assert clock.monotonic() == 30


async def test_what_waits_for_a_retry_holds_no_place() -> None:
    clock = FakeClock()
    pool = Pool(Connections(), clock=clock, random=lambda: 1.0, limits={"fake": Limits(concurrency=1)})
    provider, progress = FakeProvider("yes"), Progress()
    provider.fail(ProviderUnavailableError("ill", "fake", "m", 500))
    waiting = asyncio.create_task(pool.complete(provider, REQUEST, progress))
    await clock.wait_sleeping()
    assert progress.waiting_for == "the next try in 0.5 s, after fake:m: HTTP 500 after 0.0 s"
    assert pool.statistics().waiting == 1
    assert pool.statistics().in_flight == 0
    assert (await pool.complete(provider, REQUEST, Progress())).text == "yes"
    await clock.advance(60)
    assert (await waiting).text == "yes"
    await pool.aclose()


async def test_the_gate_bounds_what_is_in_flight_first_come_first_served(clock: FakeClock) -> None:
    pool = make_pool(clock, limits={"fake": Limits(concurrency=3)})
    provider = FakeProvider("yes")
    await asyncio.gather(*(pool.complete(provider, REQUEST, Progress()) for _ in range(20)))
    assert provider.max_running <= 3
    assert (pool.statistics().in_flight, pool.statistics().waiting) == (0, 0)
    await pool.aclose()


async def test_a_call_says_that_it_waits_at_the_gate(clock: FakeClock) -> None:
    pool = make_pool(clock, limits={"fake": Limits(concurrency=1)})
    provider, progress = FakeProvider("yes"), Progress()
    provider.hang()
    first = asyncio.create_task(pool.complete(provider, REQUEST, Progress()))
    await provider.wait_called()
    second = asyncio.create_task(pool.complete(provider, REQUEST, progress))
    await asyncio.sleep(0)
    assert progress.waiting_for == "a place among fake's 1 requests at once"
    assert pool.statistics().waiting == 1
    provider.recover()
    await asyncio.gather(first, second)
    await pool.aclose()


async def test_requests_per_minute_are_kept(clock: FakeClock) -> None:
    pool, provider = make_pool(clock), FakeProvider("yes", limits=Limits(requests_per_minute=60))
    await asyncio.gather(*(pool.complete(provider, REQUEST, Progress()) for _ in range(70)))
    assert clock.monotonic() == pytest.approx(61)
    await pool.aclose()


async def test_tokens_per_minute_are_estimated_first_and_corrected_by_what_was_used(clock: FakeClock) -> None:
    answer = Answer("yes", usage=Usage(requests=1, input_tokens=900, output_tokens=0))
    pool, provider = make_pool(clock), FakeProvider(answer, limits=Limits(tokens_per_minute=1000))
    await pool.complete(provider, REQUEST, Progress())
    await pool.complete(provider, REQUEST, Progress())  # its estimate is less than its use
    used = clock.monotonic()
    await pool.complete(provider, REQUEST, Progress())
    assert clock.monotonic() - used > 45
    await pool.aclose()


async def test_a_request_too_large_for_the_limit_is_for_the_provider_to_judge(clock: FakeClock) -> None:
    pool, provider = make_pool(clock), FakeProvider("yes", limits=Limits(tokens_per_minute=10))
    assert (await pool.complete(provider, REQUEST, Progress())).text == "yes"
    await pool.aclose()


async def test_an_output_limit_counts_as_tokens_asked_for(clock: FakeClock) -> None:
    head = Head(function="f", system="x", answer=HEAD.answer, params=GenerationParams(max_new_tokens=600))
    request = Request(model=MODEL, head=head, turns=REQUEST.turns)

    async def answer(_: object) -> str:
        await asyncio.sleep(0)
        return "yes"

    pool, provider = make_pool(clock), FakeProvider(answer, limits=Limits(tokens_per_minute=1000))
    await asyncio.gather(*(pool.complete(provider, request, Progress()) for _ in range(2)))
    assert provider.max_running == 1
    await pool.aclose()


async def test_two_accounts_of_one_name_are_kept_apart(pool: Pool) -> None:
    for provider in (FakeProvider("a"), FakeProvider("b")):
        await pool.complete(provider, REQUEST, Progress())
    assert [account.requests for account in pool.statistics().accounts] == [1, 1]


class Broken(Provider):
    name = "broken"

    def __init__(self, error: BaseException) -> None:
        self.error, self.asked = error, 0

    async def complete(self, request: Request, http: Http) -> Completion:
        self.asked += 1
        raise self.error


async def test_a_bug_in_a_provider_is_named_and_not_retried(pool: Pool) -> None:
    provider = Broken(ZeroDivisionError("division by zero"))
    with pytest.raises(ProviderError, match="Broken failed with ZeroDivisionError: division by zero") as caught:
        await pool.complete(provider, REQUEST, Progress())
    assert type(caught.value) is ProviderError
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert provider.asked == 1


async def test_a_usage_error_of_a_provider_passes_through(pool: Pool) -> None:
    with pytest.raises(SettingsError, match="no key"):
        await pool.complete(Broken(SettingsError("no key")), REQUEST, Progress())
    assert pool.statistics().in_flight == 0


async def test_a_provider_without_embeddings_says_so(pool: Pool) -> None:
    with pytest.raises(ProviderError, match="no embeddings"):
        await pool.embed(Broken(ZeroDivisionError()), MODEL, ["a"], Progress())


async def test_a_cancelled_call_gives_its_place_back(pool: Pool) -> None:
    provider = FakeProvider()
    provider.hang()
    task = asyncio.create_task(pool.complete(provider, REQUEST, Progress()))
    await provider.wait_called()
    assert pool.statistics().in_flight == 1
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert pool.statistics().in_flight == 0


async def test_a_call_cancelled_while_it_waits_for_a_retry_is_cancelled(pool: Pool) -> None:
    clock = FakeClock()
    pool, provider = make_pool(clock), FakeProvider()
    provider.limit(1, retry_after=60)
    task = asyncio.create_task(pool.complete(provider, REQUEST, Progress()))
    await clock.wait_sleeping()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert clock.sleeping == 0
    assert pool.statistics().waiting == 0
    await pool.aclose()


async def test_a_call_cancelled_at_the_gate_gives_back_what_it_may_send_per_minute(clock: FakeClock) -> None:
    limits = Limits(concurrency=1, requests_per_minute=2, tokens_per_minute=300)
    pool, provider = make_pool(clock), FakeProvider("yes", limits=limits)
    provider.hang()
    first = asyncio.create_task(pool.complete(provider, REQUEST, Progress()))
    await provider.wait_called()
    second = asyncio.create_task(pool.complete(provider, REQUEST, Progress()))
    await asyncio.sleep(0)
    assert pool.statistics().waiting == 1
    second.cancel()
    await asyncio.wait({second})
    provider.recover()
    await first
    await pool.complete(provider, REQUEST, Progress())
    assert clock.monotonic() == 0
    await pool.aclose()


async def test_a_call_cancelled_while_it_waits_for_tokens_has_taken_no_request() -> None:
    answer = Answer("yes", usage=Usage(requests=1, input_tokens=6000, output_tokens=0))
    provider = FakeProvider(answer, limits=Limits(requests_per_minute=2, tokens_per_minute=6000))
    pool = make_pool(clock := FakeClock())
    await pool.complete(provider, REQUEST, Progress())
    second = asyncio.create_task(pool.complete(provider, REQUEST, Progress()))
    await clock.wait_sleeping()
    second.cancel()
    await asyncio.wait({second})
    assert pool.statistics().waiting == clock.sleeping == 0
    third = asyncio.create_task(pool.complete(provider, REQUEST, Progress()))
    await clock.wait_sleeping()
    await clock.advance(61.1)
    assert (await third).text == "yes"
    await pool.aclose()


async def test_what_was_used_beyond_the_estimate_counts_even_beyond_the_limit(clock: FakeClock) -> None:
    answer = Answer("yes", usage=Usage(requests=1, input_tokens=90, output_tokens=0))
    pool, provider = make_pool(clock), FakeProvider(answer, limits=Limits(tokens_per_minute=60))
    await pool.complete(provider, REQUEST, Progress())  # estimated at more than 100, of which 60 could be spent
    await pool.complete(provider, REQUEST, Progress())
    assert clock.monotonic() == pytest.approx(61)
    await pool.aclose()


async def test_two_hundred_calls_of_which_many_are_cancelled_leave_nothing_behind(clock: FakeClock) -> None:
    pool = make_pool(clock, limits={"fake": Limits(concurrency=10)})

    async def answer(_: object) -> str:
        await asyncio.sleep(0.001)
        return "yes"

    provider, draw = FakeProvider(answer), random.Random(7)
    tasks = [asyncio.create_task(pool.complete(provider, REQUEST, Progress())) for _ in range(200)]
    for task in draw.sample(tasks, 100):
        task.cancel()
        await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {Completion, asyncio.CancelledError}
    assert (pool.statistics().in_flight, pool.statistics().waiting) == (0, 0)
    await pool.aclose()


@pytest.mark.parametrize("limits", [Limits(concurrency=1), Limits(requests_per_minute=1), Limits()])
async def test_closing_ends_calls_that_wait(limits: Limits) -> None:
    clock = FakeClock()
    pool, provider = make_pool(clock, limits={"fake": limits}), FakeProvider()
    provider.hang()
    holder = asyncio.create_task(pool.complete(provider, REQUEST, Progress()))
    await provider.wait_called()
    other = provider if limits != Limits() else FakeProvider()
    if other is not provider:
        other.limit(1, retry_after=60)
    waiting = asyncio.create_task(pool.complete(other, REQUEST, Progress()))
    while not pool.statistics().waiting:  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0)
    await pool.aclose()
    await pool.aclose()
    with pytest.raises(NotOpenError):
        await waiting
    with pytest.raises(NotOpenError):
        await pool.complete(FakeProvider(), REQUEST, Progress())
    holder.cancel()
    await asyncio.wait({holder})
    assert pool.statistics().waiting == 0


async def test_a_closed_pool_refuses_a_limited_account(clock: FakeClock) -> None:
    pool, provider = make_pool(clock), FakeProvider("yes", limits=Limits(requests_per_minute=60, tokens_per_minute=600))
    await pool.complete(provider, REQUEST, Progress())
    await pool.embed(provider, MODEL, ["some text"], Progress())
    await pool.aclose()
    with pytest.raises(NotOpenError):
        await pool.complete(provider, REQUEST, Progress())
