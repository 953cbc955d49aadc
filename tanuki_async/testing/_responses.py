"""OpenAI's Responses API from the server's side: requests read as chats, answers written as it writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from tanuki_async._records import Usage
from tanuki_async.testing._openai import CREATED, read_chat
from tanuki_async.testing._streaming import Streaming
from tanuki_async.testing._strict import RefusedError
from tanuki_async.testing.answers import Answer, ChatRequest, count_usage

_RENAMED = {"max_output_tokens": "max_completion_tokens"}
_SAME = frozenset({"model", "temperature", "top_p", "metadata", "stream", "service_tier", "parallel_tool_calls"})
_OWN = frozenset({"instructions", "input", "text", "reasoning", "store", "include", "truncation", "background"})


class ResponseRequest(ChatRequest):
    """A question that came to /responses; its `body` says the same as a chat would."""


def read(body: Mapping[str, Any], headers: Mapping[str, str]) -> ResponseRequest:
    """Read the body of a POST to /responses. RefusedError for a field that this API does not know."""
    chat = read_chat(_as_chat(body), headers)
    return ResponseRequest(
        model=chat.model,
        messages=chat.messages,
        schema=chat.schema,
        schema_name=chat.schema_name,
        body=chat.body,
        headers=headers,
    )


def _as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    for name in body:
        if name not in _SAME | _OWN | _RENAMED.keys():
            raise RefusedError(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    chat = {name: value for name, value in body.items() if name in _SAME}
    chat |= {new: body[old] for old, new in _RENAMED.items() if old in body}
    asked = body.get("input", "")
    turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else cast("list[dict[str, Any]]", asked)
    first = [{"role": "developer", "content": body["instructions"]}] if body.get("instructions") else []
    chat["messages"] = first + [{"role": turn.get("role"), "content": _content(turn.get("content"))} for turn in turns]
    if effort := _mapping(body.get("reasoning")).get("effort"):
        chat["reasoning_effort"] = effort
    if wanted := _mapping(_mapping(body.get("text")).get("format")):
        chat["response_format"] = _chat_format(wanted)
    return chat


def _content(content: object) -> object:
    """Say what a message's content says as the content of a chat's message."""
    if not isinstance(content, list):
        return content
    return [_part(part) for part in cast("list[dict[str, Any]]", content)]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    match part.get("type"):
        case "input_text" | "output_text":
            return {"type": "text", "text": part.get("text")}
        case "input_image":
            return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
        case "input_file":
            return {"type": "file", "file": {"filename": part.get("filename"), "file_data": part.get("file_data")}}
        case kind:
            raise RefusedError(f"Invalid value: {kind!r}.", "input", "invalid_value")


def _chat_format(wanted: Mapping[str, Any]) -> dict[str, Any]:
    if wanted.get("type") != "json_schema":
        return dict(wanted)
    return {"type": "json_schema", "json_schema": {key: value for key, value in wanted.items() if key != "type"}}


def _response(request: ChatRequest, answer: Answer, number: int) -> dict[str, Any]:
    """Make the whole answer: thoughts first, so that nobody takes the first item for the answer."""
    truncated, filtered = answer.finish_reason == "length", answer.finish_reason == "content_filter"
    reason = "max_output_tokens" if truncated else "content_filter" if filtered else None
    refused = answer.refusal is not None
    part = {"type": "refusal", "refusal": answer.refusal} if refused else {"type": "output_text", "text": answer.text}
    message = {"type": "message", "id": f"msg_{number:08x}", "role": "assistant", "content": [part]}
    return {
        "id": f"resp_{number:08x}",
        "object": "response",
        "created_at": CREATED,
        "status": "incomplete" if reason else "completed",
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": request.model,
        "output": [{"type": "reasoning", "id": f"rs_{number:08x}", "summary": []}, message],
        "usage": _usage_fields(count_usage(request.messages, answer)),
    }


def _usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def write(request: ChatRequest, answer: Answer, number: int) -> bytes:
    """Write the body of the whole answer."""
    return _encode(_response(request, answer, number))


class ResponseStreaming(Streaming):
    """Writes one answer to one connection, with the named events of this API."""

    _sequence = 0

    def _open(self) -> None:
        self._named("response.created", response={"status": "in_progress", "output": []})
        self._named("response.output_item.added", output_index=0, item={"type": "reasoning", "summary": []})

    def _piece(self, text: str) -> None:
        self._named("response.output_text.delta", delta=text, output_index=1, content_index=0)

    def _close(self, answer: Answer) -> None:
        whole = _response(self._request, answer, self._number)
        self._named(f"response.{whole['status']}", response=whole)

    def _error(self, body: bytes) -> None:
        self._named("error", **{"code": None, "param": None, **json.loads(body)["error"], "type": "error"})

    def _named(self, kind: str, **fields: Any) -> None:
        event = {"sequence_number": self._sequence, **fields, "type": kind}
        self._sequence += 1
        self._connection.chunk(b"event: " + kind.encode() + b"\ndata: " + _encode(event) + b"\n\n")


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
