"""Whose format a request is in: how it is read, what is refused there, and how it is answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, cast

from tanuki_async._records import Reply
from tanuki_async.testing import _anthropic, _bedrock, _openai, _responses
from tanuki_async.testing._http import HttpConnection, HttpRequest
from tanuki_async.testing._streaming import Streaming
from tanuki_async.testing._strict import RefusedError, check_chat, check_embedding
from tanuki_async.testing._strict_anthropic import check_message
from tanuki_async.testing.answers import ChatRequest, EmbeddingRequest, Fault, as_answer

CHAT, EMBEDDINGS, MODELS = "/v1/chat/completions", "/v1/embeddings", "/v1/models"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"

Asked: TypeAlias = ChatRequest | EmbeddingRequest | HttpRequest
"""A request as far as it is understood."""

CHATS: dict[str, Callable[..., ChatRequest]] = {
    CHAT: _openai.read_chat,
    RESPONSES: _responses.read,
    MESSAGES: _anthropic.read_message,
}
"""How the chats of each vendor are read; Bedrock's have their model in the path."""

_CHECKS: dict[type[Asked], Callable[[Mapping[str, Any], Mapping[str, str]], None]] = {
    ChatRequest: lambda body, _: check_chat(body),
    _responses.ResponseRequest: lambda body, _: check_chat(body),
    _anthropic.MessageRequest: check_message,
    EmbeddingRequest: lambda body, _: check_embedding(body),
}
_STREAMS: dict[type[ChatRequest], type[Streaming]] = {
    _anthropic.MessageRequest: _anthropic.MessageStreaming,
    _responses.ResponseRequest: _responses.ResponseStreaming,
    _bedrock.ConverseRequest: _bedrock.ConverseStreaming,
}
_BAD_KEY = Fault.status(401, message="Incorrect API key provided.")


def read(request: HttpRequest) -> Asked:
    """Read a chat or a request for embeddings; any other request comes back as it is. May raise RefusedError."""
    if request.method != "POST":
        return request
    if _bedrock.is_bedrock(request.path):
        return _bedrock.read(request.path, _json_body(request), request.headers)
    if request.path in CHATS:
        return CHATS[request.path](_json_body(request), request.headers)
    return _openai.read_embedding(_json_body(request), request.headers) if request.path == EMBEDDINGS else request


def check(asked: ChatRequest | EmbeddingRequest, *, strict: bool, streams: bool) -> None:
    """Raise RefusedError for what the vendor would refuse, as far as it is known."""
    if (found := _CHECKS.get(type(asked))) is None:
        return
    if asked.body.get("stream") and not streams:
        raise RefusedError("this server does not stream", "stream", "unsupported_parameter")
    if strict:
        found(asked.body, asked.headers)


def refusal(error: RefusedError, path: str) -> Fault:
    """Write what is refused as the vendor at `path` does."""
    fault = Fault.status(400, message=error.message, param=error.param, code=error.code)
    fault = fault if error.code != "invalid_api_key" else _BAD_KEY
    return _anthropic.fault_of(fault) if path == MESSAGES else fault


def render(asked: object, answer: object, *, number: int, headers: Mapping[str, str]) -> Reply | Fault:
    """Write an answer, the `number`th of the server, in the format of what was asked."""
    if isinstance(answer, Fault) and isinstance(asked, _anthropic.MessageRequest):
        return _anthropic.fault_of(answer)
    if isinstance(answer, Reply | Fault):
        return answer
    if isinstance(asked, _bedrock.ConverseRequest | _bedrock.TitanTextRequest):
        return _bedrock.reply(asked, as_answer(answer, asked.schema), number)
    if isinstance(asked, _bedrock.TitanRequest):
        return _bedrock.reply(asked, cast("Sequence[Sequence[float]]", answer), number)
    if isinstance(asked, _anthropic.MessageRequest):
        body = _anthropic.write_message(asked, as_answer(answer, asked.schema), number)
    elif isinstance(asked, _responses.ResponseRequest):
        body = _responses.write(asked, as_answer(answer, asked.schema), number)
    elif isinstance(asked, ChatRequest):
        body = _openai.write_chat(asked, as_answer(answer, asked.schema), number)
    elif isinstance(asked, EmbeddingRequest):
        body = _openai.write_embeddings(asked, cast("Sequence[Sequence[float]]", answer))
    else:
        body = json.dumps(answer).encode()
    return success(body, number=number, headers=headers)


def success(body: bytes, *, number: int, headers: Mapping[str, str]) -> Reply:
    """Make an answer with status 200, and an id as each vendor calls it."""
    named = f"req_{number:016x}"
    return Reply(status=200, headers={**headers, "x-request-id": named, "request-id": named}, body=body)


def streaming(asked: ChatRequest, connection: HttpConnection, *, number: int, headers: Mapping[str, str]) -> Streaming:
    """Make what writes an answer in pieces."""
    kind = _STREAMS.get(type(asked), Streaming)
    return kind(connection, asked, number, {**headers, "x-request-id": f"req_{number:016x}"})


def fixture_reply(fixture: Mapping[str, Any], *, body: str | None = None) -> Reply:
    """Make a raw HTTP answer of a recorded one: `status`, `headers` and `body`, `bodies` (one is named) or `sse`."""
    if "sse" in fixture:
        content = "".join(f"{event}\n\n" for event in fixture["sse"]).encode()
    else:
        value = fixture["bodies"][body] if body is not None else fixture["body"]
        content = value.encode() if isinstance(value, str) else json.dumps(value).encode()
    return Reply(status=fixture.get("status", 200), headers=fixture.get("headers", {}), body=content)


def _json_body(request: HttpRequest) -> dict[str, Any]:
    with suppress(ValueError):
        body = json.loads(request.body)
        if isinstance(body, dict):
            return cast("dict[str, Any]", body)
    raise RefusedError("We could not parse the JSON body of your request.", code="invalid_json")
