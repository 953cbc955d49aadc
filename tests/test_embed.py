"""Embeddings through real HTTP: many small calls travel together, and none hurts another."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from _spine import at_rest, settings_for, tanuki_for

import tanuki_async as tanuki
from tanuki_async import (
    AuthenticationError,
    CallTimeoutError,
    Embedding,
    InputError,
    Model,
    NotOpenError,
    PromptTooLongError,
    ProviderUnavailableError,
    QuotaExceededError,
    Tanuki,
)
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import EmbeddingRequest, FakeClock, Fault, LoopbackServer


@tanuki.patch
async def vector(text: str) -> Embedding[list[float]]:
    """Embed a text."""
    ...


@tanuki.patch
async def article(title: str, *, tags: list[str]) -> Embedding[list[float]]:
    """Embed an article."""
    ...


@tanuki.patch(timeout=0.15)
async def hasty(text: str) -> Embedding[list[float]]:
    """Embed a text."""
    ...


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(strict=True) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage) as running:
        yield running
        assert at_rest(running)


def lengths(request: EmbeddingRequest) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in request.texts]


async def test_a_vector_is_a_list_of_floats(opened: Tanuki, server: LoopbackServer) -> None:
    found = await vector("cat")

    assert type(found) is list
    assert len(found) == 16
    assert all(type(each) is float for each in found)
    assert server.requests[0].model == "embed"
    assert list(server.requests[0].texts) == ["cat"]
    assert set(server.requests[0].body) <= {"model", "input", "encoding_format"}


async def test_a_vector_may_be_an_array(opened: Tanuki) -> None:
    numpy = pytest.importorskip("numpy")

    async def f(text: str) -> Any:
        """Embed a text."""

    f.__annotations__["return"] = Embedding[numpy.ndarray]
    array = await tanuki.patch(f)("cat")

    assert type(array) is numpy.ndarray
    assert array.shape == (16,)
    assert array.dtype == numpy.float32
    assert numpy.allclose(array, await vector("cat"))


async def test_several_arguments_are_embedded_as_json(opened: Tanuki, server: LoopbackServer) -> None:
    await article("Cats", tags=["pets"])

    assert [json.loads(text) for text in server.requests[0].texts] == [{"title": "Cats", "tags": ["pets"]}]


async def test_many_calls_at_once_travel_as_one_request_and_keep_their_order() -> None:
    async with LoopbackServer(embedding=lengths, strict=True) as server, tanuki_for(server, MemoryStorage()) as opened:
        found = await asyncio.gather(*[vector("x" * number) for number in range(1, 51)])

        assert found == [[float(number), 1.0] for number in range(1, 51)]
        assert server.served <= 2
        assert sum(len(request.texts) for request in server.requests) == 50
        assert at_rest(opened)
        assert opened.statistics().pool.accounts[0].usage.requests == server.served


async def test_calls_one_after_another_do_not_wait_for_company(opened: Tanuki, server: LoopbackServer) -> None:
    await vector("warm up")
    before = time.monotonic()
    await vector("cat")

    assert time.monotonic() - before < 0.1
    assert server.served == 2


async def test_more_texts_than_one_request_takes_are_split() -> None:
    async with LoopbackServer(embedding=lengths, strict=True) as server, tanuki_for(server, MemoryStorage()):
        found = await asyncio.gather(*[vector("x" * (number % 7 + 1)) for number in range(1_100)])

        assert [each[0] for each in found] == [number % 7 + 1 for number in range(1_100)]
        assert [len(request.texts) for request in server.requests] == [128] * 8 + [76]


async def test_an_error_reaches_every_caller() -> None:
    async with (
        LoopbackServer(embedding=Fault.status(401), strict=True) as server,
        tanuki_for(server, MemoryStorage()) as opened,
    ):
        found = await asyncio.gather(*[vector(f"text {n}") for n in range(20)], return_exceptions=True)

        assert all(isinstance(each, AuthenticationError) for each in found)
        assert server.served == 1
        assert at_rest(opened)
        assert (await tanuki.status(vector)).failed == 20


async def test_a_failed_batch_does_not_spoil_the_next() -> None:
    async with (
        LoopbackServer(embedding=[Fault.status(401), lengths], strict=True) as server,
        tanuki_for(server, MemoryStorage()),
    ):
        with pytest.raises(AuthenticationError):
            await vector("a")
        assert await vector("ab") == [2.0, 1.0]


async def test_too_few_vectors_are_an_error_for_all() -> None:
    clock = FakeClock(autojump=0.02)
    async with (
        LoopbackServer(embedding=lambda request: lengths(request)[1:]) as server,
        tanuki_for(server, MemoryStorage(), clock=clock),
    ):
        found = await asyncio.gather(vector("a"), vector("b"), return_exceptions=True)

    assert [type(each) for each in found] == [ProviderUnavailableError] * 2


async def test_a_cancelled_caller_does_not_hurt_the_others() -> None:
    answer = asyncio.Event()

    async def slowly(request: EmbeddingRequest) -> list[list[float]]:
        await answer.wait()
        return lengths(request)

    async with LoopbackServer(embedding=slowly, strict=True) as server, tanuki_for(server, MemoryStorage()) as opened:
        calls = [asyncio.create_task(vector("x" * number)) for number in range(1, 11)]
        await asyncio.sleep(0)
        calls[0].cancel()  # before anything is sent
        await server.wait_requests(1)
        calls[1].cancel()  # while the request is on its way
        await asyncio.wait(calls[:2])
        answer.set()

        assert await asyncio.gather(*calls[2:]) == [[float(number), 1.0] for number in range(3, 11)]
        assert calls[0].cancelled()
        assert calls[1].cancelled()
        assert at_rest(opened)


async def test_when_all_are_cancelled_nothing_is_sent(opened: Tanuki, server: LoopbackServer) -> None:
    calls = [asyncio.create_task(vector(f"text {n}")) for n in range(5)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await asyncio.sleep(0.02)

    assert server.served == 0


async def test_an_empty_text_is_an_input_error(opened: Tanuki, server: LoopbackServer) -> None:
    with pytest.raises(InputError, match="an empty text has no embedding") as caught:
        await vector("")

    assert caught.value.parameter == "text"
    assert server.served == 0


async def test_an_argument_that_does_not_fit_is_an_input_error(opened: Tanuki, server: LoopbackServer) -> None:
    with pytest.raises(InputError, match="'text'"):
        await vector(3)  # type: ignore[arg-type]
    assert server.served == 0


async def test_a_server_that_hangs_is_left_at_the_deadline() -> None:
    async with LoopbackServer(embedding=Fault.hang()) as server, tanuki_for(server, MemoryStorage()) as opened:
        with pytest.raises(CallTimeoutError, match="an embedding by loopback:embed"):
            await hasty("cat")
        async with asyncio.timeout(1):
            while not at_rest(opened):  # noqa: ASYNC110  # nobody waits for this request any more
                await asyncio.sleep(0.005)


async def test_a_text_longer_than_the_window_is_never_sent(server: LoopbackServer, storage: MemoryStorage) -> None:
    model = Model(provider="loopback", name="embed", context_window=100)

    async with tanuki_for(server, storage, embedding_model=model):
        with pytest.raises(PromptTooLongError, match="loopback:embed: 100"):
            await vector("word " * 200)
    assert server.served == 0


async def test_closing_ends_calls_that_wait() -> None:
    async with LoopbackServer(embedding=Fault.hang()) as server:
        async with tanuki_for(server, MemoryStorage()):
            call = asyncio.create_task(vector("cat"))
            await server.wait_requests(1)
        with pytest.raises(NotOpenError, match="closed while this call waited"):
            await call


async def test_closing_ends_calls_that_are_not_sent_yet() -> None:
    async with LoopbackServer() as server:
        async with tanuki_for(server, MemoryStorage()):
            await vector("warm up")
            call = asyncio.create_task(vector("cat"))
            await asyncio.sleep(0)
        with pytest.raises(NotOpenError, match="closed while this call waited"):
            await call


async def test_openai_packs_its_vectors(
    server: LoopbackServer, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)

    async with tanuki_for(server, storage):
        plain = await vector("cat")
    async with Tanuki(storage=storage):
        packed = await vector("cat")

    assert packed == pytest.approx(plain, abs=1e-6)
    assert server.requests[1].model == "text-embedding-3-small"
    assert server.requests[1].body["encoding_format"] == "base64"


async def test_tokens_and_cost_are_counted(server: LoopbackServer, storage: MemoryStorage) -> None:
    model = Model(provider="loopback", name="embed", price_input=1.0, price_output=0.0)

    async with tanuki_for(server, storage, embedding_model=model):
        await asyncio.gather(vector("cat" * 4), vector("dog" * 4))
        found = await tanuki.status(vector)

    assert found.answered_by_teacher == 2
    assert found.usage.requests == 1
    assert found.cost == pytest.approx(found.usage.input_tokens / 1e6)
    assert found.datasets["PATCHES"] == 0


async def test_no_other_model_takes_over_since_its_vectors_could_not_be_compared(storage: MemoryStorage) -> None:
    @tanuki.patch(teacher_models=["loopback:one", "loopback:two"])
    async def either(text: str) -> Embedding[list[float]]:
        """Embed a text."""
        ...

    async with LoopbackServer(embedding=[Fault.quota(), lengths]) as server, Tanuki(**settings_for(server, storage)):
        with pytest.raises(QuotaExceededError):
            await either("ab")
        assert await either("ab") == [2.0, 1.0]
        assert [request.model for request in server.requests] == ["one", "one"]
