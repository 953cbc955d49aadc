"""The server that speaks Anthropic's format: what it refuses, and what a client sees of its answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tanuki_async._records import Usage
from tanuki_async.testing import Answer, ChatRequest, Fault, LoopbackServer, Value
from tanuki_async.testing._strict import RefusedError
from tanuki_async.testing._strict_anthropic import check_message

VERSION = {"anthropic-version": "2026-10-21"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "string", "enum": ["good", "bad"]}},
    "required": ["value"],
    "additionalProperties": False,
}
TOOL = {"name": "f", "input_schema": SCHEMA, "strict": True}
FORCED = {"type": "tool", "name": "f"}
SEEN = {"type": "image", "source": {"type": "url", "url": "https://host.invalid/a.png"}}


def message(model: str = "claude-haiku-5-5", **fields: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}


def shaped(value: dict[str, Any], **more: Any) -> dict[str, Any]:
    schema = {**SCHEMA, "properties": {"value": value}, **more}
    return message(output_config={"format": {"type": "json_schema", "schema": schema}})


def saying(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return message(messages=[{"role": role, "content": list(blocks)}])


@pytest.mark.parametrize(
    "body",
    [
        message(system="Classify.", stop_sequences=["x"], stream=True, output_config={"effort": "low"}),
        message(system=[{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]),
        message(tools=[TOOL], tool_choice=FORCED),
        message("claude-opus-5-5", tools=[TOOL], tool_choice={"type": "auto"}),
        saying(SEEN, {"type": "text", "text": "What?"}),
        shaped({"$ref": "#/$defs/A"}, **{"$defs": {"A": {"type": "array", "items": {"type": "null"}, "minItems": 1}}}),
        shaped({"anyOf": [{"type": "string", "format": "uri"}, {"const": 1}], "description": "x"}),
    ],
)
def test_what_anthropic_takes_passes(body: dict[str, Any]) -> None:
    check_message(body, VERSION)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (message(temperature=1), "temperature: Extra inputs"),
        (message(top_p=1), "top_p: Extra inputs"),
        (message(response_format={}), "response_format: Extra inputs"),
        ({"model": "m", "messages": [{"role": "user", "content": "hi"}]}, "max_tokens: Field required"),
        (message(max_tokens=0), "max_tokens"),
        (message(""), "model: Field required"),
        (message(messages=[]), "at least one message"),
        (message(messages=[{"role": "system", "content": "x"}]), "'user' or 'assistant'"),
        (message(messages=[{"role": "user", "content": ""}]), "non-empty"),
        (message(messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}]), "prefill"),
        (saying({"type": "text", "text": " "}), "non-whitespace"),
        (saying({"type": "text", "text": "x", "y": 1}), "y: Extra inputs"),
        (saying({"type": "image_url", "image_url": {}}), "type: Input should be"),
        (saying(SEEN, role="assistant"), "type: Input should be"),
        (saying({"type": "image", "source": {"type": "url", "url": "http://host.invalid"}}), "HTTPS"),
        (
            saying({"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": "x"}}),
            "media_type: Input should be",
        ),
        (saying({"type": "text", "text": "x", "cache_control": {"type": "for ever"}}), "'ephemeral'"),
        (saying(*[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}] * 5), "maximum of 4 blocks"),
        (message(output_config={"effort": "none"}), "output_config.effort"),
        (message(output_config={"format": {"type": "json_schema", "schema": SCHEMA, "name": "f"}}), "output_config.format"),
        (message("claude-sonnet-5-5", tools=[TOOL], tool_choice=FORCED), "forced tool use is not supported"),
        (message(tools=[TOOL], tool_choice={"type": "tool", "name": "g"}), "not found"),
        (message(tools=[{**TOOL, "name": "a b"}]), "should match pattern"),
        (shaped({"type": "integer", "maximum": 9, "minimum": 1}), "properties maximum, minimum are not supported"),
        (shaped({"type": "string", "pattern": "a"}), "pattern"),
        (shaped({"type": "string", "format": "path"}), "format"),
        (shaped({"type": "array", "items": {"type": "string"}, "minItems": 2}), "minItems"),
        (shaped({"type": "array", "items": {}}), "must have one of the types"),
        (shaped({"type": "object", "properties": {}}), "additionalProperties"),
        (message(tools=[{**TOOL, "input_schema": {**SCHEMA, "oneOf": []}}]), "oneOf"),
    ],
)  # fmt: skip
def test_what_anthropic_refuses_is_told(body: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RefusedError) as raised:
        check_message(body, VERSION)
    assert complaint in raised.value.message


def test_a_version_is_required_and_the_old_one_still_samples_old_models() -> None:
    with pytest.raises(RefusedError, match="anthropic-version"):
        check_message(message(), {})
    old = {"anthropic-version": "2023-06-01"}
    check_message(message("claude-haiku-4-5", temperature=0), old)
    with pytest.raises(RefusedError, match="temperature"):
        check_message(message(temperature=0), old)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5, trust_env=False, headers=VERSION) as client:
        yield client


async def ask(client: httpx.AsyncClient, server: LoopbackServer, **fields: Any) -> httpx.Response:
    wanted = {"format": {"type": "json_schema", "schema": SCHEMA}}
    return await client.post(f"{server.url}/messages", json=message(output_config=wanted, **fields))


async def test_one_script_answers_in_the_format_of_whoever_asks(client: httpx.AsyncClient) -> None:
    seen: list[ChatRequest] = []

    def answer(request: ChatRequest) -> Value:
        seen.append(request)
        return Value("good")

    async with LoopbackServer(answer, strict=True) as server:
        told = (await ask(client, server, system="Classify.")).json()
        chat = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "hi"}]}
        await client.post(f"{server.url}/chat/completions", json=chat)
    assert told["content"] == [{"type": "text", "text": '{"value": "good"}'}]
    assert told["stop_reason"] == "end_turn"
    assert [request.text for request in seen] == ["hi", "hi"]
    assert (seen[0].system, seen[0].schema, seen[1].schema) == ("Classify.", SCHEMA, None)


async def test_a_tool_gets_the_answer_as_its_input(client: httpx.AsyncClient) -> None:
    async with LoopbackServer(["I think: good", Value("good")]) as server:
        for expected in ([{"type": "text", "text": "I think: good"}], [{"value": "good"}]):
            told = (await client.post(f"{server.url}/messages", json=message(tools=[TOOL], tool_choice=FORCED))).json()
            assert [block.get("input", block) for block in told["content"]] == expected


async def test_ends_usage_and_refusals_are_told_in_anthropics_words(client: httpx.AsyncClient) -> None:
    usage = Usage(requests=1, input_tokens=9, cached_tokens=4, output_tokens=3, reasoning_tokens=2)
    async with LoopbackServer([Answer("x", usage=usage), Fault.cut_off(), Fault.refusal("no")]) as server:
        counted = (await ask(client, server)).json()["usage"]
        assert (counted["input_tokens"], counted["cache_read_input_tokens"], counted["output_tokens"]) == (5, 4, 3)
        assert (await ask(client, server)).json()["stop_reason"] == "max_tokens"
        refused = (await ask(client, server)).json()
        assert (refused["stop_reason"], refused["stop_details"]["explanation"]) == ("refusal", "no")


async def test_faults_have_anthropics_bodies(client: httpx.AsyncClient) -> None:
    faults = [Fault.status(429, retry_after=2), Fault.quota(), Fault.status(529), Fault.html()]
    async with LoopbackServer(faults, api_key="k") as server:
        assert (await ask(client, server)).json()["error"]["type"] == "authentication_error"
        client.headers["x-api-key"] = "k"
        limited, empty, busy, page = [await ask(client, server) for _ in faults]
    assert (limited.headers["retry-after"], limited.json()["error"]["type"]) == ("2", "rate_limit_error")
    assert empty.json()["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}
    assert (busy.status_code, busy.json()["error"]["type"]) == (529, "overloaded_error")
    assert page.headers["content-type"].startswith("text/html")


async def test_a_refused_request_has_anthropics_error(client: httpx.AsyncClient) -> None:
    async with LoopbackServer(strict=True) as server:
        refused = await ask(client, server, temperature=1)
    error = {"type": "invalid_request_error", "message": "temperature: Extra inputs are not permitted"}
    assert (refused.status_code, refused.json()["type"], refused.json()["error"]) == (400, "error", error)


async def test_a_stream_has_anthropics_events_and_its_error(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[object]:
        yield "a"
        yield Fault.status(529, message="busy")

    async with LoopbackServer(["a long good answer", lambda _: pieces()]) as server:
        whole = (await ask(client, server, stream=True)).text
        broken = (await ask(client, server, stream=True)).text
    events = [event.split("\n") for event in whole.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    told = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert [each["type"] for each in told] == names
    assert "".join(each.get("delta", {}).get("text", "") for each in told) == "a long good answer"
    last = broken.strip().split("\n\n")[-1]
    assert last.startswith("event: error\n")
    assert '"overloaded_error"' in last
