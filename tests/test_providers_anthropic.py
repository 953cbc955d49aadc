"""Anthropic's Messages API: what is sent, what comes back, recorded answers replayed over real HTTP."""

from __future__ import annotations

import base64
import copy
import gc
import json
import logging
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import tanuki_async as tanuki
from tanuki_async._errors import (
    AttachmentRefusedError,
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
from tanuki_async._records import (
    AnswerSchema,
    Attachment,
    Completion,
    GenerationParams,
    Head,
    Model,
    Reply,
    Request,
    Turn,
    Usage,
)
from tanuki_async.providers.anthropic import Anthropic
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import ChatRequest, Fault, LoopbackServer, Value

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

FIXTURES = Path(__file__).parent / "fixtures"
KEY = "sk-ant-very-secret-0123456789"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "string", "enum": ["Good", "Bad"]}},
    "required": ["value"],
    "additionalProperties": False,
}
ANSWER = AnswerSchema(name="return_value", schema=SCHEMA, strict=True)
HEAD = Head(function="classify", system="Classify the sentiment.", answer=ANSWER)
EXAMPLES = (Turn("user", "ä\n"), Turn("assistant", '{"value":"Good"}'))
CACHED = {"type": "ephemeral"}


def fixture(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / name).with_suffix(".json").read_text())


@pytest.fixture
async def http() -> AsyncIterator[Connections]:
    http = Connections()
    yield http
    await http.aclose()


def request_to(provider: Any, name: str = "claude-haiku-5-5", head: Head = HEAD, **more: Any) -> Request:
    more.setdefault("turns", (Turn("user", "I love you"),))
    return Request(model=provider.model(name), head=head, **more)


async def sent(http: Connections, name: str = "claude-haiku-5-5", head: Head = HEAD, **more: Any) -> dict[str, Any]:
    """The body of one request, which a strict server took."""
    async with LoopbackServer(strict=True) as server:
        provider = Anthropic(KEY, server.url)
        await provider.complete(request_to(provider, name, head, **more), http)
        (asked,) = server.requests
    assert isinstance(asked, ChatRequest)
    return dict(asked.body)


# What is sent


async def test_the_recorded_question_is_asked_as_recorded_but_for_cache_and_room(http: Connections) -> None:
    recorded = fixture("anthropic/message_success_structured")["request"]
    async with LoopbackServer('{"value":"Good"}', strict=True) as server:
        provider = Anthropic(KEY, server.url)
        await provider.complete(request_to(provider, max_tokens=1024), http)
        (asked,) = server.requests
    assert isinstance(asked, ChatRequest)
    cached = [{"type": "text", "text": "Classify the sentiment.", "cache_control": CACHED}]
    assert asked.body == recorded["json"] | {"system": cached}
    assert asked.headers["anthropic-version"] == recorded["headers"]["anthropic-version"]
    assert asked.headers["x-api-key"] == KEY
    assert "authorization" not in asked.headers


async def test_what_is_cached_ends_with_the_last_example(http: Connections) -> None:
    turns = (Turn("user", 'a "b" ü 🦝 \x00 \ud83e'), Turn("assistant", "no"), Turn("user", "again"))
    body = await sent(http, head=replace(HEAD, examples=EXAMPLES), turns=turns)
    assert body["system"] == [{"type": "text", "text": "Classify the sentiment."}]
    first, last, *others = body["messages"]
    assert first == {"role": "user", "content": "ä\n"}
    assert last["content"] == [{"type": "text", "text": '{"value":"Good"}', "cache_control": CACHED}]
    assert others == [{"role": turn.role, "content": turn.text} for turn in turns]


async def test_the_same_head_gives_the_same_bytes_and_is_kept_only_while_it_lives() -> None:
    provider, head = Anthropic(KEY), copy.copy(HEAD)
    request = request_to(provider, head=head)
    bodies, abilities = provider._messages.bodies, provider._abilities(request.model)
    assert bodies.encode(request, abilities) == bodies.encode(request, abilities)
    gone = weakref.ref(head)
    del head, request
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("name", "params", "limit", "room"),
    [
        ("claude-haiku-5-5", {}, None, 16_384),  # thoughts count towards the limit
        ("claude-haiku-4-5", {}, None, 8_192),
        ("claude-of-tomorrow", {}, None, 8_192),
        ("claude-haiku-5-5", {"max_new_tokens": 9}, None, 9),
        ("claude-haiku-5-5", {"max_new_tokens": 9}, 18, 18),
    ],
)
async def test_there_is_always_a_limit(
    http: Connections, name: str, params: dict[str, Any], limit: int | None, room: int
) -> None:
    head = replace(HEAD, params=GenerationParams(**params))
    assert (await sent(http, name, head, max_tokens=limit))["max_tokens"] == room


async def test_a_model_is_not_asked_for_more_than_it_can_say(http: Connections) -> None:
    async with LoopbackServer(strict=True) as server:
        small = Model(provider="anthropic", name="small", max_output=4096)
        provider = Anthropic(KEY, server.url, models={"small": small})
        await provider.complete(request_to(provider, "small"), http)
        assert server.requests[0].body["max_tokens"] == 4096


@pytest.mark.parametrize("name", ["claude-sonnet-5-5", "claude-haiku-4-5"])
async def test_sampling_is_left_out_with_one_warning_each(
    http: Connections, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    params = GenerationParams(temperature=0.0, top_p=1.0, seed=7, stop=("x",), presence_penalty=0.1)
    async with LoopbackServer(strict=True) as server:
        provider = Anthropic(KEY, server.url)
        for head in (replace(HEAD, params=params), replace(HEAD, params=params)):
            await provider.complete(request_to(provider, name, head), http)
        body = server.requests[-1].body
        assert server.served == 2
    assert not body.keys() & {"temperature", "top_p", "seed", "presence_penalty"}
    assert body["stop_sequences"] == ["x"]
    assert [record.getMessage().rpartition(" no ")[2] for record in caplog.records] == [
        f"{name}; it is left out" for name in ("temperature", "top_p", "seed", "presence_penalty")
    ]


async def test_effort_is_sent_where_the_model_has_one(http: Connections) -> None:
    assert (await sent(http, "claude-opus-5-5"))["output_config"]["effort"] == "low"
    assert "effort" not in (await sent(http, "claude-haiku-4-5"))["output_config"]


async def test_what_the_dialect_lacks_is_said_in_words(http: Connections) -> None:
    number = {"type": "integer", "minimum": 0, "description": "Out of ten."}
    schema = {**SCHEMA, "properties": {"value": number}}
    body = await sent(http, head=replace(HEAD, answer=replace(ANSWER, schema=schema)))
    value = body["output_config"]["format"]["schema"]["properties"]["value"]
    assert value == {"type": "integer", "description": "Out of ten. At least 0."}


@pytest.mark.parametrize(
    ("name", "structured", "strict", "form"),
    [
        ("claude-sonnet-5-5", "json_schema", True, "schema"),
        ("claude-haiku-5-5", "tool", True, "tool"),
        ("claude-haiku-5-5", "json_schema", False, "tool"),
        ("claude-haiku-4-5", "json_schema", False, "tool"),
        ("claude-sonnet-5-5", "json_schema", False, "words"),  # refuses to be made to use a tool
        ("claude-fable-5-1", "tool", True, "words"),
        ("claude-haiku-5-5", "json_object", True, "words"),
        ("claude-haiku-5-5", "none", True, "words"),
    ],
)
async def test_a_weaker_model_or_schema_gets_a_weaker_form(
    http: Connections, name: str, structured: Any, strict: bool, form: str
) -> None:
    head = replace(HEAD, answer=replace(ANSWER, strict=strict))
    async with LoopbackServer(Value("Good"), strict=True) as server:
        model = replace(Anthropic().model(name), structured=structured)
        provider = Anthropic(KEY, server.url, models={name: model})
        completion = await provider.complete(request_to(provider, name, head), http)
        body = server.requests[0].body
    told = "tool" if "tools" in body else "schema" if "format" in body.get("output_config", {}) else "words"
    assert told == form
    if form == "tool":
        assert body["tools"][0].get("strict", False) is strict
        assert body["tool_choice"] == {"type": "tool", "name": "return_value", "disable_parallel_tool_use": True}
    assert json.loads(completion.text) in ({"value": "Good"}, "Good")


PNG = Attachment(kind="image", media_type="image/png", data=b"\x89PNG")
PICTURE = Attachment(kind="image", media_type="image/jpeg", url="https://host.invalid/a.jpg")
PDF = Attachment(kind="document", media_type="application/pdf", data=b"%PDF-1.7")
TEXT = Attachment(kind="document", media_type="text/plain", data="Grüße".encode())


async def test_attachments_are_blocks_before_the_text(http: Connections) -> None:
    turn = Turn("user", "What is this?", (PNG, PICTURE, PDF, TEXT))
    example = (Turn("user", "And this?", (PNG,)), Turn("assistant", "{}"))
    body = await sent(http, head=replace(HEAD, examples=example), turns=(turn,))
    data = {key: base64.b64encode(each.data or b"").decode() for key, each in (("png", PNG), ("pdf", PDF))}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data["png"]}}
    assert body["messages"][0]["content"] == [image, {"type": "text", "text": "And this?"}]
    assert body["messages"][2]["content"] == [
        image,
        {"type": "image", "source": {"type": "url", "url": "https://host.invalid/a.jpg"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data["pdf"]}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"}},
        {"type": "text", "text": "What is this?"},
    ]


async def test_a_text_document_that_is_no_text_is_told(http: Connections) -> None:
    broken = replace(TEXT, data=b"\xff")
    with pytest.raises(RequestRejectedError, match="no UTF-8"):
        await sent(http, turns=(Turn("user", "x", (broken,)),))


# What comes back


async def answered(name: str, http: Connections, **more: Any) -> Completion:
    async with LoopbackServer([]) as server:
        server.replay(fixture(name))
        provider = Anthropic(KEY, server.url)
        return await provider.complete(request_to(provider, **more), http)


async def test_an_answer_with_everything(http: Connections) -> None:
    completion = await answered("anthropic/message_success_structured", http)
    assert completion.text == '{"value":"Good"}'  # its thoughts are not part of it
    assert completion.usage == Usage(
        requests=1, input_tokens=236, cached_tokens=200, output_tokens=31, reasoning_tokens=20
    )
    assert (completion.truncated, completion.model, completion.request_id) == (False, "claude-haiku-5-5", "req_011CT")


async def test_what_is_given_to_a_tool_is_the_answer(http: Connections) -> None:
    completion = await answered("anthropic/message_tool_use", http)
    assert (completion.text, completion.usage.input_tokens) == ('{"value":"Good"}', 310)


async def test_a_refusal_tells_its_category_and_why(http: Connections) -> None:
    with pytest.raises(RefusalError, match=r"declined \(cyber\): This request could enable cyber harm") as caught:
        await answered("anthropic/message_refusal", http)
    assert (caught.value.provider, caught.value.request_id) == ("anthropic", "req_011CT")


async def test_an_answer_that_is_cut_off_says_so(http: Connections) -> None:
    completion = await answered("anthropic/message_truncated_max_tokens", http)
    assert (completion.text, completion.truncated) == ('{"value":"Go', True)


@pytest.mark.parametrize(
    ("body", "text", "truncated"),
    [
        ({"content": [], "stop_reason": "end_turn"}, "", False),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", False),
        ({"content": [{"type": "text", "text": ""}], "stop_reason": "model_context_window_exceeded"}, "", True),
        ({"content": [{"type": "new_thing", "x": 1}, {"type": "text", "text": "a"}], "usage": None}, "a", False),
        ({"content": [{"type": "tool_use", "input": {}}]}, "{}", False),
    ],
)
async def test_odd_answers_are_read(http: Connections, body: Any, text: str, truncated: bool) -> None:
    async with LoopbackServer([Reply(status=200, headers={}, body=json.dumps(body).encode())]) as server:
        provider = Anthropic(KEY, server.url)
        completion = await provider.complete(request_to(provider), http)
    assert (completion.text, completion.truncated) == (text, truncated)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>hi</html>", b'{"content":"x"}', b'{"type":"error"}'])
async def test_success_without_an_answer_is_the_providers_illness(http: Connections, body: bytes) -> None:
    async with LoopbackServer([Reply(status=200, headers={}, body=body)]) as server:
        provider = Anthropic(KEY, server.url)
        with pytest.raises(ProviderUnavailableError):
            await provider.complete(request_to(provider), http)


# Streams


def events(*told: dict[str, Any]) -> Reply:
    body = "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in told)
    return Reply(status=200, headers={"content-type": "text/event-stream", "request-id": "r1"}, body=body.encode())


async def streamed(http: Connections, reply: Reply) -> tuple[list[str], Completion]:
    async with LoopbackServer([reply]) as server:
        provider = Anthropic(KEY, server.url)
        *pieces, last = [piece async for piece in provider.stream(request_to(provider), http)]
    assert isinstance(last, Completion)
    return [str(piece) for piece in pieces], last


async def test_the_recorded_stream_is_read(http: Connections) -> None:
    async with LoopbackServer([]) as server:
        server.replay(fixture("anthropic/message_stream"))
        provider = Anthropic(KEY, server.url)
        *pieces, completion = [piece async for piece in provider.stream(request_to(provider), http)]
        asked = server.requests[0]
    assert isinstance(asked, ChatRequest)
    assert asked.body["stream"] is True
    assert pieces == ['{"value":', '"Good"}']
    assert isinstance(completion, Completion)
    assert (completion.text, completion.model) == ('{"value":"Good"}', "claude-haiku-5-5")
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (36, 12)
    assert completion.request_id == "req_011CT"


@pytest.mark.parametrize("after", range(8))
async def test_the_recorded_error_ends_a_stream_wherever_it_comes(http: Connections, after: int) -> None:
    told = fixture("anthropic/message_stream")
    told["sse"] = [*told["sse"][:after], told["stream_error_event"]]
    async with LoopbackServer([]) as server:
        server.replay(told)
        provider = Anthropic(KEY, server.url)
        with pytest.raises(ProviderUnavailableError, match="Overloaded") as caught:
            async for _ in provider.stream(request_to(provider), http):
                pass
    assert (caught.value.status, caught.value.request_id) == (529, "req_011CT")
    assert http.statistics().in_flight == 0


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("rate_limit_error", RateLimitedError),
        ("authentication_error", AuthenticationError),
        ("invalid_request_error", RequestRejectedError),
        ("unheard_of", ProviderUnavailableError),
    ],
)
async def test_an_error_in_a_stream_has_the_class_of_its_type(
    http: Connections, kind: str, error: type[ProviderError]
) -> None:
    with pytest.raises(ProviderError) as caught:
        await streamed(http, events({"type": "error", "error": {"type": kind, "message": f"no, {KEY}"}}))
    assert type(caught.value) is error
    assert KEY not in str(caught.value)


def block(delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": delta}


END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}


@pytest.mark.parametrize(
    ("told", "pieces"),
    [
        ([block({"type": "thinking_delta", "thinking": "hm"}), block({"type": "text_delta", "text": "a"})], ["a"]),
        ([block({"type": "input_json_delta", "partial_json": p}) for p in ('{"a"', ":1}")], ['{"a"', ":1}"]),
        ([{"type": "content_block_start", "content_block": {"type": "text", "text": "a"}}], ["a"]),
        ([{"type": "content_block_start", "content_block": {"type": "tool_use", "input": {}}}], ["{}"]),
        ([{"type": "unheard_of"}, block({"type": "signature_delta", "signature": "x"})], []),
    ],
)
async def test_streams_of_all_kinds_are_read(http: Connections, told: list[Any], pieces: list[str]) -> None:
    found, completion = await streamed(http, events(*told, END))
    assert (found, completion.text) == (pieces, "".join(pieces))
    assert (completion.usage.output_tokens, completion.request_id) == (3, "r1")


async def test_a_stream_that_just_ends_was_cut(http: Connections) -> None:
    with pytest.raises(ProviderUnreachableError, match="before its answer was whole"):
        await streamed(http, events(block({"type": "text_delta", "text": "a"})))


async def test_a_server_that_does_not_stream_answers_at_once(http: Connections) -> None:
    recorded = fixture("anthropic/message_success_structured")
    pieces, completion = await streamed(
        http, Reply(status=200, headers=recorded["headers"], body=json.dumps(recorded["body"]).encode())
    )
    assert pieces == [completion.text] == ['{"value":"Good"}']


# What a server does not take


def refused(message: str) -> Fault:
    return Fault.status(400, message=message)


@pytest.mark.parametrize(
    ("complaint", "gone"),
    [
        ("output_config.effort: Extra inputs are not permitted", "effort"),
        ("messages.1.content.0.text.cache_control: Extra inputs are not permitted", "cache_control"),
        ("stop_sequences: unsupported on this model", "stop_sequences"),
        ("output_config.format: this model does not support structured outputs", "json_schema"),
    ],
)
async def test_what_is_refused_is_given_up_for_good(
    http: Connections, complaint: str, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    head = replace(HEAD, examples=EXAMPLES, params=GenerationParams(stop=("x",)))
    async with LoopbackServer([refused(complaint), "{}", "{}"], strict=True) as server:
        provider = Anthropic(KEY, server.url)
        for _ in range(2):
            await provider.complete(request_to(provider, head=head), http)
        first, *others = [json.dumps(dict(asked.body)) for asked in server.requests]
    assert gone in first
    assert len(others) == 2
    assert not any(gone in other for other in others)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("attachment", "complaint"),
    [
        (PNG, "messages.0.content.0: image inputs are not supported by this model"),
        (PDF, "This model does not support document inputs."),
    ],
)
async def test_a_model_that_looks_at_nothing_is_asked_so_once(
    http: Connections, attachment: Attachment, complaint: str
) -> None:
    async with LoopbackServer([refused(complaint), "{}"], strict=True) as server:
        provider = Anthropic(KEY, server.url)
        for _ in range(2):
            with pytest.raises(AttachmentRefusedError, match=f"takes no {attachment.kind}s"):
                await provider.complete(request_to(provider, turns=(Turn("user", "x", (attachment,)),)), http)
        assert server.served == 1
        assert (await provider.complete(request_to(provider), http)).text == "{}"


async def test_the_form_of_the_answer_goes_down_its_ladder(http: Connections) -> None:
    def answer(request: ChatRequest) -> object:
        if "format" in request.body.get("output_config", {}):
            return refused("output_config.format: Extra inputs are not permitted")
        if "tools" in request.body:
            return refused("tool_choice: forced tool use is not allowed here")
        return '{"value":"Good"}'

    async with LoopbackServer(answer, strict=True) as server:
        provider = Anthropic(KEY, server.url)
        assert (await provider.complete(request_to(provider), http)).text == '{"value":"Good"}'
        assert server.served == 3


@pytest.mark.parametrize(
    "complaint",
    [
        "output_config.format.schema: For 'integer' type, properties maximum, minimum are not supported",
        "temperature: Extra inputs are not permitted",
        "messages.0.content: text content blocks must be non-empty",
        "max_tokens: 200000 > 128000, which is the maximum allowed",
        "messages.0.content.0.source: the image format is not supported",
    ],
)
async def test_what_is_wrong_rather_than_unknown_is_not_tried_another_way(http: Connections, complaint: str) -> None:
    async with LoopbackServer(lambda _: refused(complaint)) as server:
        provider = Anthropic(KEY, server.url)
        with pytest.raises(RequestRejectedError):
            await provider.complete(request_to(provider), http)
        assert server.served == 1


# Key and address


@pytest.mark.parametrize(
    ("given", "environment", "header"),
    [
        ({"api_key": "k1"}, {"ANTHROPIC_API_KEY": "k2", "ANTHROPIC_AUTH_TOKEN": "t2"}, ("x-api-key", "k1")),
        ({"auth_token": "t1"}, {"ANTHROPIC_API_KEY": "k2"}, ("authorization", "Bearer t1")),
        ({}, {"ANTHROPIC_API_KEY": " k2\n", "ANTHROPIC_AUTH_TOKEN": "t2"}, ("x-api-key", "k2")),
        ({}, {"ANTHROPIC_AUTH_TOKEN": "t2"}, ("authorization", "Bearer t2")),
    ],
)
async def test_a_key_goes_before_a_token_and_what_is_given_before_the_environment(
    http: Connections,
    given: dict[str, str],
    environment: dict[str, str],
    header: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with LoopbackServer() as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url.removesuffix("/v1"))
        provider = Anthropic(**given)
        await provider.complete(request_to(provider), http)
        headers = server.requests[0].headers
    shown = {name: value for name, value in headers.items() if name in ("x-api-key", "authorization")}
    assert shown == dict([header])


async def test_a_missing_key_says_which(http: Connections) -> None:
    with pytest.raises(SettingsError, match=r"ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN, .*tanuki demo"):
        await Anthropic().complete(request_to(Anthropic()), http)


async def test_an_unaccepted_key_says_where_it_came_from(http: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LoopbackServer(lambda _: Fault.status(401)) as server:
        for variable in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"):
            monkeypatch.setenv(variable, KEY)
            provider = Anthropic(None, server.url)
            with pytest.raises(AuthenticationError, match=f"the key is from {variable}"):
                await provider.complete(request_to(provider), http)


async def test_the_key_is_in_no_text(http: Connections, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with LoopbackServer([Fault.status(400, message=f"bad {KEY} in tool_choice")]) as server:
        provider = Anthropic(KEY, server.url)
        with pytest.raises(RequestRejectedError) as caught:
            await provider.complete(request_to(provider), http)
    assert not any(KEY in text for text in (repr(provider), repr(caught.value), str(caught.value), caplog.text))


# Models


def test_models_are_known_dated_or_assumed() -> None:
    provider = Anthropic()
    luna = provider.model("claude-haiku-5-5")
    assert (luna.price_input, luna.price_cached, luna.price_output) == (0.10, 0.01, 0.50)
    assert (luna.context_window, luna.max_output) == (1_000_000, 128_000)
    dated = provider.model("claude-haiku-4-5-20251001")
    assert (dated.name, dated.context_window, dated.price_input) == ("claude-haiku-4-5-20251001", 200_000, 1)
    assert provider.model("claude-sonnet-4-5").retires == "2026-11-30"
    assert provider.model("claude-of-tomorrow").structured == "json_schema"
    assert provider.model("claude-of-tomorrow").attachments == {"image", "document"}


# A whole call


async def test_a_patched_function_asks_claude_and_repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    @tanuki.patch(teacher_models="anthropic:claude-haiku-5-5")
    async def stars(text: str) -> int:
        """How many stars?"""
        ...

    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    async with LoopbackServer([Value("many"), Value(4)], strict=True, api_key=KEY) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        async with tanuki.Tanuki(storage=MemoryStorage()) as opened:
            assert await stars("good") == 4
            (account,) = opened.statistics().pool.accounts
        assert (account.provider, account.usage.requests, server.served) == ("anthropic", 2, 2)


# Gemini, in OpenAI's format


async def test_geminis_recorded_answer_is_read(http: Connections) -> None:
    recorded = fixture("gemini/chat_success_structured")
    base = recorded["request"]["url"].removesuffix("/chat/completions")
    recorded["request"] = {}  # the server's own path
    async with LoopbackServer([]) as server:
        server.replay(recorded)
        provider = OpenAICompatible(server.url, name="gemini", api_key=KEY)
        completion = await provider.complete(request_to(provider, "gemini-3.8-flash"), http)
        asked = server.requests[0].body
    assert (completion.text, completion.model) == ('{"value":"Good"}', "gemini-3.8-flash")
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (36, 6)
    assert asked["response_format"]["json_schema"]["schema"] == SCHEMA
    assert OpenAICompatible(base)._url("/embeddings").endswith(".com/v1beta/openai/embeddings")


async def test_googles_words_for_what_is_wrong_are_kept(http: Connections) -> None:
    async with LoopbackServer([]) as server:
        server.replay(fixture("gemini/errors")["400_array"])
        provider = OpenAICompatible(server.url, name="gemini", api_key=KEY)
        with pytest.raises(RequestRejectedError, match="Request contains an invalid argument") as caught:
            await provider.complete(request_to(provider, "gemini-3.8-flash"), http)
    assert caught.value.code == "INVALID_ARGUMENT"
