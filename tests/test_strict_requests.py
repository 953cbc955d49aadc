"""Whatever a function returns, what is sent for it is what OpenAI accepts."""

from __future__ import annotations

import datetime
import enum
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from pydantic import BaseModel, Field

import tanuki_async as tanuki
from tanuki_async.providers.anthropic import Anthropic
from tanuki_async.providers.openai import OpenAI
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import ChatRequest, LoopbackServer


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Node(BaseModel):
    name: str
    children: list[Node] = []


@dataclass
class Point:
    x: int
    y: float = 1.0


class Row(TypedDict):
    a: int
    b: NotRequired[str]


TYPES: list[Any] = [
    str, int, bool, float, None, Literal["a", "b"], Literal["a"] | None, Colour, list[int], dict[str, int], set[str],
    tuple[int, str], tuple[int, ...], Node, Point, Row, datetime.datetime, datetime.date, datetime.timedelta, uuid.UUID,
    bytes, list[Point], dict[str, Node], Annotated[int, Field(gt=0, lt=10)], int | str | None, dict[Colour, list[Point]],
]  # fmt: skip


@pytest.mark.parametrize("model", ["gpt-6-luna", "gpt-6.1-sol", "gpt-4.1-mini"])
async def test_every_type_is_asked_for_with_a_schema_that_strict_mode_takes(model: str) -> None:
    async with LoopbackServer(strict=True) as server:
        provider = OpenAI(api_key="sk-test", base_url=server.url)
        async with tanuki.Tanuki(storage=MemoryStorage(), providers=[provider], teacher_models=[f"openai:{model}"]):
            for annotation in TYPES:

                async def stub(text: str) -> Any: ...

                stub.__annotations__["return"] = annotation
                await tanuki.patch(max_repairs=0)(stub)("hi")
    for request in server.requests:
        assert isinstance(request, ChatRequest)
        assert request.body["response_format"]["json_schema"]["strict"] is True
        assert request.arguments == {"text": "hi"}
    assert server.served == len(TYPES)  # nothing was refused and asked again


@pytest.mark.parametrize("model", ["claude-haiku-5-5", "claude-sonnet-5-5", "claude-haiku-4-5"])
async def test_every_type_is_asked_for_with_a_schema_that_anthropic_takes(model: str) -> None:
    types = [*TYPES, Annotated[str, Field(pattern="^a+$", max_length=3)], Annotated[list[int], Field(min_length=2)]]

    async with LoopbackServer(strict=True) as server:
        provider = Anthropic(api_key="sk-test", base_url=server.url)
        async with tanuki.Tanuki(storage=MemoryStorage(), providers=[provider], teacher_models=[f"anthropic:{model}"]):
            for annotation in types:

                async def stub(text: str) -> Any: ...

                stub.__annotations__["return"] = annotation
                with suppress(tanuki.OutputError):  # bounds are said in words, which the plainest value does not hear
                    await tanuki.patch(max_repairs=0)(stub)("hi")
    for request in server.requests:
        assert isinstance(request, ChatRequest)
        assert request.body["output_config"]["format"]["type"] == "json_schema"
        assert request.arguments == {"text": "hi"}
    assert server.served == len(types)  # nothing was refused and asked again


@pytest.mark.parametrize(("model", "form"), [("claude-haiku-5-5", "tool"), ("claude-opus-5-5", "words")])
async def test_what_no_strict_schema_expresses_is_asked_of_claude_by_a_tool_or_in_words(model: str, form: str) -> None:
    @tanuki.patch(max_repairs=0)
    async def anything(text: str) -> dict[str, Any]:
        """Say something."""
        ...

    async with LoopbackServer({"a": [1, None]}, strict=True) as server:
        provider = Anthropic(api_key="sk-test", base_url=server.url)
        async with tanuki.Tanuki(storage=MemoryStorage(), providers=[provider], teacher_models=[f"anthropic:{model}"]):
            assert await anything("hi") == {"a": [1, None]}
        (request,) = server.requests
    assert isinstance(request, ChatRequest)
    assert ("tools" in request.body) is (form == "tool")
    assert "format" not in request.body["output_config"]


async def test_what_strict_mode_cannot_express_is_asked_for_in_json_mode() -> None:
    @tanuki.patch(max_repairs=0)
    async def anything(text: str) -> dict[str, Any]:
        """Say something."""
        ...

    async with LoopbackServer({"a": [1, None]}, strict=True) as server:
        provider = OpenAI(api_key="sk-test", base_url=server.url)
        async with tanuki.Tanuki(storage=MemoryStorage(), providers=[provider], teacher_models=["openai:gpt-6-luna"]):
            assert await anything("hi") == {"a": [1, None]}
        (request,) = server.requests
        assert isinstance(request, ChatRequest)
        assert request.body["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize("model", ["gpt-6-luna", "gpt-4.1-mini"])
async def test_parameters_are_sent_under_names_that_the_model_takes(model: str) -> None:
    @tanuki.patch(generation_params={"max_new_tokens": 50, "seed": 7})
    async def answer(text: str) -> int:
        """Count."""
        ...

    async with LoopbackServer(3, strict=True) as server:
        provider = OpenAI(api_key="sk-test", base_url=server.url)
        async with tanuki.Tanuki(storage=MemoryStorage(), providers=[provider], teacher_models=[f"openai:{model}"]):
            assert await answer("hi") == 3
        (request,) = server.requests
        assert isinstance(request, ChatRequest)
        assert (request.body["max_completion_tokens"], request.body["seed"]) == (50, 7)
