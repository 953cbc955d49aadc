from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from _raw_server import ABORT, RawServer, ok
from pydantic import TypeAdapter

from tanuki_async._errors import (
    AuthenticationError,
    NotOpenError,
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    RateLimitedError,
)
from tanuki_async._pool.breaker import FAILURES
from tanuki_async._pool.delays import late
from tanuki_async._pool.http import Connections
from tanuki_async._pool.pool import LaneStatistics, Pool, PoolStatistics, Progress
from tanuki_async._pool.windows import Budget, LocalBudget
from tanuki_async._records import AnswerSchema, Completion, Head, Limits, Model, RateHint, Request, Turn, Usage
from tanuki_async.abc import Http, Provider
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.testing import FakeClock

TypeAdapter(int)  # pydantic looks for its plugins on disk, once
HEAD = Head(function="f", system="x", answer=AnswerSchema(name="f", schema={"type": "object"}, strict=True))
Answerer = Callable[["Scripted", Request], Any]


class Scripted(Provider):
    """Answers by a function, after a time on its clock; remembers who came when."""

    def __init__(
        self,
        clock: FakeClock,
        answer: Answerer | None = None,
        *,
        seconds: float = 0.0,
        name: str = "fake",
        usage: Usage | None = None,
    ) -> None:
        self.name, self.limits = name, Limits()
        self.clock, self.seconds, self.usage = clock, seconds, usage
        self.answer = answer
        self.sent: list[tuple[float, str, str]] = []
        self.running = self.most = 0

    @property
    def moments(self) -> list[float]:
        return [moment for moment, _, _ in self.sent]

    @property
    def order(self) -> list[str]:
        return [text for _, _, text in self.sent]

    async def complete(self, request: Request, http: Http) -> Completion:
        self.sent.append((self.clock.monotonic(), request.model.name, request.turns[0].text))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            result = self.answer(self, request) if self.answer else None
            await self.clock.sleep(self.seconds)
        finally:
            self.running -= 1
        if isinstance(result, Exception):
            raise result
        usage = self.usage or Usage(requests=1, input_tokens=1, output_tokens=1)
        return Completion(text="yes", usage=usage, rate=result if isinstance(result, RateHint) else None)


def question(text: str = "x", model: str = "m", provider: str = "fake", room: int | None = None) -> Request:
    model_ = Model(provider=provider, name=model)
    return Request(model=model_, head=HEAD, turns=(Turn("user", text),), max_tokens=room)


def limited(retry_after: float | None = None) -> RateLimitedError:
    return RateLimitedError("too many", "fake", "m", 429, None, retry_after)


def ill(status: int = 500) -> ProviderUnavailableError:
    return ProviderUnavailableError("ill", "fake", "m", status)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(autojump=0)


def make_pool(clock: FakeClock, draw: float = 0.0, **options: Any) -> Pool:
    return Pool(Connections(), clock=clock, random=lambda: draw, **options)


@pytest.fixture
async def pool(clock: FakeClock) -> AsyncIterator[Pool]:
    pool = make_pool(clock)
    yield pool
    assert_at_rest(pool.statistics())
    await pool.aclose()


def assert_at_rest(statistics: PoolStatistics) -> None:
    assert (statistics.in_flight, statistics.waiting) == (0, 0)
    for account in statistics.accounts:
        assert all((lane.in_flight, lane.waiting) == (0, 0) for lane in account.models)
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert not [name for name in names if name.startswith("tanuki_async")]


def lane_of(pool: Pool, place: int = 0) -> LaneStatistics:
    return pool.statistics().accounts[0].models[place]


# Limits


@pytest.mark.parametrize("seed", range(8))
async def test_limits_hold_in_any_minute_and_the_order_is_kept_when_calls_come_at_random(
    clock: FakeClock, seed: int
) -> None:
    draw = random.Random(seed)
    limits = Limits(requests_per_minute=60, tokens_per_minute=20_000, concurrency=draw.choice([2, 1000]))
    pool = make_pool(clock, limits={"fake": limits})
    provider = Scripted(clock, seconds=draw.random(), usage=Usage(requests=1, input_tokens=0, output_tokens=0))
    rooms = [draw.choice([5, 50, 2000, 19_000]) for _ in range(150)]
    came: list[int] = []

    async def call(number: int, after: float) -> None:
        await clock.sleep(after)
        came.append(number)
        await pool.complete(provider, question(str(number), room=rooms[number]), Progress())

    tasks = [asyncio.create_task(call(number, draw.random() * 200)) for number in range(150)]
    for task in draw.sample(tasks, 30):
        asyncio.get_running_loop().call_later(0.01 * draw.random(), task.cancel)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [number for number in came if str(number) in provider.order] == [int(text) for text in provider.order]
    for index, start in enumerate(provider.moments):
        within = [text for moment, _, text in provider.sent[index:] if moment < start + 60]
        assert len(within) <= 60
        assert sum(rooms[int(text)] for text in within) <= 20_000
    assert_at_rest(pool.statistics())
    await pool.aclose()


async def test_a_large_call_is_neither_overtaken_nor_in_the_way_for_longer_than_its_size_asks(clock: FakeClock) -> None:
    pool, provider = make_pool(clock, limits={"fake": Limits(tokens_per_minute=1000)}), Scripted(clock)
    provider.usage = Usage(requests=1, input_tokens=0, output_tokens=0)  # a server that does not tell
    rooms = {"a": 600, "large": 900, "b": 10, "c": 10}
    calls = [pool.complete(provider, question(text, room=room), Progress()) for text, room in rooms.items()]
    await asyncio.gather(*calls)
    assert provider.order == ["a", "large", "b", "c"]
    assert provider.moments == pytest.approx([0, 61, 61, 61])
    await pool.aclose()


async def test_a_model_with_limits_of_its_own_does_not_count_towards_the_others(clock: FakeClock) -> None:
    limits = {"fake": Limits(requests_per_minute=1), "fake:own": Limits(requests_per_minute=2)}
    pool, provider = make_pool(clock, limits=limits), Scripted(clock)
    models = ["a", "own", "own", "b", "own"]
    await asyncio.gather(*(pool.complete(provider, question(model, model), Progress()) for model in models))
    assert [(round(moment), model) for moment, model, _ in provider.sent] == [
        (0, "a"), (0, "own"), (0, "own"), (61, "b"), (61, "own"),
    ]  # fmt: skip
    assert [lane.limits.requests_per_minute for lane in pool.statistics().accounts[0].models] == [1, 2, 1]
    await pool.aclose()


async def test_limits_that_are_shared_elsewhere_may_stand_in_for_the_local_ones(clock: FakeClock) -> None:
    made: list[str] = []

    def budget(name: str, limits: Limits) -> Budget:
        made.append(name)
        return LocalBudget.of(Limits(requests_per_minute=1), clock)

    pool, provider = make_pool(clock, budget=budget), Scripted(clock)
    await asyncio.gather(*(pool.complete(provider, question(), Progress()) for _ in range(2)))
    assert made == ["fake"]
    assert provider.moments == pytest.approx([0, 61])
    await pool.aclose()


async def test_usual_answers_count_before_they_are_given(clock: FakeClock) -> None:
    pool, provider = make_pool(clock, limits={"fake": Limits(tokens_per_minute=10_000)}), Scripted(clock)
    provider.usage = Usage(requests=1, input_tokens=5, output_tokens=400)
    for _ in range(20):
        await pool.complete(provider, question(), Progress())
    provider.sent.clear()
    provider.seconds = 1.0
    await clock.sleep(100)
    await asyncio.gather(*(pool.complete(provider, question(), Progress()) for _ in range(60)))
    first = provider.moments[0]
    assert sum(moment < first + 60 for moment in provider.moments) < 35  # without: all 60, 24,000 tokens
    await pool.aclose()


# Pauses and pace


async def test_a_429_stops_everybody_for_as_long_as_it_says_and_all_go_on_in_order(clock: FakeClock) -> None:
    pool = make_pool(clock, limits={"fake": Limits(concurrency=10)})
    provider = Scripted(clock, lambda p, _: limited(5) if len(p.sent) == 1 else None, seconds=0.01)
    progresses = [Progress() for _ in range(40)]

    async def call(number: int) -> None:
        await clock.sleep(number / 1000)
        await pool.complete(provider, question(str(number)), progresses[number])

    await asyncio.gather(*(call(number) for number in range(40)))
    before = sum(moment < 5 for moment in provider.moments)
    assert before <= 11  # what ran already when the 429 came
    after = [int(text) for moment, _, text in provider.sent if moment >= 5]
    assert after == sorted(after)
    assert after[0] == 0
    assert provider.moments[before + 3] - provider.moments[before] > 0.02  # no herd
    assert_at_rest(pool.statistics())
    await pool.aclose()


async def test_a_pause_of_one_model_does_not_stop_another_under_the_same_limits(clock: FakeClock) -> None:
    pool = make_pool(clock, limits={"fake": Limits(concurrency=1)})
    provider = Scripted(clock, lambda p, r: limited(50) if r.model.name == "a" and len(p.sent) == 1 else None)
    await asyncio.gather(*(pool.complete(provider, question(model=model), Progress()) for model in "aabbb"))
    assert [(round(moment), model) for moment, model, _ in provider.sent] == [
        (0, "a"), (0, "b"), (0, "b"), (0, "b"), (50, "a"), (50, "a"),
    ]  # fmt: skip
    await pool.aclose()


async def test_a_call_that_a_pause_makes_too_late_fails_at_once_and_says_so(pool: Pool, clock: FakeClock) -> None:
    provider = Scripted(clock, lambda p, _: limited(30))
    with pytest.raises(RateLimitedError):
        await pool.complete(provider, question(), Progress(deadline=20))
    with pytest.raises(RateLimitedError, match=r"pause that lasts another 30.0 s, with HTTP 429") as caught:
        await pool.complete(provider, question(), Progress(deadline=20))
    assert len(provider.sent) == 1
    assert caught.value.retry_after == pytest.approx(30)
    assert caught.value.tried == ("fake:m: not asked: it asked for a pause that lasts another 30.0 s after 0.0 s",)
    assert lane_of(pool).paused_for == pytest.approx(30)


async def test_who_waits_already_fails_too_when_a_pause_makes_it_too_late(clock: FakeClock) -> None:
    pool = make_pool(clock, limits={"fake": Limits(concurrency=1)})
    provider = Scripted(clock, lambda p, _: limited(30) if len(p.sent) == 1 else None, seconds=1)
    calls = [pool.complete(provider, question(str(n)), Progress(deadline=20 if n else None)) for n in range(5)]
    patient = pool.complete(provider, question("patient"), Progress())
    results = await asyncio.gather(*calls, patient, return_exceptions=True)
    assert [type(result) for result in results] == [Completion, *[RateLimitedError] * 4, Completion]
    assert provider.order == ["0", "0", "patient"]
    assert_at_rest(pool.statistics())
    await pool.aclose()


async def test_no_answer_stops_a_model_for_longer_than_two_minutes(pool: Pool, clock: FakeClock) -> None:
    provider = Scripted(clock, lambda p, _: limited(1e8) if len(p.sent) == 1 else None)
    with pytest.raises(RateLimitedError):
        await pool.complete(provider, question(), Progress())
    await pool.complete(provider, question(), Progress())
    assert provider.moments == pytest.approx([0, 120])


async def test_a_server_that_stands_few_at_once_is_given_few_at_once(clock: FakeClock) -> None:
    pool = make_pool(clock, draw=0.5)
    provider = Scripted(clock, lambda p, _: limited() if p.running > 8 else None, seconds=0.2)
    await asyncio.gather(*(pool.complete(provider, question(str(n)), Progress()) for n in range(100)))
    assert len(provider.sent) - 100 < 150  # refused ones, of which the first round is most
    assert_at_rest(pool.statistics())
    provider.answer = None
    for _ in range(60):
        await asyncio.gather(*(pool.complete(provider, question(), Progress()) for _ in range(100)))
    assert lane_of(pool).allowed > 300
    await pool.aclose()


async def test_requests_that_hang_do_not_stop_a_slowed_model(clock: FakeClock) -> None:
    pool = make_pool(clock, draw=0.5)

    async def hang(request: Request, http: Http) -> Completion:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    provider = Scripted(clock, lambda p, _: limited() if len(p.sent) <= 60 else None, seconds=0.1)
    await asyncio.gather(*(pool.complete(provider, question(), Progress()) for _ in range(60)))
    allowed = lane_of(pool).allowed
    assert allowed < 100
    hung = [asyncio.create_task(pool.complete(provider, question(), Progress(), ask=hang)) for _ in range(allowed)]
    began = clock.monotonic()
    await asyncio.gather(*(pool.complete(provider, question(), Progress()) for _ in range(50)))
    assert 9 < clock.monotonic() - began < 14
    for task in hung:
        task.cancel()
    await asyncio.wait(hung)
    assert_at_rest(pool.statistics())
    await pool.aclose()


async def test_who_waits_for_a_slow_model_is_told_so() -> None:
    clock = FakeClock()
    pool, progress = make_pool(clock), Progress()
    provider = Scripted(clock, lambda *_: limited(10) if clock.monotonic() < 1 else None, seconds=0.5)
    tasks = [asyncio.create_task(pool.complete(provider, question(str(n)), Progress())) for n in range(4)]
    await clock.wait_sleeping(4)
    await clock.advance(1)
    tasks.append(asyncio.create_task(pool.complete(provider, question("last"), progress)))
    await clock.advance(0)
    assert "pause that lasts another 9.5 s" in progress.waiting_for
    await clock.advance(9.6)
    allowed = lane_of(pool).allowed
    assert (allowed, lane_of(pool).in_flight, lane_of(pool).waiting) == (3, 1, 4)
    tasks[-1].cancel()
    await asyncio.wait(tasks[-1:])
    assert progress.waiting_for.startswith(f"fake:m to recover: it takes {allowed} at once now, after HTTP 429")
    await clock.advance(60)
    await asyncio.gather(*tasks[:4])
    assert clock.sleeping == 0
    await pool.aclose()


# Circuits


async def test_an_open_circuit_sends_calls_to_the_next_teacher_at_once(pool: Pool, clock: FakeClock) -> None:
    provider = Scripted(clock, lambda *_: ill())
    for _ in range(2):
        with pytest.raises(ProviderUnavailableError):
            await pool.complete(provider, question(), two())
    sent, now = len(provider.sent), clock.monotonic()
    assert sent == FAILURES
    assert lane_of(pool).circuit == "open"
    with pytest.raises(ProviderUnavailableError, match="circuit is open until 2026-01-01T00:00") as caught:
        await pool.complete(provider, question(), two())
    assert "8 failures in a row; the last was HTTP 500" in str(caught.value)
    assert (len(provider.sent), clock.monotonic()) == (sent, now)


def two() -> Progress:
    progress = Progress()
    progress.others = True
    return progress


async def test_who_waits_when_the_circuit_opens_goes_to_the_next_teacher_at_once(clock: FakeClock) -> None:
    pool = make_pool(clock, draw=1.0, limits={"fake": Limits(concurrency=FAILURES)})
    provider = Scripted(clock, lambda *_: ProviderUnreachableError("cut"), seconds=1)
    calls = [pool.complete(provider, question(), two()) for _ in range(50)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} <= {ProviderUnavailableError, ProviderUnreachableError}
    assert len(provider.sent) < 2 * FAILURES
    assert clock.monotonic() < 3
    assert_at_rest(pool.statistics())
    await pool.aclose()


async def test_without_another_teacher_calls_wait_while_single_ones_find_out(clock: FakeClock) -> None:
    pool = make_pool(clock, draw=0.5)
    provider = Scripted(clock, lambda p, _: ill() if clock.monotonic() < 40 else None, seconds=0.1)
    results = await asyncio.gather(
        *(pool.complete(provider, question(str(n)), Progress(deadline=120)) for n in range(30)), return_exceptions=True
    )
    later = [moment for moment in provider.moments if 2 < moment < 40]
    assert len(later) <= 6
    assert sum(isinstance(result, Completion) for result in results) >= 28
    assert lane_of(pool).circuit == "closed"
    assert_at_rest(pool.statistics())
    await pool.aclose()


@pytest.mark.parametrize(("seconds", "state"), [(20, "open"), (5, "closed")])
async def test_calls_that_hang_until_their_deadline_open_it_too(seconds: float, state: str) -> None:
    clock = FakeClock()
    pool, provider = make_pool(clock), Scripted(clock, seconds=1000)
    progresses = [Progress(deadline=seconds) for _ in range(FAILURES)]
    tasks = [asyncio.create_task(pool.complete(provider, question(), progress)) for progress in progresses]
    await clock.advance(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert lane_of(pool).circuit == state
    if state == "open":
        with pytest.raises(ProviderUnavailableError, match="the last was no answer in 20 s"):
            await pool.complete(provider, question(), two())
    assert_at_rest(pool.statistics())
    await pool.aclose()


async def test_cancelling_early_says_nothing_of_the_server() -> None:
    clock = FakeClock()
    pool, provider = make_pool(clock), Scripted(clock, seconds=1000)
    tasks = [asyncio.create_task(pool.complete(provider, question(), Progress(deadline=99))) for _ in range(FAILURES)]
    tasks += [asyncio.create_task(pool.complete(provider, question(), Progress()))]
    await clock.advance(50)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert lane_of(pool).circuit == "closed"
    await pool.aclose()


async def test_a_refusal_that_is_no_news_allows_no_more(clock: FakeClock) -> None:
    pool = make_pool(clock, tries=1)
    provider = Scripted(clock, lambda *_: limited(), seconds=1)
    await asyncio.gather(*(pool.complete(provider, question(), Progress()) for _ in range(100)), return_exceptions=True)
    assert lane_of(pool).allowed == 50
    await pool.aclose()


async def test_a_wait_for_an_open_circuit_tells_so(clock: FakeClock) -> None:
    clock = FakeClock()
    pool = make_pool(clock)
    provider = Scripted(clock, lambda *_: ill())
    failing = [asyncio.create_task(pool.complete(provider, question(), two())) for _ in range(FAILURES)]
    await asyncio.wait(failing)
    progress = Progress()
    task = asyncio.create_task(pool.complete(provider, question(), progress))
    await clock.wait_sleeping()
    assert progress.waiting_for.startswith("fake:m: its circuit is open until 2026-01-01T00:00:01")
    task.cancel()
    await asyncio.wait({task})
    assert clock.sleeping == 0
    assert_at_rest(pool.statistics())
    await pool.aclose()


@pytest.mark.parametrize("error", [limited(0.0), AuthenticationError("no", "fake", "m", 401)])
async def test_errors_of_a_server_that_is_well_open_no_circuit(
    pool: Pool, clock: FakeClock, error: ProviderError
) -> None:
    provider = Scripted(clock, lambda *_: type(error)(*error.args))
    for _ in range(FAILURES):
        with pytest.raises(type(error)):
            await pool.complete(provider, question(), Progress())
    assert lane_of(pool).circuit == "closed"


# What is told


async def test_the_last_error_tells_what_all_teachers_were_tried_with(pool: Pool, clock: FakeClock) -> None:
    first = Scripted(clock, lambda *_: ill(502), name="one", seconds=1)
    second = Scripted(clock, lambda *_: AuthenticationError("bad key", "two", "n", 401), name="two")
    progress = two()
    with pytest.raises(ProviderUnavailableError):
        await pool.complete(first, question(provider="one"), progress)
    progress.others = False
    with pytest.raises(AuthenticationError) as caught:
        await pool.complete(second, question(model="n", provider="two"), progress)
    text = "one:m: HTTP 502 after 1.0 s; HTTP 502 after 2.0 s; HTTP 502 after 3.0 s; HTTP 502 after 4.0 s; "
    text += "HTTP 502 after 5.0 s; HTTP 502 after 6.0 s; two:n: HTTP 401 after 6.0 s"
    assert str(caught.value) == f"two:n: bad key (HTTP 401); tried 7 times: {text}"


async def test_a_lower_limit_that_is_told_is_held_and_a_higher_one_is_not(clock: FakeClock) -> None:
    told = RateHint(requests=10, tokens=1e6)
    pool, provider = make_pool(clock), Scripted(clock, lambda *_: told)
    await pool.complete(provider, question(), Progress())
    await asyncio.gather(*(pool.complete(provider, question(), Progress()) for _ in range(14)))
    assert sum(moment < 60 for moment in provider.moments) == 10
    assert lane_of(pool).limits == Limits(requests_per_minute=10, tokens_per_minute=1e6)
    provider.answer = lambda *_: RateHint(requests=1000)
    await clock.sleep(100)
    await asyncio.gather(*(pool.complete(provider, question(), Progress()) for _ in range(30)))
    assert lane_of(pool).limits == Limits(requests_per_minute=1000)
    await pool.aclose()
    ours = make_pool(clock, limits={"fake": Limits(requests_per_minute=5)})
    await ours.complete(Scripted(clock, lambda *_: told), question(), Progress())
    assert lane_of(ours).limits == Limits(requests_per_minute=5, tokens_per_minute=1e6)
    await ours.aclose()


async def test_what_was_sent_before_the_limit_was_told_counts(clock: FakeClock) -> None:
    pool, provider = make_pool(clock), Scripted(clock, lambda *_: RateHint(requests=10), seconds=1)
    await asyncio.gather(*(pool.complete(provider, question(), Progress()) for _ in range(8)))
    await asyncio.gather(*(pool.complete(provider, question(), Progress()) for _ in range(8)))
    assert sum(moment < 60 for moment in provider.moments) == 10
    await pool.aclose()


async def test_limits_per_second_are_told_too_and_may_change_with_each_answer(clock: FakeClock) -> None:
    hints = [RateHint(requests=10 + n % 3, seconds=1.0, at_once=True) for n in range(100)]
    pool, provider = make_pool(clock), Scripted(clock, lambda p, _: hints[len(p.sent) % 100])
    await pool.complete(provider, question(), Progress())
    await asyncio.gather(*(pool.complete(provider, question(), Progress()) for _ in range(60)))
    for start in provider.moments:
        assert sum(start <= moment < start + 1 for moment in provider.moments) <= 12
    assert clock.monotonic() < 8
    assert lane_of(pool).limits.requests_per_minute in (600, 660, 720)
    await pool.aclose()


async def test_when_nothing_is_left_the_next_waits_until_one_may_have_come_back(pool: Pool, clock: FakeClock) -> None:
    hint = RateHint(requests=60, requests_back=60.0)
    provider = Scripted(clock, lambda p, _: hint if len(p.sent) == 1 else None)
    for _ in range(2):
        await pool.complete(provider, question(), Progress())
    assert provider.moments == pytest.approx([0, 1])


@pytest.mark.parametrize(
    ("hint", "tokens", "seconds"),
    [
        (RateHint(requests=60), 10, 0),
        (RateHint(requests=60, requests_back=30.0), 10, 0.5),
        (RateHint(requests_back=30.0), 10, 30),
        (RateHint(tokens=1000, tokens_back=60.0), 100, 6),
        (RateHint(tokens=1000, tokens_back=60.0), 9999, 60),
        (RateHint(requests=10, requests_back=2.0, seconds=1.0, at_once=True), 10, 2),
    ],
)
def test_the_pause_that_a_hint_asks_for(hint: RateHint, tokens: float, seconds: float) -> None:
    assert hint.pause(tokens) == pytest.approx(seconds)


# Cancelling and closing


@pytest.mark.parametrize("seed", range(5))
async def test_calls_cancelled_anywhere_leave_nothing_behind(clock: FakeClock, seed: int) -> None:
    draw = random.Random(seed)
    limits = Limits(requests_per_minute=400, tokens_per_minute=4_000, concurrency=7)
    pool = make_pool(clock, draw=0.3, limits={"fake": limits})

    def answer(_: Scripted, __: Request) -> Exception | RateHint | None:
        kinds = [None, None, None, limited(1.0), limited(), ill(), ill(503), ill(529), RateHint(requests=50)]
        return draw.choice(kinds)

    provider = Scripted(clock, answer, seconds=0.05)
    tasks = [asyncio.create_task(pool.complete(provider, question(room=20), Progress())) for _ in range(300)]
    for task in draw.sample(tasks, 200):
        await clock.sleep(draw.random() / 20)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert_at_rest(pool.statistics())
    assert len(pool._lanes[id(provider), "m"][1]._queue) <= 300
    await pool.aclose()


async def test_many_that_are_cancelled_while_they_wait_are_not_kept(clock: FakeClock) -> None:
    pool = make_pool(clock, limits={"fake": Limits(concurrency=1)})
    provider = Scripted(clock, seconds=1000)
    holder = asyncio.create_task(pool.complete(provider, question(), Progress()))
    for _ in range(20):
        tasks = [asyncio.create_task(pool.complete(provider, question(), Progress())) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert len(pool._lanes[id(provider), "m"][1]._queue) <= 150
    assert lane_of(pool).waiting == 0
    holder.cancel()
    await asyncio.wait({holder})
    await pool.aclose()


async def test_who_is_let_through_and_cancelled_in_the_same_moment_has_sent_nothing(clock: FakeClock) -> None:
    limits = Limits(requests_per_minute=3, tokens_per_minute=1000, concurrency=1)
    pool = make_pool(clock, limits={"fake": limits})
    provider = Scripted(clock, lambda *_: RateHint(requests=2, tokens=900), usage=Usage())
    tasks = [asyncio.create_task(pool.complete(provider, question(room=300), Progress())) for _ in range(3)]
    while not (tasks[0].done() and lane_of(pool).in_flight):
        await asyncio.sleep(0)
        if lane_of(pool).in_flight and lane_of(pool).waiting == 1 and len(provider.sent) == 1:
            tasks[1].cancel()  # its turn has come, and it does not know yet
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tasks[1].cancelled()
    assert provider.moments == pytest.approx([0, 0])
    assert pool.statistics().accounts[0].requests == 2
    assert_at_rest(pool.statistics())
    await pool.aclose()


async def test_closing_ends_who_waits_between_two_tries() -> None:
    clock = FakeClock()
    pool, provider = make_pool(clock, draw=1.0), Scripted(clock, lambda *_: ill())
    task = asyncio.create_task(pool.complete(provider, question(), Progress()))
    await clock.wait_sleeping()
    await clock.advance(0.1)
    assert pool.statistics().accounts[0].pausing == 1
    await pool.aclose()
    with pytest.raises(NotOpenError):
        await task
    assert_at_rest(pool.statistics())


async def test_closing_sends_away_who_waits_for_a_limit_and_who_comes_later() -> None:
    clock = FakeClock()
    pool, provider = make_pool(clock, limits={"fake": Limits(requests_per_minute=1)}), Scripted(clock)
    await pool.complete(provider, question(), Progress())
    tasks = [asyncio.create_task(pool.complete(provider, question(), Progress())) for _ in range(3)]
    await clock.wait_sleeping()
    tasks[0].cancel()
    await pool.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, NotOpenError, NotOpenError]
    with pytest.raises(NotOpenError):
        await pool.complete(provider, question(), Progress())
    assert clock.sleeping == 0
    assert_at_rest(pool.statistics())


async def test_a_bug_tells_nothing_about_the_server(pool: Pool, clock: FakeClock) -> None:
    provider = Scripted(clock, lambda *_: ZeroDivisionError())
    for _ in range(FAILURES + 1):
        with pytest.raises(ProviderError, match="bug"):
            await pool.complete(provider, question(), Progress())
    assert lane_of(pool) == LaneStatistics(model="m", allowed=1000)


async def test_a_server_that_cuts_connections_sees_no_more_requests_than_the_limit_says() -> None:
    answer = ok(b'{"choices":[{"message":{"content":"yes"},"finish_reason":"stop"}]}')
    async with RawServer(lambda count: [answer] if count % 2 else [ABORT]) as server:
        provider = OpenAICompatible(server.url, name="fake")
        pool = Pool(Connections(), limits={"fake": Limits(requests_per_minute=10)}, random=lambda: 0.0)

        async def ask_on() -> None:
            while True:
                await pool.complete(provider, question("a"), Progress())

        asking = asyncio.create_task(ask_on())
        async with asyncio.timeout(2):
            while not any(account.waiting for account in pool.statistics().accounts):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        asking.cancel()
        await asyncio.wait([asking])
        assert pool.statistics().accounts[0].requests == len(server.requests) == 10
        await pool.aclose()


async def test_who_waits_for_a_limit_goes_on_though_somebody_cancels_every_task_that_he_finds(clock: FakeClock) -> None:
    pool, provider = make_pool(clock, limits={"fake": Limits(requests_per_minute=1)}), Scripted(clock)
    await pool.complete(provider, question(), Progress())
    spared = asyncio.create_task(pool.complete(provider, question(), Progress()))
    await asyncio.sleep(0)
    (timer,) = (task for task in asyncio.all_tasks() if task.get_name() == "tanuki_async: limits of fake")
    timer.cancel()
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await asyncio.gather(spared, pool.complete(provider, question(), Progress()))
    await pool.aclose()


async def test_a_request_that_took_long_to_connect_counts_from_when_it_was_written() -> None:
    clock, written = FakeClock(autojump=0), list[float]()

    class FarAway(Scripted):
        async def complete(self, request: Request, http: Http) -> Completion:
            if len(written) < 20:  # afterwards there are connections
                await clock.sleep(5)
                late.set(True)
            written.append(clock.monotonic())
            return Completion(text="{}", usage=Usage(requests=1))

    provider = FarAway(clock)
    pool = Pool(Connections(), clock=clock, limits={"fake": Limits(requests_per_minute=20)})
    model = provider.model("m")
    calls = (
        pool.complete(provider, Request(model=model, head=HEAD, turns=(Turn("user", "x"),)), Progress())
        for _ in range(60)
    )
    await asyncio.gather(*calls)
    assert max(sum(first <= moment < first + 60 for moment in written) for first in written) == 20
    await pool.aclose()
