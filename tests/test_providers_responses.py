"""OpenAI's Responses API: what is sent there, recorded answers replayed, and whatever else comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter

import tanuki_async as tanuki
from tanuki_async._errors import (
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    QuotaExceededError,
    RateLimitedError,
    RefusalError,
    RequestRejectedError,
)
from tanuki_async._records import AnswerSchema, Completion, GenerationParams, Head, Model, Reply, Request, Turn, Usage
from tanuki_async.abc import Streamed
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.testing import LoopbackServer, Value

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

FIXTURES = Path(__file__).parent / "fixtures" / "openai"
KEY = "sk-very-secret-0123456789"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "string", "enum": ["Good", "Bad"]}},
    "required": ["value"],
    "additionalProperties": False,
}
HEAD = Head(
    function="classify_sentiment",
    system="Classify the sentiment.",
    answer=AnswerSchema(name="classify_sentiment", schema=SCHEMA, strict=True),
)


class Http:
    """Answers from a list, whole or streamed, and keeps what was sent."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.sent: list[tuple[str, dict[str, Any]]] = []

    async def send(self, method: str, url: str, *, headers: Any, body: bytes | None = None) -> Reply:
        self.sent.append((url, json.loads(body or b"null")))
        return self.replies.pop(0)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Any, body: bytes | None = None
    ) -> AsyncIterator[Streamed]:
        reply = await self.send(method, url, headers=headers, body=body)
        yield Streamed(reply.status, reply.headers, self._pieces(reply.body))

    async def _pieces(self, text: bytes, size: int = 11) -> AsyncIterator[bytes]:
        for start in range(0, len(text), size):
            yield text[start : start + size]


def fixture(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text())
    return found


def reply_of(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(
        status=status, headers=headers or {}, body=body if isinstance(body, bytes) else json.dumps(body).encode()
    )


def recorded(name: str) -> Reply:
    told = fixture(name)
    return reply_of(told["body"], told["status"], told["headers"])


def provider() -> OpenAI:
    return OpenAI(KEY, responses=True)


def ask(head: Head = HEAD, model: str = "gpt-6.1-terra", **more: Any) -> Request:
    return Request(model=provider().model(model), head=head, turns=(Turn("user", "I love you"),), **more)


async def complete(*replies: Reply, request: Request | None = None) -> Completion:
    return await provider().complete(request or ask(), Http(*replies))


# What is sent


async def test_the_request_is_the_recorded_one_with_the_effort_of_the_model() -> None:
    told = fixture("responses_success")
    http = Http(recorded("responses_success"))
    await provider().complete(ask(replace(HEAD, params=GenerationParams(max_new_tokens=512))), http)
    ((url, body),) = http.sent
    assert url == "https://api.openai.com" + told["request"]["path"]
    turn = {"type": "message", "role": "user", "content": "I love you"}
    assert body == {**told["request"]["json"], "input": [turn], "reasoning": {"effort": "none"}}


async def test_examples_and_repairs_are_items_of_the_input() -> None:
    http = Http(recorded("responses_success"))
    head = replace(HEAD, examples=(Turn("user", 'a "input":[,'), Turn("assistant", "b")))
    turns = (Turn("user", "c"), Turn("assistant", "d"), Turn("user", "e"))
    await provider().complete(replace(ask(head), turns=turns), http)
    assert [item["content"] for item in http.sent[0][1]["input"]] == ['a "input":[,', "b", "c", "d", "e"]
    assert http.sent[0][1]["instructions"] == HEAD.system


async def test_what_this_api_does_not_have_is_not_sent() -> None:
    http = Http(recorded("responses_success"))
    params = GenerationParams(
        temperature=0.5, top_p=0.9, seed=7, stop=("x",), frequency_penalty=0.1, presence_penalty=0.2, max_new_tokens=9
    )
    await provider().complete(ask(replace(HEAD, params=params), max_tokens=18), http)
    sent = http.sent[0][1]
    assert (sent["temperature"], sent["top_p"], sent["max_output_tokens"]) == (0.5, 0.9, 18)
    assert set(sent) == {
        "model", "instructions", "input", "store", "temperature", "top_p", "max_output_tokens", "reasoning", "text"
    }  # fmt: skip


async def test_a_schema_that_cannot_be_strict_is_asked_for_as_json() -> None:
    http = Http(recorded("responses_success"))
    await provider().complete(ask(replace(HEAD, answer=replace(HEAD.answer, strict=False))), http)
    assert http.sent[0][1]["text"] == {"format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("parameter", "message"),
    [("reasoning.effort", "Unsupported parameter"), ("temperature", "Unsupported parameter: 'temperature'")],
)
async def test_a_field_that_is_refused_is_given_up(parameter: str, message: str) -> None:
    refusal = reply_of(
        {"error": {"message": message, "param": parameter, "code": "unsupported_parameter", "type": "x"}}, 400
    )
    http = Http(refusal, recorded("responses_success"))
    await provider().complete(ask(replace(HEAD, params=GenerationParams(temperature=0.1))), http)
    field = parameter.partition(".")[0]
    assert [field in body for _, body in http.sent] == [True, False]


def test_one_model_may_be_asked_through_it_alone() -> None:
    mine = Model(provider="openai", name="mine", endpoint="responses")
    by_row = OpenAI(KEY, models={"mine": mine})
    assert (by_row.model("mine").endpoint, by_row.model("gpt-6-luna").endpoint) == ("responses", "chat")
    by_flag = OpenAI(KEY, models={"mine": replace(mine, endpoint="chat")}, responses=True)
    assert {by_flag.model(name).endpoint for name in ("mine", "gpt-6-luna", "gpt-99")} == {"responses"}


# What comes back


async def test_a_recorded_answer_is_read_with_all_it_tells() -> None:
    completion = await complete(recorded("responses_success"))
    assert completion.text == '{"value":"Good"}'
    assert completion.usage == Usage(requests=1, input_tokens=236, output_tokens=28, reasoning_tokens=18)
    assert (completion.truncated, completion.model) == (False, "gpt-6.1-terra")
    assert completion.request_id == "req_0f3a1c5e7b9d2468"
    assert completion.rate is not None
    assert completion.rate.requests == 5000


async def test_a_recorded_answer_that_is_incomplete_was_cut_off() -> None:
    assert (await complete(recorded("responses_incomplete"))).truncated


async def test_a_recorded_refusal_is_an_error() -> None:
    with pytest.raises(RefusalError, match="the model declined"):
        await complete(recorded("responses_refusal"))


def said(text: str = '{"value":"Good"}', **fields: Any) -> dict[str, Any]:
    message = {"type": "message", "content": [{"type": "output_text", "text": text}]}
    return {"status": "completed", "output": [{"type": "reasoning", "content": None}, message], **fields}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (said(), '{"value":"Good"}'),
        (said(usage=None, model=None, error=None), '{"value":"Good"}'),
        ({"output": said()["output"]}, '{"value":"Good"}'),
        (said("<think>hm</think>\n{}"), "{}"),
        ({"output": [*said("a")["output"], *said("b")["output"]]}, "ab"),
    ],
)
async def test_odd_answers_are_read(body: Any, text: str) -> None:
    completion = await complete(reply_of(body))
    assert (completion.text, completion.usage) == (text, Usage(requests=1))


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (said(status="incomplete", incomplete_details={"reason": "content_filter"}), RefusalError, "content filter"),
        ({"status": "failed", "error": {"code": "server_error", "message": "oops"}}, ProviderUnavailableError, "oops"),
        ({"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "slow"}}, RateLimitedError, "slow"),
        ({"status": "failed", "error": {"code": "insufficient_quota"}}, QuotaExceededError, "insufficient_quota"),
        ({"status": "failed", "error": {"code": "invalid_prompt", "message": "no"}}, RequestRejectedError, "no"),
        ({"status": "failed", "error": None}, ProviderUnavailableError, "failed with server_error"),
        ({"error": {"code": 502, "message": "upstream"}}, ProviderUnavailableError, "upstream"),
        ({"status": "completed", "output": []}, ProviderUnavailableError, "without an answer"),
        ({"status": "cancelled", "output": []}, ProviderUnavailableError, "without an answer"),
        ({"output": "text"}, ProviderUnavailableError, "without an answer"),
        (b"", ProviderUnavailableError, "an empty body"),
        (b"<html>login</html>", ProviderUnavailableError, "a web page"),
    ],
)
async def test_what_is_no_answer_is_an_error_of_its_kind(body: Any, kind: type[ProviderError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        await complete(reply_of(body))
    assert type(caught.value) is kind
    assert caught.value.provider == "openai"


async def test_thoughts_that_used_up_the_limit_are_no_answer() -> None:
    body = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []}
    completion = await complete(reply_of(body))
    assert (completion.text, completion.truncated) == ("", True)


# Streams


def events_of(name: str = "responses_stream") -> list[str]:
    events: list[str] = fixture(name)["sse"]
    return events


def sse(*events: str) -> Reply:
    return Reply(status=200, headers={"x-request-id": "r"}, body="".join(f"{each}\n\n" for each in events).encode())


def event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}"


async def streamed(reply: Reply) -> list[str | Completion]:
    return [piece async for piece in provider().stream(ask(), Http(reply))]


async def test_a_recorded_stream_gives_text_as_it_comes_then_the_completion() -> None:
    http = Http(sse(*events_of()))
    pieces = [piece async for piece in provider().stream(ask(), http)]
    assert pieces[:-1] == ['{"value":', '"Good', '"}']
    last = pieces[-1]
    assert isinstance(last, Completion)
    assert last.text == '{"value":"Good"}'
    assert last.usage.reasoning_tokens == 18
    assert http.sent[0][1]["stream"] is True
    assert "stream_options" not in http.sent[0][1]


async def test_a_server_that_does_not_stream_answers_all_the_same() -> None:
    pieces = await streamed(recorded("responses_success"))
    assert pieces[0] == '{"value":"Good"}'
    assert isinstance(pieces[1], Completion)


async def test_thoughts_are_no_part_of_a_stream() -> None:
    deltas = [event("response.output_text.delta", delta=each) for each in ("<thi", "nk>[1", "]</thi", "nk>\n", "{}")]
    pieces = await streamed(sse(*deltas, event("response.completed", response=said("<think>[1]</think>\n{}"))))
    assert pieces[:-1] == ["{}"]
    assert isinstance(pieces[-1], Completion)
    assert pieces[-1].text == "{}"


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (fixture("responses_stream")["stream_error_event"], ProviderUnavailableError),
        (event("error", error={"code": "rate_limit_exceeded", "message": "slow"}), RateLimitedError),
        (
            event("response.failed", response={"status": "failed", "error": {"code": "server_error", "message": "x"}}),
            ProviderUnavailableError,
        ),
        (
            event(
                "response.incomplete",
                response=said(status="incomplete", incomplete_details={"reason": "content_filter"}),
            ),
            RefusalError,
        ),
        ("data: {broken", ProviderUnavailableError),
        (": nothing more", ProviderUnreachableError),
    ],
)
async def test_a_stream_that_goes_wrong_in_the_middle_raises(last: str, kind: type[ProviderError]) -> None:
    with pytest.raises(ProviderError) as caught:
        await streamed(sse(*events_of()[:7], last))
    assert type(caught.value) is kind


# Whole calls


@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"]:
    """Classify a message."""


@pytest.mark.parametrize("make", [OpenAI, OpenAICompatible])
async def test_a_patched_function_is_answered_through_it(make: Any) -> None:
    async with LoopbackServer(Value("good"), strict=True) as server:
        asked = make(base_url=server.url, api_key=KEY, responses=True)
        model = f"{asked.name}:gpt-6-luna"
        async with tanuki.Tanuki(storage="memory:", providers=[asked], teacher_models=model):
            assert await classify("I love it") == "good"
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert type(server.requests[0]).__name__ == "ResponseRequest"
