"""Vectors of fewer dimensions: asked for, cut, or refused with a word on what to do."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from _spine import settings_for

import tanuki_async as tanuki
from tanuki_async import Embedding, Limits, Model, SettingsError, Tanuki
from tanuki_async._embed import as_array, as_list
from tanuki_async.providers.bedrock import Bedrock
from tanuki_async.providers.openai import OpenAI
from tanuki_async.providers.together import TogetherAI
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import FakeProvider, LoopbackServer

FIXTURES = Path(__file__).parent / "fixtures"


def embedder(model: str | Model, dimensions: int | None = 4, result: Any = Embedding[list[float]]) -> Any:
    async def short(text: str) -> Any:
        """Embed a text."""

    if isinstance(model, str):  # priced, so that no table of prices is read
        provider, _, name = model.partition(":")
        model = Model(provider=provider, name=name, price_input=0.0, price_output=0.0)
    short.__annotations__["return"] = result
    return tanuki.patch(teacher_models=model, embedding_dimensions=dimensions)(short)


def open_for(server: LoopbackServer, **settings: Any) -> Tanuki:
    providers = [OpenAI("sk-test", server.url), TogetherAI("key", server.url)]
    return Tanuki(**{**settings_for(server, MemoryStorage()), "providers": providers, **settings})


async def test_a_model_that_takes_a_number_of_dimensions_is_asked_for_it() -> None:
    async with LoopbackServer(strict=True) as server, open_for(server):
        assert len(await embedder("openai:text-embedding-3-small", 256)("cat")) == 256
        assert server.requests[0].body["dimensions"] == 256


@pytest.mark.parametrize("name", ["Qwen/Qwen3-Embedding-0.6B", "mixedbread-ai/mxbai-embed-large-v1", "embeddinggemma"])
async def test_vectors_of_matryoshka_models_are_cut_and_have_length_one(name: str) -> None:
    async with LoopbackServer() as server, open_for(server):
        whole = await embedder(f"together:{name}", None)("cat")
        short = await embedder(f"together:{name}", 4)("cat")

        assert "dimensions" not in server.requests[1].body
        assert math.hypot(*short) == pytest.approx(1, abs=1e-6)
        length = math.hypot(*whole[:4])
        assert short == pytest.approx([each / length for each in whole[:4]], abs=1e-6)


async def test_for_any_other_model_the_error_says_which_ones_can() -> None:
    async with LoopbackServer() as server, open_for(server):
        with pytest.raises(SettingsError, match=r"text-embedding-3-\* and Titan v2 take a number of dimensions"):
            await embedder("openai:text-embedding-ada-002")("cat")
        assert server.served == 0


async def test_a_user_may_know_better() -> None:
    model = Model(provider="together", name="ours", shortening="cut", price_input=0.0, price_output=0.0)
    async with LoopbackServer() as server, open_for(server):
        assert len(await embedder(model)("cat")) == 4


async def test_more_dimensions_than_there_are_cannot_be_had() -> None:
    async with LoopbackServer() as server, open_for(server):
        with pytest.raises(SettingsError, match="gives vectors of 16 dimensions, and 64 were asked for"):
            await embedder("together:embeddinggemma", 64)("cat")


async def test_what_the_table_knows_is_said_before_anything_is_sent() -> None:
    async with LoopbackServer() as server, open_for(server):
        model = Model(provider="openai", name="text-embedding-3-small", dimensions=1_536, price_input=0.02)
        with pytest.raises(SettingsError, match="gives vectors of 1536 dimensions, and 2000 were asked for"):
            await embedder(model, 2_000)("cat")
        assert server.served == 0
        await embedder(model, 1_536)("cat")
        assert "dimensions" not in server.requests[0].body


async def test_a_server_that_does_not_heed_the_number_is_found_out() -> None:
    async with (
        LoopbackServer(embedding=lambda request: [[0.5] * 8 for _ in request.texts]) as server,
        open_for(server),
    ):
        with pytest.raises(SettingsError, match="does not heed `dimensions`"):
            await embedder("openai:text-embedding-3-small")("cat")


async def test_only_an_embedding_has_dimensions() -> None:
    @tanuki.patch(embedding_dimensions=4)
    async def answer(text: str) -> int:
        """Count."""
        ...

    async with Tanuki(storage=MemoryStorage(), providers=[FakeProvider()], teacher_models="fake:m"):
        with pytest.raises(SettingsError, match=r"answer\(\) returns no embedding: leave out embedding_dimensions"):
            await answer("cat")


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "256", True])
def test_dimensions_are_a_whole_number(wrong: Any) -> None:
    with pytest.raises(SettingsError, match="embedding_dimensions"):
        tanuki.patch(embedding_dimensions=wrong)


async def test_titan_is_asked_text_by_text_within_the_limits_of_its_account() -> None:
    async with LoopbackServer() as server:
        bedrock = Bedrock("key", base_url=server.url, limits=Limits(concurrency=3))
        async with Tanuki(storage=MemoryStorage(), providers=[bedrock]):
            embed = embedder("bedrock:amazon.titan-embed-text-v2:0", 256)
            found = await asyncio.gather(*[embed(f"text {number}") for number in range(10)])

        assert [len(each) for each in found] == [256] * 10
        assert len({tuple(each) for each in found}) == 10
        assert [request.body["dimensions"] for request in server.requests] == [256] * 10
        assert server.max_in_flight <= 3


@pytest.mark.parametrize("name", ["openai/embeddings_base64", "openai/embeddings_float", "together/embeddings"])
@pytest.mark.parametrize("kind", ["list", "numpy"])
async def test_recorded_answers_are_vectors(name: str, kind: str) -> None:
    numpy = pytest.importorskip("numpy")
    recorded = json.loads((FIXTURES / f"{name}.json").read_text())
    asked = recorded["request"]["json"]
    if len(recorded["body"]["data"]) > 1:
        recorded["body"]["data"] = recorded["body"]["data"][:1]
    async with LoopbackServer(embedding=[]) as server, open_for(server):
        server.replay(recorded)
        result = Embedding[numpy.ndarray] if kind == "numpy" else Embedding[list[float]]
        found = await embedder(f"{name.partition('/')[0]}:{asked['model']}", asked.get("dimensions"), result)("one")
        sent = server.requests[0].body

    assert list(found) == [0.25, -0.5, 0.125, 0.0]
    assert (sent["model"], sent["input"], sent.get("dimensions")) == (asked["model"], ["one"], asked.get("dimensions"))


def test_a_packed_vector_becomes_an_array_without_a_copy() -> None:
    numpy = pytest.importorskip("numpy")
    from array import array

    packed = array("f", [1.0, 2.0])
    made = as_array(packed)

    assert made.dtype == numpy.float32
    assert numpy.shares_memory(made, packed)
    assert made.flags.writeable
    assert as_list(packed) == [1.0, 2.0]
