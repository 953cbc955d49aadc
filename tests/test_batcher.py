"""Texts of concurrent calls share requests; what one of them does wrong hurts no other."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from _spine import at_rest, tanuki_for

import tanuki_async as tanuki
from tanuki_async import (
    BudgetExceededError,
    Embedding,
    Model,
    NotOpenError,
    ProviderUnavailableError,
    RequestRejectedError,
    Tanuki,
)
from tanuki_async._records import Budget, Reply, Usage
from tanuki_async.abc import Http, Provider
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import EmbeddingRequest, FakeClock, FakeProvider, Fault, LoopbackServer


@tanuki.patch
async def vector(text: str) -> Embedding[list[float]]:
    """Embed a text."""
    ...


@tanuki.patch
async def topic(text: str) -> Embedding[list[float]]:
    """Embed what a text is about."""
    ...


@tanuki.patch(budget=Budget(requests=1))
async def thrifty(text: str) -> Embedding[list[float]]:
    """Embed a text once."""
    ...


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(embedding=lengths, strict=True) as running:
        yield running


@pytest.fixture
async def opened(server: LoopbackServer) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, MemoryStorage()) as running:
        for function in (vector, topic):
            await running.desk(function.__tanuki__).recall()  # type: ignore[attr-defined]  # storage is read at first
        yield running
        assert at_rest(running)


def lengths(request: EmbeddingRequest) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in request.texts]


def refusing(bad: Callable[[EmbeddingRequest], bool], **fault: Any) -> Callable[[EmbeddingRequest], Any]:
    return lambda request: Fault.status(400, **fault) if bad(request) else lengths(request)


def sizes(server: LoopbackServer) -> list[int]:
    return [len(request.texts) for request in server.requests if isinstance(request, EmbeddingRequest)]


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


# Company


async def test_functions_that_use_one_model_share_a_request(opened: Tanuki, server: LoopbackServer) -> None:
    found = await asyncio.gather(*[f("x" * n) for n in range(1, 11) for f in (vector, topic)])

    assert [each[0] for each in found] == [float(n) for n in range(1, 11) for _ in range(2)]
    assert sizes(server) == [20]


async def test_each_function_is_charged_for_its_own_texts(opened: Tanuki, server: LoopbackServer) -> None:
    await asyncio.gather(vector("long " * 300), topic("short " * 100))
    of_vector, of_topic = (await tanuki.status(vector)).usage, (await tanuki.status(topic)).usage

    assert of_vector.input_tokens > 2 * of_topic.input_tokens > 0
    assert of_vector + of_topic == opened.statistics().pool.accounts[0].usage
    assert of_vector.requests + of_topic.requests == server.served == 1


async def test_a_budget_that_is_spent_stops_only_its_function(opened: Tanuki, server: LoopbackServer) -> None:
    await thrifty("a")
    found = await outcomes(vector("ab"), thrifty("abc"), topic("abcd"))

    assert isinstance(found[1], BudgetExceededError)
    assert [found[0][0], found[2][0]] == [2.0, 4.0]


async def test_a_lone_text_does_not_wait_for_company(
    opened: Tanuki, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tanuki_async._batcher.GATHER", 30.0)

    async with asyncio.timeout(5):
        assert [await vector("a"), await vector("ab")] == [[1.0, 1.0], [2.0, 1.0]]


async def test_while_others_are_on_their_way_texts_wait_for_company() -> None:
    answer = asyncio.Event()

    async def slowly(request: EmbeddingRequest) -> list[list[float]]:
        await answer.wait()
        return lengths(request)

    async with LoopbackServer(embedding=slowly) as server, tanuki_for(server, MemoryStorage()):
        calls = [asyncio.create_task(vector("first"))]
        await server.wait_requests(1)
        for n in range(1, 6):  # one after another, each some turns of the loop later
            calls.append(asyncio.create_task(vector("x" * n)))
            for _ in range(3):
                await asyncio.sleep(0)
        await server.wait_requests(2)
        answer.set()
        await asyncio.gather(*calls)

        assert sizes(server) == [1, 5]


async def test_ten_thousand_at_once_are_few_requests() -> None:
    async with LoopbackServer(embedding=lengths, strict=True) as server:
        openai = OpenAI("sk-test", server.url)
        async with Tanuki(storage=MemoryStorage(), providers=[openai]) as opened:
            found = await asyncio.gather(*[vector("x" * (n % 50 + 1)) for n in range(10_000)])

            assert [each[0] for each in found] == [n % 50 + 1 for n in range(10_000)]
            assert sorted(sizes(server), reverse=True) == [512] * 19 + [272]
            assert at_rest(opened)


async def test_a_request_holds_no_more_tokens_than_its_provider_takes() -> None:
    class Small(OpenAICompatible):
        embedding_tokens = 1_000

    async with LoopbackServer(embedding=lengths) as server:
        async with Tanuki(
            storage=MemoryStorage(), providers=[Small(server.url, name="small")], embedding_model="small:embed"
        ):
            await asyncio.gather(*[vector("x" * 700) for _ in range(10)])  # each about 200 tokens

        assert sizes(server) == [3, 3, 3, 1]


# What comes back


async def test_vectors_in_any_order_find_their_texts() -> None:
    def shuffled(request: EmbeddingRequest) -> Reply:
        data = [
            {"index": place, "embedding": base64.b64encode(struct.pack("<2f", len(text), 1)).decode()}
            for place, text in enumerate(request.texts)
        ]
        random.Random(7).shuffle(data)
        return Reply(status=200, headers={}, body=json.dumps({"data": data}).encode())

    async with LoopbackServer(embedding=shuffled) as server, tanuki_for(server, MemoryStorage()):
        found = await asyncio.gather(*[vector("x" * n) for n in range(1, 40)])

    assert [each[0] for each in found] == [float(n) for n in range(1, 40)]


async def test_a_server_may_ignore_the_packing_that_was_asked_for() -> None:
    def plain(request: EmbeddingRequest) -> Reply:
        data = [{"index": place, "embedding": each} for place, each in enumerate(lengths(request))]
        return Reply(status=200, headers={}, body=json.dumps({"data": data}).encode())

    async with LoopbackServer(embedding=plain) as server:
        async with Tanuki(storage=MemoryStorage(), providers=[OpenAI("sk-test", server.url)]):
            assert await vector("four") == [4.0, 1.0]
        assert server.requests[0].body["encoding_format"] == "base64"


@pytest.mark.parametrize("change", [lambda vectors: vectors[1:], lambda vectors: [*vectors, [0.0, 0.0]]])
async def test_a_wrong_number_of_vectors_is_an_error_for_all(change: Callable[[Any], Any]) -> None:
    async with (
        LoopbackServer(embedding=lambda request: change(lengths(request))) as server,
        tanuki_for(server, MemoryStorage(), clock=FakeClock(autojump=0.02)),
    ):
        found = await outcomes(vector("a"), vector("b"))

    assert [type(each) for each in found] == [ProviderUnavailableError] * 2


async def test_a_provider_that_miscounts_is_told_apart_from_a_server_that_does() -> None:
    class Careless(FakeProvider):
        async def embed(self, model: Model, texts: Any, http: Http) -> tuple[list[list[float]], Usage]:
            return [[1.0]], Usage()

    async with Tanuki(storage=MemoryStorage(), providers=[Careless()], embedding_model="fake:embed"):
        with pytest.raises(tanuki.ProviderError, match="1 vectors for 2 texts; that is a bug in Careless"):
            await asyncio.gather(vector("a"), vector("b"))


# What is refused


@pytest.mark.parametrize("fault", [{"param": "input"}, {"param": None}])
async def test_a_text_that_is_refused_fails_alone(fault: dict[str, Any]) -> None:
    answer = refusing(lambda request: any("bad" in text for text in request.texts), **fault)
    async with LoopbackServer(embedding=answer) as server, tanuki_for(server, MemoryStorage()) as opened:
        texts = [f"bad {n}" if n in (0, 7, 8, 63) else "x" * n for n in range(64)]
        found = await outcomes(*map(vector, texts))

        errors = [each for each in found if isinstance(each, RequestRejectedError)]
        assert [n for n, each in enumerate(found) if isinstance(each, Exception)] == [0, 7, 8, 63]
        assert len({id(each) for each in errors}) == len(errors) == 4
        assert all(found[n] == [float(n), 1.0] for n in range(64) if n not in (0, 7, 8, 63))
        assert server.served <= 50
        assert at_rest(opened)
        assert (await tanuki.status(vector)).failed == 4


async def test_a_request_that_is_wrong_in_itself_is_not_taken_apart() -> None:
    answer = refusing(lambda _: True, param="model")
    async with LoopbackServer(embedding=answer) as server, tanuki_for(server, MemoryStorage()):
        found = await outcomes(*[vector(f"text {n}") for n in range(100)])

        assert all(isinstance(each, RequestRejectedError) for each in found)
        assert server.served == 1


async def test_when_nothing_is_taken_the_search_for_the_reason_ends() -> None:
    async with LoopbackServer(embedding=refusing(lambda _: True)) as server, tanuki_for(server, MemoryStorage()):
        found = await outcomes(*[vector(f"text {n}") for n in range(128)])

        assert all(isinstance(each, RequestRejectedError) for each in found)
        assert server.served < 45


async def test_a_server_that_takes_few_texts_at_once_is_learnt_from() -> None:
    answer = refusing(lambda request: len(request.texts) > 32, message="batch size is larger than 32")
    async with LoopbackServer(embedding=answer) as server, tanuki_for(server, MemoryStorage()):
        first = await asyncio.gather(*[vector("x" * n) for n in range(1, 129)])
        before = server.served
        second = await asyncio.gather(*[vector("x" * n) for n in range(1, 129)])

        assert first == second == [[float(n), 1.0] for n in range(1, 129)]
        assert sizes(server)[before:] == [32] * 4


# Who gives up


async def test_callers_that_leave_during_the_search_are_left_out_of_it() -> None:
    wait = asyncio.Event()

    async def answer(request: EmbeddingRequest) -> Any:
        if len(request.texts) < 8:
            await wait.wait()
        return Fault.status(400) if "bad" in request.texts else lengths(request)

    async with LoopbackServer(embedding=answer) as server, tanuki_for(server, MemoryStorage()) as opened:
        calls = [asyncio.create_task(vector(text)) for text in ("a", "b", "c", "d", "e", "f", "g", "bad")]
        await server.wait_requests(2)
        for call in calls[4:6]:
            call.cancel()
        await asyncio.wait(calls[4:6])
        wait.set()
        found = await outcomes(*calls)

        assert [type(each).__name__ for each in found] == ["list"] * 4 + ["CancelledError"] * 2 + [
            "list",
            "RequestRejectedError",
        ]
        assert not any({"e", "f"} & set(request.texts) for request in list(server.requests)[2:])
        assert at_rest(opened)


async def test_a_request_that_nobody_waits_for_is_given_up() -> None:
    async with LoopbackServer(embedding=Fault.hang()) as server, tanuki_for(server, MemoryStorage()) as opened:
        calls = [asyncio.create_task(f("cat")) for f in (vector, topic)]
        await server.wait_requests(1)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        async with asyncio.timeout(1):
            while not at_rest(opened):  # noqa: ASYNC110  # its connection is closed by and by
                await asyncio.sleep(0.005)


async def test_closing_before_the_request_began_tells_its_callers() -> None:
    async with LoopbackServer(embedding=lengths) as server:
        async with tanuki_for(server, MemoryStorage()) as opened:
            await vector("warm up")
            calls = [asyncio.create_task(vector(f"text {n}")) for n in range(3)]
            await asyncio.sleep(0)
            await opened.aclose()
        found = await outcomes(*calls)

    assert [type(each) for each in found] == [NotOpenError] * 3
    assert len({id(each) for each in found}) == 3


def test_limits_are_attributes_of_a_provider() -> None:
    assert (OpenAI("sk-test").embedding_batch, OpenAI("sk-test").embedding_tokens) == (2_048, 300_000)
    assert Provider.embedding_batch == 128
