"""One call through real HTTP: repairs, every way to fail, who takes over, and that nothing is left behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import pytest
from _spine import at_rest, last_user_turn, recorded, settings_for, tanuki_for

import tanuki_async as tanuki
from tanuki_async import (
    AuthenticationError,
    CallTimeoutError,
    Limits,
    Model,
    OutputError,
    PromptTooLongError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    QuotaExceededError,
    RateLimitedError,
    RefusalError,
    RequestRejectedError,
    StorageError,
    Tanuki,
    _call,
)
from tanuki_async._function import patched
from tanuki_async.abc import Appended, Lease, Storage, Versioned
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import Answer, FakeClock, Fault, LoopbackServer, Value
from tanuki_async.testing.answers import ChatRequest

GOOD = '{"value":"good"}'


@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"] | None:
    """Classify the sentiment of a message, or None if it has none."""


@tanuki.patch(timeout=0.15)
async def hasty(text: str) -> int:
    """Count the words."""


@tanuki.patch(max_repairs=0)
async def strict_one(text: str) -> int:
    """Count the words."""


@tanuki.patch
async def echo(text: str) -> str:
    """Give it back."""


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer([], strict=True) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def clock() -> FakeClock:
    """Jumps over the pauses between two tries, while real HTTP goes on."""
    return FakeClock(autojump=0.02)


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage) as running:
        yield running
        assert at_rest(running)


@pytest.fixture
async def jumping(server: LoopbackServer, storage: MemoryStorage, clock: FakeClock) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage, clock=clock) as running:
        yield running
        assert at_rest(running)


# Answers that do not fit


async def test_a_wrong_answer_is_sent_back_with_the_complaint(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put('{"value":"splendid"}', GOOD)

    assert await classify("I like it") == "good"

    roles = [(m["role"], m["content"]) for m in server.requests[1].body["messages"]]
    assert roles[1:3] == [("user", '{"text":"I like it"}'), ("assistant", '{"value":"splendid"}')]
    assert roles[3][0] == "user"
    assert "splendid" in roles[3][1]
    assert "'good'" in roles[3][1]
    (record,) = await recorded(storage, classify)
    assert (record["output"], record["repaired"], record["args"]) == ("good", True, ["I like it"])


async def test_repairs_end_with_every_attempt(opened: Tanuki, server: LoopbackServer, storage: MemoryStorage) -> None:
    server.put('{"value":"a"}', "no idea", '{"value":7}')

    with pytest.raises(OutputError) as caught:
        await classify("x")

    error = caught.value
    assert isinstance(error, TypeError)
    assert error.attempts == ('{"value":"a"}', "no idea", '{"value":7}')
    assert len(error.complaints) == 3
    assert error.wanted == "Literal['good', 'bad'] | None"
    assert "classify() should return Literal['good', 'bad'] | None" in str(error)
    assert "none of 3 answers fit" in str(error)
    assert await recorded(storage, classify) == []


async def test_without_repairs_one_answer_decides(opened: Tanuki, server: LoopbackServer) -> None:
    server.put("many")

    with pytest.raises(OutputError, match="none of 1 answers"):
        await strict_one("x")
    assert server.served == 1


async def test_a_repaired_answer_counts_in_the_status(opened: Tanuki, server: LoopbackServer) -> None:
    server.put('{"value":"a"}', GOOD, GOOD)
    await classify("x")
    await classify("y")

    found = await tanuki.status(classify)

    assert (found.answered_by_teacher, found.repaired, found.failed) == (2, 1, 0)
    assert found.usage.requests == 3
    assert found.datasets["PATCHES"] == 2


@pytest.mark.parametrize(
    "text",
    [
        'Sure! Here is the answer:\n```json\n{"value": "good"}\n```\nAnything else?',
        'The answer is {"value": "good"}.',
        '```\n"good"\n```',
        '<think>Maybe {"value":"bad"}?</think>{"value":"good"}',
        "good",
        '"good"',
        "{'value': 'good'}",
        ' \n{"value":"good"}\n',
    ],
)
async def test_json_is_found_in_prose_without_a_repair(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage, text: str
) -> None:
    server.put(text)

    assert await classify("x") == "good"

    (record,) = await recorded(storage, classify)
    assert (record["output"], record["repaired"]) == ("good", False)


async def test_text_that_looks_like_code_is_only_data(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(*["__import__('os').system('touch owned')"] * 3, Value("print('hi')"))

    with pytest.raises(OutputError):
        await classify("x")
    assert await echo("x") == "print('hi')"


async def test_an_empty_answer_is_a_complaint(opened: Tanuki, server: LoopbackServer) -> None:
    server.put("", GOOD)

    assert await classify("x") == "good"
    assert "empty" in last_user_turn(server)


# Refusals and answers that were cut off


async def test_a_refusal_is_an_error_and_not_asked_again(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put(Fault.refusal("I can't help with that."))

    with pytest.raises(RefusalError, match="I can't help with that") as caught:
        await classify("x")

    assert (caught.value.provider, caught.value.model) == ("loopback", "small")
    assert server.served == 1
    assert await recorded(storage, classify) == []


async def test_a_content_filter_is_a_refusal(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(Answer(None, finish_reason="content_filter"))

    with pytest.raises(RefusalError, match="content filter"):
        await classify("x")


async def test_a_cut_off_answer_is_asked_for_again_with_more_room(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put(Fault.cut_off('{"value":"go'), GOOD)

    assert await classify("x") == "good"

    first, second = (r.body for r in server.requests)
    assert "max_tokens" not in first
    assert second["max_tokens"] >= 256
    assert first["messages"] == second["messages"]
    (record,) = await recorded(storage, classify)
    assert record["repaired"] is False


@tanuki.patch(generation_params={"max_new_tokens": 300})
async def limited(text: str) -> Literal["good", "bad"] | None:
    """Classify."""


async def test_more_room_is_twice_what_was_asked(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(Fault.cut_off(), GOOD)

    assert await limited("x") == "good"
    assert [r.body["max_tokens"] for r in server.requests] == [300, 600]


async def test_a_model_at_its_ceiling_is_asked_to_be_brief(server: LoopbackServer, storage: MemoryStorage) -> None:
    model = Model(provider="loopback", name="small", max_output=300)
    server.put(Fault.cut_off(), GOOD)

    async with tanuki_for(server, storage, teacher_models=model):
        assert await limited("x") == "good"

    assert server.served == 2
    assert "cut off" in last_user_turn(server)


async def test_an_answer_that_is_always_cut_off_ends(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(*[Fault.cut_off()] * 6)

    with pytest.raises(OutputError) as caught:
        await classify("x")
    assert "cut off" in caught.value.complaints[-1]
    assert server.served == 6


async def test_a_whole_answer_that_met_its_limit_counts(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(Fault.cut_off(), Fault.cut_off(GOOD))

    assert await classify("x") == "good"


# What the server does wrong


TRANSIENT: dict[str, tuple[Any, type[Exception]]] = {
    "no choices": (Fault.empty_choices(), ProviderUnavailableError),
    "a page of HTML": (Fault.html(), ProviderUnavailableError),
    "HTML with status 200": (Fault.html(200), ProviderUnavailableError),
    "a body that stops": (Fault.truncated_json(), ProviderUnavailableError),
    "a cut connection": (Fault.cut_midway(), ProviderUnreachableError),
    "no word": (Fault.disconnect(), ProviderUnreachableError),
    "500": (Fault.status(500), ProviderUnavailableError),
    "503": (Fault.status(503, retry_after=1), ProviderUnavailableError),
    "529": (Fault.status(529), ProviderUnavailableError),
    "429": (Fault.status(429, retry_after_ms=20), RateLimitedError),
}


@pytest.mark.parametrize("case", TRANSIENT)
async def test_what_may_pass_is_tried_again(
    jumping: Tanuki, server: LoopbackServer, storage: MemoryStorage, case: str
) -> None:
    fault, _ = TRANSIENT[case]
    server.put(fault, fault, GOOD)

    assert await classify("x") == "good"

    assert server.served == 3
    assert [r["repaired"] for r in await recorded(storage, classify)] == [False]


@pytest.mark.parametrize("case", TRANSIENT)
async def test_what_does_not_pass_ends_with_its_error_and_all_tries(
    jumping: Tanuki, server: LoopbackServer, storage: MemoryStorage, case: str
) -> None:
    fault, kind = TRANSIENT[case]
    server.put(*[fault] * 6)

    with pytest.raises(kind) as caught:
        await classify("x")

    assert isinstance(caught.value, tanuki.ProviderError)
    assert len(caught.value.tried) == server.served == 6
    assert "tried 6 times" in str(caught.value)
    assert await recorded(storage, classify) == []


FINAL: dict[str, tuple[Any, type[Exception]]] = {
    "400": (Fault.status(400, message="bad value"), RequestRejectedError),
    "401": (Fault.status(401), AuthenticationError),
    "403": (Fault.status(403), AuthenticationError),
    "404": (Fault.status(404), RequestRejectedError),
    "413": (Fault.status(413), RequestRejectedError),
    "quota": (Fault.quota(), QuotaExceededError),
    "402": (Fault.status(402), QuotaExceededError),
    "a long wait": (Fault.status(429, retry_after=3600), RateLimitedError),
}


@pytest.mark.parametrize("case", FINAL)
async def test_what_cannot_pass_is_not_tried_again(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage, case: str
) -> None:
    fault, kind = FINAL[case]
    server.put(fault)

    with pytest.raises(kind):
        await classify("x")

    assert sum(isinstance(request, ChatRequest) for request in server.requests) == 1
    assert await recorded(storage, classify) == []


async def test_an_endless_429_ends_within_the_deadline(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(*[Fault.status(429, retry_after=0.02)] * 50)
    before = time.monotonic()

    with pytest.raises((RateLimitedError, CallTimeoutError)) as caught:
        await hasty("x")

    assert time.monotonic() - before < 0.5
    assert 2 <= server.served <= 6
    assert "429" in str(caught.value)


async def test_a_wait_longer_than_the_deadline_is_not_begun(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(Fault.status(429, retry_after=5))
    before = time.monotonic()

    with pytest.raises(RateLimitedError) as caught:
        await hasty("x")

    assert time.monotonic() - before < 0.14
    assert caught.value.retry_after == 5
    assert caught.value.status == 429


async def test_no_server_at_all_is_unreachable(storage: MemoryStorage, clock: FakeClock) -> None:
    async with LoopbackServer() as gone:
        pass
    async with tanuki_for(gone, storage, clock=clock):
        with pytest.raises(ProviderUnreachableError, match="tried 6 times"):
            await classify("x")


async def test_a_connection_that_dies_between_calls_is_replaced(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(GOOD, GOOD)
    assert await classify("x") == "good"
    for connection in list(server._open):
        connection.close(at_once=True)

    assert await classify("y") == "good"


# Deadlines


async def test_a_server_that_hangs_is_left_at_the_deadline(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put(Fault.hang())
    before = time.monotonic()

    with pytest.raises(CallTimeoutError) as caught:
        await hasty("x")

    assert time.monotonic() - before < 0.5
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.waiting_for == "an answer from loopback"
    assert "hasty() had no answer after 0.15 s; it was waiting for an answer from loopback" in str(caught.value)
    assert at_rest(opened)
    await until(lambda: server.in_flight == 0 and server.connections == 0)
    assert await recorded(storage, hasty) == []


async def test_half_an_answer_is_a_hang(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(Fault(reply=Fault.html(200).reply, part=0.5, then="hang"))

    with pytest.raises(CallTimeoutError):
        await hasty("x")
    await until(lambda: server.connections == 0)


async def test_a_deadline_names_the_gate(server: LoopbackServer, storage: MemoryStorage) -> None:
    server.put(Fault.hang())
    async with tanuki_for(server, storage, limits={"loopback": Limits(concurrency=1)}) as opened:
        first = asyncio.create_task(classify("x"))
        await server.wait_requests(1)

        with pytest.raises(CallTimeoutError, match="a place among loopback's 1 requests at once"):
            await hasty("y")
        first.cancel()
        await asyncio.wait([first])

        assert at_rest(opened)


async def test_a_deadline_names_the_limit(server: LoopbackServer, storage: MemoryStorage) -> None:
    server.put('{"value":1}')
    async with tanuki_for(server, storage, limits={"loopback": Limits(requests_per_minute=1)}) as opened:
        assert await hasty("x") == 1
        with pytest.raises(CallTimeoutError, match="loopback's limit per minute"):
            await hasty("y")
        assert at_rest(opened)
    assert server.served == 1


async def test_a_timeout_of_the_caller_is_the_callers(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(Fault.hang())

    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.05):
            await classify("x")

    assert not isinstance(caught.value, CallTimeoutError)
    assert at_rest(opened)


async def until(true: Any) -> None:
    async with asyncio.timeout(2):
        while not true():  # noqa: ASYNC110  # the server's side of a connection tells nobody
            await asyncio.sleep(0.005)


# Who takes over


@pytest.fixture
async def second() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer([], strict=True) as running:
        yield running


def with_two(server: LoopbackServer, second: LoopbackServer, storage: Storage, **settings: Any) -> Tanuki:
    settings = {"teacher_models": ["loopback:small", "second:large"], **settings}
    providers = [OpenAICompatible(server.url, name="loopback"), OpenAICompatible(second.url, name="second")]
    return Tanuki(**settings_for(server, storage, providers=providers, **settings))


TAKEN_OVER = {**TRANSIENT, **{case: FINAL[case] for case in ("401", "403", "quota", "402", "a long wait")}}


@pytest.mark.parametrize("case", TAKEN_OVER)
async def test_the_next_teacher_takes_over(
    server: LoopbackServer, second: LoopbackServer, storage: MemoryStorage, clock: FakeClock, case: str
) -> None:
    server.put(*[TAKEN_OVER[case][0]] * 6)
    second.put(GOOD)

    async with with_two(server, second, storage, clock=clock):
        assert await classify("x") == "good"
        (record,) = await recorded(storage, classify)

    assert record["model"] == "second:large"
    assert second.requests[0].model == "large"


@pytest.mark.parametrize("case", ["400", "404"])
async def test_a_rejected_request_stays_with_its_teacher(
    server: LoopbackServer, second: LoopbackServer, storage: MemoryStorage, case: str
) -> None:
    server.put(FINAL[case][0])

    async with with_two(server, second, storage):
        with pytest.raises(RequestRejectedError):
            await classify("x")
    assert second.served == 0


async def test_a_refusal_stays_with_its_teacher(
    server: LoopbackServer, second: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put(Fault.refusal())

    async with with_two(server, second, storage):
        with pytest.raises(RefusalError):
            await classify("x")
    assert second.served == 0


async def test_the_last_teachers_error_is_raised(
    server: LoopbackServer, second: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put(Fault.status(401))
    second.put(Fault.quota())

    async with with_two(server, second, storage):
        with pytest.raises(QuotaExceededError) as caught:
            await classify("x")
    assert caught.value.provider == "second"
    assert [tried.partition(" after")[0] for tried in caught.value.tried] == [
        "loopback:small: HTTP 401", "second:large: HTTP 429",
    ]  # fmt: skip


async def test_a_teacher_that_does_not_answer_is_soon_asked_no_more(
    server: LoopbackServer, second: LoopbackServer, storage: MemoryStorage, clock: FakeClock
) -> None:
    server.put(*[Fault.status(500)] * 100)
    second.put(*[GOOD] * 100)

    async with with_two(server, second, storage, clock=clock) as opened:
        assert await asyncio.gather(*(classify(f"{n}") for n in range(20))) == ["good"] * 20
        asked = server.served
        for n in range(20):
            assert await classify(f"later {n}") == "good"
        assert opened.statistics().pool.accounts[0].models[0].circuit == "open"
        assert at_rest(opened)
    assert server.served - asked <= 2


async def test_a_repair_is_the_second_teachers_when_the_first_fails_meanwhile(
    server: LoopbackServer, second: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put('{"value":"a"}', Fault.quota())
    second.put(GOOD)

    async with with_two(server, second, storage):
        assert await classify("x") == "good"
        (record,) = await recorded(storage, classify)
    assert record["model"] == "second:large"


def windows(small: int, large: int) -> list[Model]:
    return [
        Model(provider="loopback", name="small", context_window=small),
        Model(provider="second", name="large", context_window=large),
    ]


async def test_a_long_prompt_goes_to_the_teacher_with_the_larger_window(
    server: LoopbackServer, second: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put(GOOD)
    second.put(GOOD)

    async with with_two(server, second, storage, teacher_models=windows(2_000, 50_000)):
        assert await classify("word " * 3_000) == "good"
        assert await classify("word") == "good"

    assert (server.served, second.served) == (1, 1)
    assert server.requests[0].text == '{"text":"word"}'


async def test_a_prompt_that_fits_no_window_is_never_sent(
    server: LoopbackServer, second: LoopbackServer, storage: MemoryStorage
) -> None:
    async with with_two(server, second, storage, teacher_models=windows(2_000, 3_000)):
        with pytest.raises(PromptTooLongError) as caught:
            await classify("word " * 3_000)
        assert await recorded(storage, classify) == []

    error = caught.value
    assert error.windows == {"loopback:small": 2_000, "second:large": 3_000}
    assert error.size > 3_000
    assert error.largest == "the arguments"
    assert "loopback:small: 2,000, second:large: 3,000" in str(error)
    assert (server.served, second.served) == (0, 0)


async def test_a_prompt_too_long_for_the_server_alone_is_rejected_with_its_words(
    opened: Tanuki, server: LoopbackServer
) -> None:
    server.put(Fault.status(400, message="maximum context length is 10 tokens", code="context_length_exceeded"))

    with pytest.raises(RequestRejectedError, match="maximum context length") as caught:
        await classify("x")
    assert caught.value.code == "context_length_exceeded"


# Cancellation and many at once


async def test_cancelling_half_of_many_calls_leaves_nothing_behind(
    server: LoopbackServer, storage: MemoryStorage
) -> None:
    answer = asyncio.Event()

    async def slowly(request: ChatRequest) -> str:
        await answer.wait()
        return GOOD

    server.put(*[slowly] * 200)
    async with tanuki_for(server, storage, limits={"loopback": Limits(concurrency=50)}) as opened:
        calls = [asyncio.create_task(classify(f"text {number}")) for number in range(200)]
        await server.wait_requests(50)
        assert opened.statistics().pool.waiting == 150
        for call in calls[::2]:
            call.cancel()
        await asyncio.wait(calls[::2])
        await until(lambda: opened.statistics().pool.waiting + opened.statistics().pool.in_flight == 100)
        answer.set()
        results = await asyncio.gather(*calls, return_exceptions=True)

        assert at_rest(opened)
        assert results[1::2] == ["good"] * 100
        assert all(isinstance(each, asyncio.CancelledError) for each in results[::2])
        assert len(await recorded(storage, classify)) == 100
        await until(lambda: server.in_flight == 0)
    assert server.max_in_flight <= 50


async def test_a_cancelled_first_call_does_not_take_others_with_it(opened: Tanuki, server: LoopbackServer) -> None:
    server.put(GOOD, GOOD)
    first, other = asyncio.create_task(classify("x")), asyncio.create_task(classify("y"))
    await asyncio.sleep(0)
    first.cancel()

    assert await other == "good"
    assert await classify("z") == "good"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_the_same_call_at_once_is_asked_twice_and_recorded_once(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put(GOOD, GOOD)

    assert await asyncio.gather(classify("x"), classify("x")) == ["good", "good"]

    assert server.served == 2
    assert len(await recorded(storage, classify)) == 1
    assert opened.statistics().recorder.deduplicated == 1


# Storage that fails


class BrokenStorage(Storage):
    """Fails in every method; `open` as well, unless it is to fail later."""

    def __init__(self, *, opens: bool = True, error: type[Exception] = StorageError) -> None:
        self._opens, self._error = opens, error

    async def open(self) -> None:
        if not self._opens:
            raise self._error("no place")

    async def aclose(self) -> None:
        raise self._error("cannot close")

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        raise self._error("disk full")

    async def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        raise self._error("cannot read")
        yield

    async def count(self, name: str) -> int:
        raise self._error("cannot count")

    async def names(self, prefix: str = "") -> list[str]:
        raise self._error("cannot list")

    async def get(self, key: str) -> Versioned | None:
        raise self._error("cannot get")

    async def put(self, key: str, value: bytes, *, version: str | None) -> str | None:
        raise self._error("cannot put")

    async def keys(self, prefix: str = "") -> list[str]:
        raise self._error("cannot list")

    async def claim(self, key: str, owner: str, *, seconds: float) -> Lease | None:
        raise self._error("cannot claim")

    async def release(self, lease: Lease) -> None:
        raise self._error("cannot release")


@pytest.mark.parametrize("error", [StorageError, RuntimeError])
async def test_a_call_answers_while_storage_is_broken(
    server: LoopbackServer, error: type[Exception], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    server.put(GOOD, GOOD)
    async with tanuki_for(server, BrokenStorage(error=error), clock=clock, close_timeout=0.2) as opened:
        assert await classify("x") == "good"
        assert await classify("y") == "good"
        with pytest.raises(StorageError):
            await tanuki.flush()
        assert opened.statistics().recorder.written == 0
    assert "what was learnt cannot be read now" in caplog.text
    assert "disk full" in caplog.text


async def test_storage_that_cannot_be_opened_says_so_at_once(server: LoopbackServer) -> None:
    opened = tanuki_for(server, BrokenStorage(opens=False))

    with pytest.raises(StorageError, match="no place"):
        async with opened:
            raise AssertionError("not reached")
    assert not opened.is_open


async def test_an_align_function_says_that_nothing_was_kept(server: LoopbackServer, clock: FakeClock) -> None:
    @tanuki.align
    async def lesson() -> None:
        assert await classify("x") == "good"

    async with tanuki_for(server, BrokenStorage(), clock=clock, close_timeout=0.2):
        with pytest.raises(StorageError, match="disk full"):
            await lesson()


class HangingStorage(MemoryStorage):
    async def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        await asyncio.Event().wait()
        yield []


async def test_slow_storage_does_not_lengthen_the_deadline(server: LoopbackServer) -> None:
    async with tanuki_for(server, HangingStorage()) as opened:
        with pytest.raises(CallTimeoutError, match="storage, for its examples"):
            await hasty("x")
        assert at_rest(opened)


async def test_ignored_storage_is_never_touched(server: LoopbackServer) -> None:
    @tanuki.patch(ignore_data_storage=True)
    async def fleeting(text: str) -> str:
        """Echo."""

    class Untouched(BrokenStorage):
        async def aclose(self) -> None:
            return

    server.put('{"value":"x"}')
    async with tanuki_for(server, Untouched(error=AssertionError)) as opened:
        assert await fleeting("x") == "x"
        await tanuki.flush()
        assert opened.statistics().recorder.failed == 0


# Servers that know less


async def test_a_server_without_json_schema_gets_json_mode(opened: Tanuki, server: LoopbackServer) -> None:
    def only_json_mode(request: ChatRequest) -> Any:
        if request.body["response_format"]["type"] == "json_schema":
            return Fault.status(400, message="json_schema is not supported by this model", param="response_format")
        return GOOD

    server.put(*[only_json_mode] * 3)

    assert await classify("x") == "good"
    assert await classify("y") == "good"

    kinds = [r.body.get("response_format", {}).get("type") for r in server.requests]
    assert kinds == ["json_schema", "json_object", "json_object"]


async def test_a_server_that_knows_no_response_format_gets_words(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    def knows_none(request: ChatRequest) -> Any:
        if "response_format" in request.body:
            return Fault.status(400, message="Unknown parameter: 'response_format'.", param="response_format")
        return 'Certainly:\n```json\n{"value":"good"}\n```'

    server.put(*[knows_none] * 4)

    assert await classify("x") == "good"
    assert await classify("y") == "good"

    assert ["response_format" in r.body for r in server.requests] == [True, True, False, False]
    assert '"enum":["good","bad"]' in server.requests[-1].system.replace(" ", "")
    assert [r["repaired"] for r in await recorded(storage, classify)] == [False, False]


async def test_every_answer_counts_for_cost_and_tokens(server: LoopbackServer, storage: MemoryStorage) -> None:
    model = Model(provider="loopback", name="small", price_input=1.0, price_output=10.0)
    used = tanuki.Usage(requests=1, input_tokens=1000, output_tokens=100)
    server.put(Answer('{"value":"a"}', usage=used), Answer(GOOD, usage=used))

    async with tanuki_for(server, storage, teacher_models=model):
        await classify("x")
        found = await tanuki.status(classify)

    assert found.usage == tanuki.Usage(requests=2, input_tokens=2000, output_tokens=200)
    assert found.cost == pytest.approx(0.004)
    assert found.unpriced == 0


async def test_an_audit_that_finds_no_teacher_is_told_in_a_line(
    opened: Tanuki, server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tanuki_async.call")
    server.put(Fault.hang(), Fault.status(401))
    desk, bound = opened.desk(patched(hasty)), patched(hasty).spec.bind(("a",), {})

    await _call.audit(desk, bound, 1)
    await _call.audit(desk, bound, 1)

    late, refused = (record.getMessage() for record in caplog.records)
    assert late == "hasty(): no audit: no answer in 0.15 s"
    assert "HTTP 401" in refused
    assert not any(record.exc_info for record in caplog.records)
    assert desk.tally.audits == 2
