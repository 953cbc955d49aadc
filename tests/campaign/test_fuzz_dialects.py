"""Asks for random types in the dialect of every provider, over HTTP, of servers that refuse whatever is not theirs.

`TANUKI_FUZZ_PAIRS` says how many types are asked for, each in one dialect (default 112; 10,000 is the whole campaign).
A hundredth of `TANUKI_FUZZ_ANSWERS` random answers comes this way as well, with the questions that follow on them.
`TANUKI_FUZZ_SEED` repeats a run, `TANUKI_FUZZ_FIRST` begins at a later type of it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from random import Random
from typing import Any

import jsonschema
import pytest
from _fuzz import ANSWERS, CHUNK, FIRST, PAIRS, TELL, Log, drawn, good_answer, outcome, readable, stub
from _fuzz_answers import spoiled
from _fuzz_fits import fits
from _fuzz_types import Typed
from botocore.validate import ParamValidator
from pydantic_core import from_json, to_json
from test_providers_bedrock import CONVERSE

from tanuki_async import InputError, Model, OutputError, Tanuki
from tanuki_async._function import patched
from tanuki_async.providers.anthropic import Anthropic
from tanuki_async.providers.bedrock import Bedrock
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.providers.together import TogetherAI
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import ChatRequest, FakeClock, LoopbackServer, _strict_anthropic
from tanuki_async.testing._bedrock import ConverseRequest

KEY = "sk-test"
SOL = Model(
    provider="responses", name="gpt-6.1-sol", endpoint="responses", instruction_role="developer",
    token_field="max_completion_tokens", reasoning_effort="low",
)  # fmt: skip
PLAIN = [
    Model(provider="plain", name="json", structured="json_object"),
    Model(provider="plain", name="words", structured="none"),
]
MODELS = [
    "openai:gpt-6-luna", "openai:gpt-4.1-mini", "openai:ft:gpt-4.1-mini:x::y", "responses:gpt-6.1-sol",
    "anthropic:claude-haiku-5-5", "anthropic:claude-opus-5-5", "anthropic:claude-haiku-4-5",
    "bedrock:anthropic.claude-haiku-5-5", "bedrock:amazon.nova-lite-v1:0", "bedrock:openai.gpt-oss-120b-1:0",
    "gemini:gemini-3.8-flash", "together:Qwen/Qwen3.5-9B", "plain:json", "plain:words",
]  # fmt: skip

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(7_200)]


class Dialects:
    """All providers, before one strict server. What it refuses is a failure here, even if the call got over it."""

    def __init__(self) -> None:
        self.answer: Callable[[], str] = lambda: ""
        self.answered = 0
        self.asked: ChatRequest | None = None
        self.server = LoopbackServer(self._answer, strict=True, keep=1)

    def _answer(self, request: ChatRequest) -> str:
        self.answered, self.asked = self.answered + 1, request
        if isinstance(request, ConverseRequest):
            check_converse(request)
        text = self.answer()
        return as_tool_input(text) if request.body.keys() & {"toolConfig", "tools"} else text

    def opened(self) -> Tanuki:
        url = self.server.url
        providers = [
            OpenAI(KEY, url), Anthropic(KEY, url), TogetherAI(KEY, url), Bedrock(KEY, base_url=url),
            OpenAICompatible(url, name="gemini", api_key=KEY),
            OpenAICompatible(url, name="responses", responses=True, models={SOL.name: SOL}),
            OpenAICompatible(url, name="plain", models={each.name: each for each in PLAIN}),
        ]  # fmt: skip
        return Tanuki(storage=MemoryStorage(), clock=FakeClock(autojump=0), providers=providers)

    def assert_nothing_refused(self, what: str) -> None:
        assert not self.server.failures, f"{what}: {self.server.failures}"
        last: Any = self.server.requests[-1] if self.server.requests else None
        assert self.answered == self.server.served, f"refused: {what}: {json.dumps(last.body)[:3000]}"


def check_converse(request: ChatRequest) -> None:
    """Refuse what Bedrock's own description of a request does not allow."""
    body = {name: value for name, value in request.body.items() if name not in ("outputConfig", "stream")}
    report = ParamValidator().validate({"modelId": "m", **body}, CONVERSE)
    assert not report.has_errors(), report.generate_report()
    if "outputConfig" in request.body and request.schema:
        _strict_anthropic.check_schema(request.schema, "outputConfig")


def as_tool_input(answer: str) -> str:
    """What is given to a tool is JSON, whatever the model does."""
    answer = answer.encode(errors="replace").decode()
    try:
        return to_json(from_json(answer, allow_inf_nan=False)).decode()
    except ValueError:
        return to_json(answer).decode()


async def test_no_type_makes_a_request_that_a_strict_server_refuses() -> None:
    dialects, log = Dialects(), Log("pairs")
    async with dialects.server, dialects.opened():
        for place in range(FIRST, FIRST + PAIRS):
            draw, found, _ = drawn(place)
            await one_pair(log, dialects, MODELS[place % len(MODELS)], found, draw)
            if place % TELL == TELL - 1:
                log.tell(place)
    log.tell(FIRST + PAIRS)
    assert log.ends["equal"] > PAIRS * 0.7


async def one_pair(log: Log, dialects: Dialects, model: str, found: Typed, draw: Random) -> None:
    """Ask for a good answer: it fits the schema that was sent, and comes back as it was."""
    function = stub(found.annotation, found.annotation, teacher_models=model, max_repairs=0)
    value, what = found.make(draw), f"{model} {found.annotation}"
    good = good_answer(function, value)
    if good is None:
        log.ends["not written"] += 1
        return
    dialects.answer, dialects.asked = lambda: good, None
    result, error = await outcome(function(value))
    dialects.assert_nothing_refused(what)
    log.ends[type(error).__name__ if error else "equal" if result == value else "another"] += 1
    log.answers = dialects.answered
    if error is None:
        assert fits(result, found.annotation), f"{what}: {result!r}"
    elif not isinstance(error, InputError):
        assert isinstance(error, OutputError), f"{what}: {error!r}"
        assert not readable(function, value), f"{what}: {error!r}"
    strict = patched(function).spec.wire.answer.strict
    if strict and dialects.asked is not None and dialects.asked.schema is not None and readable(function, value):
        jsonschema.validate(json.loads(good), dialects.asked.schema)


async def test_answers_over_http_are_as_harmless_in_every_dialect() -> None:
    dialects, log = Dialects(), Log("over HTTP")
    async with dialects.server:
        for first in itertools.count(FIRST, CHUNK):
            async with dialects.opened():
                for place in range(first, first + CHUNK):
                    draw, found, _ = drawn(place)
                    await one_answer(log, dialects, MODELS[place % len(MODELS)], found, draw)
            if log.answers >= ANSWERS // 100:
                break
    log.tell(place)
    assert log.ends["value"]
    assert log.ends["OutputError"]


async def one_answer(log: Log, dialects: Dialects, model: str, found: Typed, draw: Random) -> None:
    function = stub(found.annotation, found.annotation, teacher_models=model)
    value, what = found.make(draw), f"{model} {found.annotation}"
    good = good_answer(function, value) or "{}"
    dialects.answer = lambda: spoiled(draw, good)
    result, error = await outcome(function(value))
    dialects.assert_nothing_refused(what)
    log.ends[type(error).__name__ if error else "value"] += 1
    log.answers = dialects.answered
    if error is None:
        assert fits(result, found.annotation), f"{what}: {result!r:.500}"
    else:
        assert isinstance(error, OutputError | InputError), f"{what}: {error!r}"
