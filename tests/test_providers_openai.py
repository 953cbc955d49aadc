from __future__ import annotations

import asyncio
import copy
import gc
import json
import logging
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tanuki_async._errors import (
    AuthenticationError,
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    RateLimitedError,
    RefusalError,
    RequestRejectedError,
    SettingsError,
)
from tanuki_async._pool.http import Connections
from tanuki_async._pool.pool import Pool, Progress
from tanuki_async._records import AnswerSchema, GenerationParams, Head, Limits, Model, Reply, Request, Turn, Usage
from tanuki_async.providers._errors import go_duration, retry_after
from tanuki_async.providers.anyscale import Anyscale
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.providers.together import TogetherAI
from tanuki_async.testing import FakeClock, Fault, LoopbackServer

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

FIXTURES = Path(__file__).parent / "fixtures"
KEY = "sk-very-secret-0123456789"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "string", "enum": ["good", "bad"], "pattern": "^[a-z]+$"}},
    "required": ["value"],
    "additionalProperties": False,
}
HEAD = Head(
    function="classify",
    system='Say "good" or "bad" as JSON.',
    examples=(Turn("user", "ä\n"), Turn("assistant", '{"value":"good"}')),
    answer=AnswerSchema(name="classify", schema=SCHEMA, strict=True),
)


class Http:
    """Answers from a list, and keeps what was sent."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = list(replies)
        self.sent: list[tuple[str, str, dict[str, str], dict[str, Any]]] = []

    async def send(self, method: str, url: str, *, headers: Any, body: bytes | None = None) -> Reply:
        self.sent.append((method, url, dict(headers), json.loads(body or b"null")))
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for *_, body in self.sent]


def fixture(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / name).read_text())


def reply_of(body: Any, status: int = 200, **headers: str) -> Reply:
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Reply(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=raw)


def said(content: Any = '{"value":"good"}', **message: Any) -> Reply:
    return reply_of({"choices": [{"message": {"content": content, **message}, "finish_reason": "stop"}]})


def refused(message: str, param: str | None = None, code: Any = None, status: int = 400) -> Reply:
    return reply_of(
        {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}, status
    )


def ask(model: Model, head: Head = HEAD, **more: Any) -> Request:
    return Request(model=model, head=head, turns=(Turn("user", "hi"),), **more)


def openai() -> OpenAI:
    return OpenAI(KEY)


def compatible() -> OpenAICompatible:
    return OpenAICompatible("http://vllm.invalid:8000/v1/")


# What is sent


async def test_the_request_holds_the_head_then_the_turns_then_the_form_of_the_answer() -> None:
    http, provider = Http(said()), openai()
    turns = (Turn("user", 'a "b" \\ ü 🦝 \x00'), Turn("assistant", "no"), Turn("user", "try again"))
    await provider.complete(Request(model=provider.model("gpt-4.1"), head=HEAD, turns=turns), http)
    ((method, url, headers, body),) = http.sent
    assert (method, url) == ("POST", "https://api.openai.com/v1/chat/completions")
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"
    assert body == {
        "model": "gpt-4.1",
        "messages": [
            {"role": "developer", "content": HEAD.system},
            {"role": "user", "content": "ä\n"},
            {"role": "assistant", "content": '{"value":"good"}'},
            *({"role": turn.role, "content": turn.text} for turn in turns),
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "classify", "strict": True, "schema": SCHEMA},
        },
    }


async def test_half_a_surrogate_pair_can_be_sent() -> None:
    http, provider = Http(said()), compatible()
    request = Request(model=provider.model("m"), head=HEAD, turns=(Turn("user", "\ud83e"),))
    await provider.complete(request, http)
    assert http.bodies[0]["messages"][-1]["content"] == "\ud83e"


async def test_only_what_was_asked_of_the_sampler_is_sent_under_the_name_the_server_knows() -> None:
    params = GenerationParams(
        temperature=0.0, top_p=0.5, max_new_tokens=9, seed=7, stop=("x",), frequency_penalty=0.1, presence_penalty=0.2
    )
    head = replace(HEAD, params=params)
    common = {
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 7,
        "stop": ["x"],
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
    }
    for provider, field in ((openai(), "max_completion_tokens"), (compatible(), "max_tokens")):
        http = Http(said())
        await provider.complete(ask(provider.model("new-model"), head), http)
        sent = {
            name: value
            for name, value in http.bodies[0].items()
            if name not in ("model", "messages", "response_format")
        }
        assert sent == common | {field: 9}


async def test_a_larger_limit_for_one_request_overrides_the_heads() -> None:
    http, provider = Http(said(), said()), compatible()
    head = replace(HEAD, params=GenerationParams(max_new_tokens=9))
    await provider.complete(ask(provider.model("m"), head, max_tokens=18), http)
    await provider.complete(ask(provider.model("m"), head), http)
    assert [body["max_tokens"] for body in http.bodies] == [18, 9]


async def test_a_model_that_thinks_is_sent_its_effort_and_no_sampling() -> None:
    http, provider = Http(said()), openai()
    head = replace(HEAD, params=GenerationParams(temperature=0.0, seed=3))
    await provider.complete(ask(provider.model("gpt-6.2-sol"), head), http)
    assert http.bodies[0]["reasoning_effort"] == "low"
    assert "temperature" not in http.bodies[0]
    assert http.bodies[0]["seed"] == 3


async def test_compatible_servers_get_the_system_role_and_nothing_fancy() -> None:
    http, provider = Http(said()), compatible()
    await provider.complete(ask(provider.model("qwen")), http)
    ((_, url, headers, body),) = http.sent
    assert url == "http://vllm.invalid:8000/v1/chat/completions"
    assert "authorization" not in headers
    assert body["messages"][0]["role"] == "system"
    assert set(body) == {"model", "messages", "response_format"}


async def test_a_fine_tuned_model_gets_a_schema_without_constraints() -> None:
    http, provider = Http(said()), openai()
    await provider.complete(ask(provider.model("ft:gpt-4.1-mini-2025-04-14:org::id")), http)
    sent = http.bodies[0]["response_format"]["json_schema"]["schema"]["properties"]["value"]
    assert "pattern" not in sent
    assert sent["enum"] == ["good", "bad"]


@pytest.mark.parametrize(
    ("structured", "strict", "wanted"),
    [("json_object", True, "json_object"), ("none", True, None), ("json_schema", False, "json_object")],
)
async def test_a_weaker_model_or_schema_gets_a_weaker_form(structured: Any, strict: bool, wanted: str | None) -> None:
    http, provider = Http(said()), compatible()
    head = replace(HEAD, answer=replace(HEAD.answer, strict=strict))
    await provider.complete(ask(Model(provider="x", name="m", structured=structured), head), http)
    assert http.bodies[0].get("response_format", {}).get("type") == wanted


async def test_the_same_head_gives_the_same_bytes_and_is_kept_only_while_it_lives() -> None:
    provider = compatible()
    head = copy.copy(HEAD)
    model = provider.model("m")
    first = provider._bodies.encode(ask(model, head), provider._abilities(model))
    assert provider._bodies.encode(ask(model, head), provider._abilities(model)) == first
    gone = weakref.ref(head)
    del head
    gc.collect()
    assert gone() is None
    assert len(provider._bodies._heads.kept) == 0


async def test_two_models_may_share_a_head() -> None:
    http, provider = Http(said(), said(), said()), compatible()
    for name in ("a", "b", "a"):
        await provider.complete(ask(provider.model(name)), http)
    assert [body["model"] for body in http.bodies] == ["a", "b", "a"]


# What comes back


async def test_an_answer_with_everything() -> None:
    provider = openai()
    answer = fixture("openai/chat_success_structured.json")
    completion = await provider.complete(
        ask(provider.model("gpt-6.1-terra")), Http(reply_of(answer["body"], x_request_id="req_1"))
    )
    assert completion.text == '{"value":"Good"}'
    assert completion.usage == Usage(
        requests=1, input_tokens=1236, cached_tokens=1024, output_tokens=28, reasoning_tokens=18
    )
    assert (completion.truncated, completion.model, completion.request_id) == (False, "gpt-6.1-terra", "req_1")


@pytest.mark.parametrize(
    ("name", "text", "truncated"),
    [
        ("openai/chat_tool_call_fallback.json", '{"value":"Good"}', False),
        ("openai/chat_truncated_length.json", None, True),
        ("together/chat_success_structured.json", '{"value":"Good"}', False),
        ("together/chat_reasoning.json", '{"value":"Good"}', False),
        ("together/chat_refusal_as_text.json", "I'm sorry, but I can't help with that.", False),
        ("together/chat_truncated_length.json", '{"value":"Go', True),
        ("anyscale/chat_success_structured.json", None, False),
        ("anyscale/chat_truncated_length.json", None, True),
        ("openai/chat_logprobs.json", '{"value":"Good"}', False),
    ],
)
async def test_recorded_answers_are_read(name: str, text: str | None, truncated: bool) -> None:
    body = fixture(name)["body"]
    completion = await compatible().complete(ask(compatible().model("m")), Http(reply_of(body)))
    expected = body["choices"][0]["message"]["content"] or "" if text is None else text
    assert (completion.text, completion.truncated) == (expected, truncated)
    assert completion.usage.input_tokens == body["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (
            said(
                [
                    {"type": "text", "text": "a"},
                    {"type": "thinking", "thinking": [{"x": 1}]},
                    {"type": "text", "text": "b"},
                ]
            ),
            "ab",
        ),
        (said(["a", {"type": "output_text", "text": "b"}, {"type": "x"}]), "ab"),
        (said(None, reasoning_content="so: {}"), "so: {}"),
        (said(None, tool_calls=[{"function": {}}, {"function": {"arguments": "{}"}}]), "{}"),
        (said("x", reasoning_content="hm", refusal=None, tool_calls=[]), "x"),
        (said(""), ""),
        (
            reply_of(
                {"choices": [{"message": {"content": "x"}, "finish_reason": 7}], "usage": {"prompt_tokens": "n/a"}}
            ),
            "x",
        ),
        (reply_of({"choices": [{"message": {"content": "x"}}], "usage": None, "model": None}), "x"),
    ],
)
async def test_odd_answers_are_read(reply: Reply, text: str) -> None:
    completion = await compatible().complete(ask(compatible().model("m")), Http(reply))
    assert (completion.text, completion.model) == (text, "m")
    assert completion.usage == Usage(requests=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("openai/chat_refusal.json", "the model declined: I'm sorry, I can't help with that request."),
        ("openai/chat_content_filter.json", "a content filter stopped the answer"),
    ],
)
async def test_a_refusal_is_an_error(name: str, message: str) -> None:
    with pytest.raises(RefusalError, match=message) as caught:
        await openai().complete(ask(openai().model("m")), Http(reply_of(fixture(name)["body"], x_request_id="r")))
    assert (caught.value.provider, caught.value.model, caught.value.request_id) == ("openai", "m", "r")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"choices": []}, "without an answer"),
        ({"choices": [{"message": None}]}, "without an answer"),
        ({"choices": [{"message": {"content": 7}}]}, "without an answer"),
        ({}, "without an answer"),
        ("", "an empty body"),
        ("[]", "without an answer"),
        ('{"choices": [{"message": {"content": "a', "without an answer"),
        ("<!DOCTYPE html><html><title>Wifi login</title><script>x()</script></html>", "a web page: Wifi login"),
        ({"error": {"message": "upstream down", "code": 502}}, "upstream down"),
        ({"error": "busy"}, "busy"),
        (b"\xff\xfe\x00", "without an answer"),
    ],
)
async def test_success_without_an_answer_is_the_providers_illness(body: Any, message: str) -> None:
    with pytest.raises(ProviderUnavailableError, match=message) as caught:
        await compatible().complete(ask(compatible().model("m")), Http(reply_of(body)))
    assert len(str(caught.value)) < 400


async def test_an_error_within_a_success_keeps_its_own_status() -> None:
    body = {"error": {"message": "slow down", "code": 429}}
    with pytest.raises(RateLimitedError, match="slow down"):
        await compatible().complete(ask(compatible().model("m")), Http(reply_of(body)))


async def test_a_refusal_may_be_a_part_of_the_content() -> None:
    with pytest.raises(RefusalError, match="I won't"):
        await compatible().complete(
            ask(compatible().model("m")), Http(said([{"type": "refusal", "refusal": "I won't"}]))
        )


async def test_thoughts_that_used_up_the_limit_are_no_answer() -> None:
    choice = {"message": {"content": None, "reasoning": "hm, {"}, "finish_reason": "length"}
    completion = await compatible().complete(ask(compatible().model("m")), Http(reply_of({"choices": [choice]})))
    assert (completion.text, completion.truncated) == ("", True)


# Embeddings


@pytest.mark.parametrize(
    "name", ["openai/embeddings_float.json", "openai/embeddings_base64.json", "together/embeddings.json"]
)
async def test_recorded_embeddings_are_read(name: str) -> None:
    body = fixture(name)["body"]
    texts = ["one", "two"][: len(body["data"])]
    http, provider = Http(reply_of(body)), openai()
    vectors, usage = await provider.embed(provider.model("text-embedding-3-small"), texts, http)
    assert list(vectors[0]) == [0.25, -0.5, 0.125, 0.0]
    assert len(vectors) == len(texts)
    assert usage.input_tokens == body.get("usage", {}).get("prompt_tokens", 0)
    assert http.bodies == [{"model": "text-embedding-3-small", "input": texts, "encoding_format": "base64"}]


async def test_vectors_come_in_the_order_of_their_texts() -> None:
    body = {"data": [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [0.0]}]}
    provider = TogetherAI(KEY)
    http = Http(reply_of(body))
    assert (await provider.embed(provider.model("e5"), ["a", "b"], http))[0] == [[0.0], [1.0]]
    assert http.bodies == [{"model": "e5", "input": ["a", "b"]}]


async def test_no_texts_need_no_request() -> None:
    assert await openai().embed(openai().model("m"), [], Http()) == ([], Usage())


@pytest.mark.parametrize(
    "body", [{"data": [{"index": 0, "embedding": [1.0]}]}, {"data": []}, {}, {"data": [{"index": 0}]}]
)
async def test_too_few_vectors_are_the_providers_illness(body: Any) -> None:
    with pytest.raises(ProviderUnavailableError, match="without an answer"):
        await openai().embed(openai().model("m"), ["a", "b"], Http(reply_of(body)))


async def test_an_embedding_error_is_translated() -> None:
    with pytest.raises(RequestRejectedError, match="too long"):
        await openai().embed(openai().model("m"), ["a"], Http(refused("too long", "input")))


# What the server does not take


@pytest.mark.parametrize(
    ("complaint", "gone"),
    [
        (
            refused("Unsupported parameter: 'temperature' is not supported with this model.", "temperature"),
            "temperature",
        ),
        (refused("nope", "top_p", "unsupported_parameter"), "top_p"),
        (
            refused("Unsupported value: 'none' is not supported.", "reasoning_effort", "unsupported_value"),
            "reasoning_effort",
        ),
        (
            refused(
                "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not permitted'}]",
                None,
                400,
            ),
            "seed",
        ),
        (refused("stop is not supported", status=422), "stop"),
    ],
)
async def test_a_refused_parameter_is_given_up_for_good(
    complaint: Reply, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider = compatible()
    params = GenerationParams(temperature=0.5, top_p=0.5, seed=1, stop=("x",))
    request = ask(replace(provider.model("m"), reasoning_effort="none"), replace(HEAD, params=params))
    http = Http(complaint, said(), said())
    for _ in range(2):
        assert (await provider.complete(request, http)).text == '{"value":"good"}'
    first, *others = http.bodies
    assert gone in first
    for other in others:
        assert set(first) - set(other) == {gone}
    assert gone in caplog.text


@pytest.mark.parametrize(("provider", "other"), [(openai(), "max_tokens"), (compatible(), "max_completion_tokens")])
async def test_a_token_field_is_exchanged_once_then_given_up(provider: OpenAICompatible, other: str) -> None:
    mine = "max_tokens" if other == "max_completion_tokens" else "max_completion_tokens"
    head = replace(HEAD, params=GenerationParams(max_new_tokens=5))
    http = Http(
        refused(f"Unsupported parameter: '{mine}'. Use '{other}' instead.", mine, "unsupported_parameter"), said()
    )
    await provider.complete(ask(provider.model("m"), head), http)
    assert http.bodies[1][other] == 5
    assert mine not in http.bodies[1]
    http = Http(refused(f"unknown field {other}"), said())
    await provider.complete(ask(provider.model("m"), head), http)
    assert not {mine, other} & set(http.bodies[1])


async def test_the_form_of_the_answer_goes_down_its_ladder() -> None:
    provider = compatible()
    http = Http(
        refused("response_format type 'json_schema' is not supported"),
        refused("json_object is unavailable for this model", "response_format.type"),
        said(),
    )
    await provider.complete(ask(provider.model("m")), http)
    assert [body.get("response_format", {}).get("type") for body in http.bodies] == ["json_schema", "json_object", None]


async def test_the_developer_role_falls_back_to_system() -> None:
    provider = openai()
    http = Http(refused("Unexpected role 'developer'", "messages[0].role"), said())
    await provider.complete(ask(provider.model("m")), http)
    assert [body["messages"][0]["role"] for body in http.bodies] == ["developer", "system"]


async def test_what_one_model_does_not_take_another_still_gets() -> None:
    provider = compatible()
    http = Http(refused("json_schema not supported"), said(), said())
    await provider.complete(ask(provider.model("a")), http)
    await provider.complete(ask(provider.model("b")), http)
    assert http.bodies[2]["response_format"]["type"] == "json_schema"


async def test_many_calls_learn_one_thing_together() -> None:
    provider = compatible()

    def answer(request: Any) -> object:
        if request.body["response_format"]["type"] == "json_schema":
            return Fault.status(400, message="json_schema is not supported", param="response_format")
        return '{"value":"good"}'

    async with LoopbackServer(answer) as server:
        provider = OpenAICompatible(server.url)
        http = Connections()
        answers = await asyncio.gather(*(provider.complete(ask(provider.model("m")), http) for _ in range(20)))
        assert {completion.text for completion in answers} == {'{"value":"good"}'}
        assert server.served <= 40
        await http.aclose()


@pytest.mark.parametrize(
    "complaint",
    [
        refused("temperature must be at most 2", "temperature", "decimal_above_max_value"),
        refused("Invalid schema for response_format 'x': 'oneOf' is not permitted.", "response_format"),
        refused("This model's maximum context length is 8192 tokens.", "max_tokens"),
        refused("The model `m` does not exist", None, "model_not_found", 404),
        refused("model developer/x is not supported", "model"),
    ],
)
async def test_what_is_wrong_rather_than_unknown_is_not_tried_another_way(complaint: Reply) -> None:
    provider = compatible()
    head = replace(HEAD, params=GenerationParams(temperature=3, max_new_tokens=9))
    http = Http(complaint, reply_of({"data": []}))
    with pytest.raises(RequestRejectedError):
        await provider.complete(ask(provider.model("m"), head), http)
    assert sum(method == "POST" for method, *_ in http.sent) == 1


async def test_a_server_that_takes_nothing_is_not_asked_for_ever() -> None:
    provider = compatible()
    http = Http(*(refused("response_format and seed and stop are not supported") for _ in range(50)))
    with pytest.raises(RequestRejectedError):
        await provider.complete(ask(provider.model("m")), http)
    assert len(http.sent) <= 9


# Errors


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool(Connections(), clock=FakeClock(autojump=0), random=lambda: 0.0)
    yield pool
    await pool.aclose()


async def test_the_details_of_a_rejection_are_kept() -> None:
    answer = fixture("openai/error_400_context_length.json")
    with pytest.raises(RequestRejectedError) as caught:
        await openai().complete(ask(openai().model("m")), Http(reply_of(answer["body"], 400)))
    assert (caught.value.code, caught.value.parameter) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize(
    ("answer", "sleeps"),
    [
        ("openai/error_429_rate_limit.json", [0.034]),
        ("openai/error_503_overloaded.json", [5.0]),
        ("openai/error_500.json", [0.0]),
        ("together/error_429_rate_limit.json", [2.0]),
    ],
)
async def test_the_wait_is_as_long_as_the_server_says(answer: str, sleeps: list[float]) -> None:
    clock = FakeClock(autojump=0)
    pool = Pool(Connections(), clock=clock, random=lambda: 0.0)
    async with LoopbackServer('{"value":"good"}') as server:
        server.replay(fixture(answer))
        provider = OpenAI(KEY, server.url)
        completion = await pool.complete(provider, ask(provider.model("m")), Progress())
        assert completion.text == '{"value":"good"}'
        assert clock.sleeps == sleeps
    await pool.aclose()


@pytest.mark.parametrize(
    ("fault", "kind", "requests"),
    [
        (Fault.cut_midway(), ProviderUnreachableError, 6),
        (Fault.disconnect(), ProviderUnreachableError, 6),
        (Fault.html(502), ProviderUnavailableError, 6),
        (Fault.html(200), ProviderUnavailableError, 6),
        (Fault.status(408), ProviderUnavailableError, 6),
        (Fault.status(409), ProviderUnavailableError, 6),
        (Fault.status(500, headers={"x-should-retry": "false"}), ProviderUnavailableError, 1),
        (Fault.status(400, headers={"x-should-retry": "true"}), RequestRejectedError, 6),
        (Fault.status(429, retry_after=3600), RateLimitedError, 1),
        (Fault.status(413), RequestRejectedError, 1),
        (Fault.status(307), RequestRejectedError, 1),
    ],
)
async def test_faults_on_the_way(pool: Pool, fault: Fault, kind: type[ProviderError], requests: int) -> None:
    async with LoopbackServer(lambda _: fault) as server:
        provider = OpenAI(KEY, server.url)
        with pytest.raises(kind) as caught:
            await pool.complete(provider, ask(provider.model("m")), Progress())
        assert (caught.value.provider, caught.value.model) == ("openai", "m")
        assert len(caught.value.tried) == requests
    assert pool.statistics().in_flight == 0


async def test_cancelling_a_call_that_hangs_closes_its_connection(pool: Pool) -> None:
    async with LoopbackServer(lambda _: Fault.hang()) as server:
        provider = OpenAI(KEY, server.url)
        task = asyncio.create_task(pool.complete(provider, ask(provider.model("m")), Progress()))
        await server.wait_requests()
        assert pool.statistics().in_flight == pool.statistics().http.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.01)
        assert server.connections == 0
    assert pool.statistics().in_flight == pool.statistics().http.in_flight == 0


async def test_two_hundred_calls_half_of_them_cancelled(pool: Pool) -> None:
    cancelled = asyncio.Event()

    async def answer(_: object) -> str:
        await cancelled.wait()
        return '{"value":"good"}'

    async with LoopbackServer(answer) as server:
        provider = OpenAI(KEY, server.url)
        calls = [asyncio.create_task(pool.complete(provider, ask(provider.model("m")), Progress())) for _ in range(200)]
        await server.wait_requests(200)
        assert pool.statistics().in_flight == pool.statistics().http.in_flight == 200
        for task in calls[::2]:
            task.cancel()
        cancelled.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 100
        assert pool.statistics().accounts[0].usage.requests == 100
    assert pool.statistics().in_flight == pool.statistics().http.in_flight == pool.statistics().waiting == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("no healthy upstream", "no healthy upstream"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"msg": "x"}]}, '{"detail"'),
        ([{"error": {"message": "from a list"}}], "from a list"),
        ({"message": "flat", "code": 400}, "flat"),
        ("", "no explanation was given"),
        ("<html><body>Bad  Gateway</body></html>", "a web page: Bad Gateway"),
        ("x" * 9999, "9999 characters"),
    ],
)
async def test_errors_of_any_shape_are_read(body: Any, message: str) -> None:
    with pytest.raises(ProviderError) as caught:
        await compatible().complete(ask(compatible().model("m")), Http(reply_of(body, 404)))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1), ("20ms", 0.02), ("6m0s", 360), ("1m23s", 83), ("1h23m31s", 5011), ("7.66s", 7.66), ("3", 3), ("0.5", 0.5),
        ("100µs", 1e-4), ("5ns", 5e-9), ("", None), ("soon", None), ("5 s", None), ("-1", None), ("nan", None), ("inf", None),
    ],
)  # fmt: skip
def test_durations_of_headers_are_read(text: str, seconds: float | None) -> None:
    assert go_duration(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2", "retry-after-ms": "34"}, 0.034),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "Mon, 23 Nov 2026 10:00:30 GMT", "date": "Mon, 23 Nov 2026 10:00:00 GMT"}, 30),
        ({"retry-after": "Mon, 23 Nov 2020 10:00:30 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5", "retry-after-ms": "x"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m2s"}, 62),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "1m2s"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2"}, 2),
    ],
)
def test_hints_of_when_to_come_back_are_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


# Settings


def test_importing_and_making_providers_and_a_pool_loads_nothing_heavy(subprocess_env: dict[str, str]) -> None:
    code = (
        "import sys; from tanuki_async._pool.pool import Pool; from tanuki_async._pool.http import Connections\n"
        "from tanuki_async.providers import anyscale, openai, together\n"
        "Pool(Connections()); openai.OpenAI(); together.TogetherAI(); anyscale.Anyscale()\n"
        "print(sorted({'httpx', 'tenacity', 'certifi', 'urllib.request', 'pyreqwest', 'anyio'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=subprocess_env, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_construction_reads_nothing() -> None:
    assert repr(OpenAI()) == "OpenAI()"
    assert OpenAI().name == "openai"
    assert OpenAI(limits=Limits(concurrency=3)).limits.concurrency == 3


async def test_the_environment_is_read_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    provider, http = OpenAI(), Http(said())
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://relay.invalid/v1/?api-version=7")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    await provider.complete(ask(provider.model("m")), http)
    ((_, url, headers, _),) = http.sent
    assert url == "http://relay.invalid/v1/chat/completions?api-version=7"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-1", "proj-1")


@pytest.mark.parametrize(
    ("provider", "variable"),
    [
        (OpenAI(), "OPENAI_API_KEY"),
        (TogetherAI(), "TOGETHER_API_KEY"),
        (Anyscale(None, "http://a/v1"), "ANYSCALE_API_KEY"),
    ],
)
async def test_a_missing_key_says_which_and_how_to_try_without(provider: OpenAICompatible, variable: str) -> None:
    with pytest.raises(SettingsError, match=rf"{variable}.*tanuki demo"):
        await provider.complete(ask(provider.model("m")), Http())


@pytest.mark.parametrize("key", ["sk-secr\u00e9t", "sk-sec\nret"])
async def test_a_key_that_cannot_be_sent_is_told_without_showing_it(key: str) -> None:
    provider = OpenAI(key)
    with pytest.raises(SettingsError, match="cannot be sent") as caught:
        await provider.complete(ask(provider.model("m")), Http())
    assert "sec" not in str(caught.value)


async def test_the_key_is_in_no_text(caplog: pytest.LogCaptureFixture, pool: Pool) -> None:
    caplog.set_level(logging.DEBUG)
    echo = Fault.status(401, message=f"Incorrect API key provided: {KEY}")
    async with LoopbackServer([echo]) as server:
        provider = OpenAI(KEY, server.url)
        with pytest.raises(AuthenticationError) as caught:
            await pool.complete(provider, ask(provider.model("m")), Progress())
    texts = [repr(provider), str(provider), repr(caught.value), str(caught.value), caplog.text, repr(pool.statistics())]
    assert not any(KEY in text for text in texts)


async def test_an_unaccepted_key_says_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        await OpenAI().complete(ask(openai().model("m")), Http(reply_of({"error": "bad key"}, 401)))


async def test_anyscale_needs_an_address_that_lives() -> None:
    with pytest.raises(SettingsError, match="ANYSCALE_BASE_URL"):
        await Anyscale(KEY).complete(ask(Model(provider="anyscale", name="m")), Http())
    with pytest.raises(SettingsError, match="2024-08-01"):
        await Anyscale(KEY, "https://api.endpoints.anyscale.com/v1").complete(
            ask(Model(provider="anyscale", name="m")), Http()
        )
    tuning = Anyscale(KEY, "https://api.endpoints.anyscale.com/v1", jobs=True).tuning
    assert tuning is not None
    with pytest.raises(SettingsError, match="2024-08-01"):
        await tuning.jobs(Http())


async def test_a_server_without_an_address_is_told_how_to_get_one() -> None:
    with pytest.raises(SettingsError, match=r"server: pass OpenAICompatible\(base_url=…\)$"):
        await OpenAICompatible(None).complete(ask(compatible().model("m")), Http())


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://user:pass@host/v1"])
def test_a_base_url_that_cannot_be_is_told_without_showing_a_password(url: str) -> None:
    with pytest.raises(SettingsError, match="base URL") as caught:
        OpenAICompatible(url)
    assert "pass@" not in str(caught.value)


def test_models_are_known_described_or_assumed() -> None:
    provider = openai()
    assert provider.model("gpt-6-luna").price_input == 0.10
    tuned = provider.model("ft:gpt-4.1-mini:org::id")
    assert (tuned.name, tuned.context_window, tuned.price_input) == ("ft:gpt-4.1-mini:org::id", 1_047_576, 0.80)
    unknown = provider.model("gpt-99")
    assert (unknown.instruction_role, unknown.token_field) == ("developer", "max_completion_tokens")
    elsewhere = OpenAI(KEY, "http://localhost:11434/v1").model("gpt-99")
    assert (elsewhere.instruction_role, elsewhere.token_field) == ("system", "max_tokens")
    mine = Model(provider="v", name="q", context_window=4096)
    assert OpenAICompatible("http://v/v1", name="v", models={"q": mine}).model("q") is mine
    takes = frozenset({"image", "document"})  # until it says no
    assert compatible().model("q") == Model(provider="openai_compatible", name="q", attachments=takes)


async def test_extra_headers_are_sent_and_an_unreachable_server_is_named() -> None:
    provider = OpenAICompatible("http://v.invalid/v1", name="v", api_key=KEY, headers={"X-Tenant": "7"})
    http = Http(said(), ProviderUnreachableError("cannot connect"))
    await provider.complete(ask(provider.model("m")), http)
    assert http.sent[0][2]["x-tenant"] == "7"
    with pytest.raises(ProviderUnreachableError, match="v:m: cannot connect"):
        await provider.complete(ask(provider.model("m")), http)
