"""A real small model behind a real server answers patched functions, held to the schema of what they return."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

import tanuki_async as tanuki
from tanuki_async import RequestRejectedError
from tanuki_async._pool.http import Connections
from tanuki_async._records import AnswerSchema, Completion, GenerationParams, Head, Request, Turn
from tanuki_async.providers.openai import OpenAICompatible

logger = logging.getLogger("live")
pytest_plugins = ["live_servers"]
pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


class Ticket(BaseModel):
    topic: Literal["delivery", "payment", "other"]
    urgency: Annotated[int, Field(ge=1, le=5)]


@tanuki.patch(generation_params={"temperature": 0, "max_new_tokens": 64}, timeout=120)
async def classify(text: str) -> Literal["good", "bad"]:
    """Classify the sentiment of a message."""


@tanuki.patch(generation_params={"temperature": 0, "max_new_tokens": 64}, timeout=120)
async def triage(text: str) -> Ticket:
    """Say what a support ticket is about, and how urgent it is."""


@tanuki.patch(generation_params={"temperature": 0, "max_new_tokens": 200}, timeout=120)
async def colors(text: str) -> AsyncIterator[Literal["red", "green", "blue"]]:
    """List the colors of a flag."""


@tanuki.align
async def align_classify() -> None:
    assert await classify("I love you") == "good"
    assert await classify("I hate you") == "bad"


async def test_a_literal_is_answered_within_its_choices(llama_server: str) -> None:
    model = OpenAICompatible(llama_server, name="llamacpp")
    async with tanuki.Tanuki(storage="memory:", providers=[model], teacher_models="llamacpp:small"):
        await align_classify()
        texts = ["What a day!", "Never again", "It broke after an hour"]
        answers = await asyncio.gather(*map(classify, texts))
        status = await tanuki.status(classify)
    logger.info("%s; %s", dict(zip(texts, answers, strict=True)), status.usage)
    assert set(answers) <= {"good", "bad"}
    assert status.usage.requests == 3
    assert status.usage.input_tokens > 300
    assert 0 < status.usage.output_tokens < 192


async def test_a_model_of_fields_and_a_stream_are_answered_too(llama_server: str) -> None:
    model = OpenAICompatible(llama_server, name="llamacpp")
    async with tanuki.Tanuki(storage="memory:", providers=[model], teacher_models="llamacpp:small"):
        ticket = await triage("My parcel never came")
        seen = []
        async for color in await colors("The flag of France"):
            seen.append(color)
            if len(seen) == 3:  # a small model may go on and on
                break
    logger.info("%s; %s", ticket, seen)
    assert isinstance(ticket, Ticket)
    assert set(seen) <= {"red", "green", "blue"}


async def test_a_prompt_that_is_too_long_is_rejected_in_words(llama_server: str) -> None:
    model = OpenAICompatible(llama_server, name="llamacpp")
    async with tanuki.Tanuki(storage="memory:", providers=[model], teacher_models="llamacpp:small"):
        with pytest.raises(RequestRejectedError, match="context"):
            await classify("word " * 5_000)


async def test_its_responses_api_answers_whole_and_in_pieces(llama_server: str) -> None:
    """It does not hold an answer to the schema there, so what it says may be anything."""
    model, http = OpenAICompatible(llama_server, name="llamacpp", responses=True), Connections()
    answer = AnswerSchema(name="f", schema={"type": "object"}, strict=False)
    head = Head(
        function="f",
        system="Answer in JSON.",
        examples=(Turn("user", "hi"), Turn("assistant", '{"value":1}')),
        answer=answer,
        params=GenerationParams(temperature=0, max_new_tokens=8),
    )
    request = Request(model=model.model("small"), head=head, turns=(Turn("user", "hello"),))
    whole = await model.complete(request, http)
    *pieces, last = [piece async for piece in model.stream(request, http)]
    await http.aclose()
    logger.info("%s; %s", whole, pieces)
    assert whole.text
    assert whole.usage.input_tokens > 10
    assert isinstance(last, Completion)
    assert "".join(map(str, pieces)) == last.text


async def test_it_lists_its_models(llama_server: str) -> None:
    http = Connections()
    names = await OpenAICompatible(llama_server).models(http)
    await http.aclose()
    assert len(names) == 1
