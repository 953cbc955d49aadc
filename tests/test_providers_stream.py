"""Streams in OpenAI's format: recorded ones replayed, and whatever else servers send."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tanuki_async import ProviderError, ProviderUnavailableError, ProviderUnreachableError, RefusalError
from tanuki_async._records import AnswerSchema, Completion, Head, Model, Reply, Request, Turn
from tanuki_async.abc import Streamed
from tanuki_async.providers._sse import LARGEST_EVENT, Events, TooLargeError
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.providers.together import TogetherAI

FIXTURES = Path(__file__).parent / "fixtures"
TypeAdapter(int)  # pydantic looks for its plugins once, in files; a patched function has made it do so before any call
KEY = "sk-very-secret-0123456789"
HEAD = Head(function="f", system="Answer.", answer=AnswerSchema(name="f", schema={"type": "object"}, strict=True))


class Http:
    """Streams one body after the other, cut into pieces of `size` bytes."""

    def __init__(
        self, *bodies: bytes | tuple[int, bytes], size: int = 7, headers: Mapping[str, str] | None = None
    ) -> None:
        self.bodies, self.size, self.headers = list(bodies), size, headers or {}
        self.sent: list[dict[str, Any]] = []

    async def send(self, method: str, url: str, *, headers: Any, body: bytes | None = None) -> Reply:
        raise AssertionError("a stream was asked for")

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Any, body: bytes | None = None
    ) -> AsyncIterator[Streamed]:
        self.sent.append(json.loads(body or b"null"))
        answer = self.bodies.pop(0)
        status, text = answer if isinstance(answer, tuple) else (200, answer)
        yield Streamed(status, self.headers, self._pieces(text))

    async def _pieces(self, text: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(text), self.size):
            yield text[start : start + self.size]


def sse(*events: Any, end: str = "\n\n") -> bytes:
    told = [event if isinstance(event, str) else f"data: {json.dumps(event, ensure_ascii=False)}" for event in events]
    return "".join(event + end for event in told).encode()


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


async def ask(http: Http, provider: OpenAICompatible | None = None) -> tuple[list[str], Completion]:
    provider = provider or OpenAICompatible("http://s.invalid/v1", name="s", api_key=KEY)
    request = Request(model=Model(provider=provider.name, name="m"), head=HEAD, turns=(Turn("user", "hi"),))
    *pieces, last = [piece async for piece in provider.stream(request, http)]
    assert isinstance(last, Completion)
    return [str(piece) for piece in pieces], last


def recorded(name: str) -> bytes:
    return sse(*json.loads((FIXTURES / name).read_text())["sse"])


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_recorded_stream_is_read(size: int) -> None:
    http = Http(recorded("openai/chat_stream.json"), size=size)
    pieces, completion = await ask(http, OpenAI(KEY))
    assert pieces == ['{"', "value", '":"Good', '"}']
    assert (completion.text, completion.truncated, completion.model) == ('{"value":"Good"}', False, "gpt-6.1-terra")
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (236, 28)
    assert completion.usage.reasoning_tokens == 18
    assert (http.sent[0]["stream"], http.sent[0]["stream_options"]) == (True, {"include_usage": True})


async def test_together_tells_the_usage_unasked() -> None:
    http = Http(recorded("together/chat_stream.json"))
    pieces, completion = await ask(http, TogetherAI(KEY))
    assert ("".join(pieces), completion.usage.output_tokens) == ('{"value":"Good"}', 6)
    assert "stream_options" not in http.sent[0]


async def test_a_recorded_refusal_is_one() -> None:
    with pytest.raises(RefusalError, match=r"I'm sorry, I can't help with that\."):
        await ask(Http(recorded("openai/chat_stream_refusal.json")))


async def test_an_error_after_200_is_one() -> None:
    http = Http(recorded("openai/chat_stream_midway_error.json"), headers={"x-request-id": "req_1"})
    with pytest.raises(ProviderUnavailableError, match="The server had an error") as caught:
        await ask(http)
    assert caught.value.request_id == "req_1"


async def test_comments_carriage_returns_and_other_fields_are_passed_over() -> None:
    body = sse(": keep-alive", "event: x\r\nid: 7", delta(content="é🦝"), delta("stop"), "data: [DONE]", end="\r\n\r\n")
    for size in (1, 3, 1000):
        assert (await ask(Http(body, size=size)))[0] == ["é🦝"]


@pytest.mark.parametrize(
    "body",
    [
        sse(delta(content="ab"), delta("stop")),
        sse(delta(content="ab"), delta("stop")).rstrip(),
        sse(delta(content="a"), delta("stop", content="b"), "data:[DONE]"),
        sse({"choices": None}, delta(content="ab", role="assistant"), "data: [DONE]"),
        sse(delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "ab"}}]), delta("tool_calls")),
        sse(delta(reasoning_content="ab"), delta("stop")),
        json.dumps({"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}]}, indent=1).encode(),
        b"\n " + json.dumps({"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}]}).encode(),
    ],
    ids=["no DONE", "no end", "text at the end", "no finish", "tool call", "reasoning", "no stream", "after blanks"],
)
async def test_what_servers_send_instead_is_read_too(body: bytes) -> None:
    pieces, completion = await ask(Http(body))
    assert ("".join(pieces), completion.text) == ("ab", "ab")


@pytest.mark.parametrize("body", [b"", b"\n\n", sse(delta(content="ab")), sse(delta(content="ab"))[:-9]])
async def test_a_stream_that_just_ends_was_cut(body: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        await ask(Http(body))
    assert isinstance(caught.value, ProviderUnreachableError | ProviderUnavailableError)


async def test_what_is_no_json_is_told_without_the_key() -> None:
    with pytest.raises(ProviderUnavailableError, match="no JSON") as caught:
        await ask(Http(sse(f"data: oops {KEY}")))
    assert KEY not in str(caught.value)


async def test_a_limit_that_was_reached_is_told() -> None:
    _, completion = await ask(Http(sse(delta(content="a"), delta("length"))))
    assert completion.truncated


def refused(field: str) -> tuple[int, bytes]:
    error = {"message": f"Unsupported parameter: {field}", "param": field, "code": "unsupported_parameter"}
    return 400, json.dumps({"error": error}).encode()


async def test_fields_that_a_server_does_not_know_are_given_up() -> None:
    provider = OpenAICompatible("http://s.invalid/v1", name="s")
    http = Http(
        refused("stream_options"),
        refused("stream"),
        json.dumps({"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}]}).encode(),
    )
    assert (await ask(http, provider))[0] == ["ab"]
    sent = [[name for name in ("stream", "stream_options") if name in body] for body in http.sent]
    assert sent == [["stream", "stream_options"], ["stream"], []]


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n")), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.data(),
)
def test_events_are_the_same_however_they_are_cut(texts: Sequence[str], end: str, data: Any) -> None:
    try:
        body = "".join(f"data: {text}{end}: x{end}{end}" for text in texts).encode()
    except UnicodeEncodeError:
        return
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=9)))
    places, events = [0, *cuts, len(body)], Events()
    found = [each for start, stop in itertools.pairwise(places) for each in events.feed(body[start:stop])]
    assert found + events.end() == list(texts)


def test_data_over_several_lines_is_one_event() -> None:
    events = Events()
    assert events.feed(b"\xef\xbb\xbfdata: a\ndata:\ndata:  b\n\n\n") == ["a\n\n b"]


def test_an_event_without_an_end_is_refused() -> None:
    events = Events()
    events.feed(b"x" * (LARGEST_EVENT - 1))
    with pytest.raises(TooLargeError):
        events.feed(b"xx")


async def test_a_stream_without_an_end_of_line_is_told() -> None:
    with pytest.raises(ProviderUnavailableError, match="larger than"):
        await ask(Http(b"x" * (LARGEST_EVENT + 1), size=2**20))
