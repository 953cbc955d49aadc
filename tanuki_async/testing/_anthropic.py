"""Anthropic's wire format from the server's side: messages read, answers written, at once or in pieces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from tanuki_async._records import JsonSchema, Usage
from tanuki_async.testing._streaming import Streaming
from tanuki_async.testing.answers import Answer, ChatRequest, Fault, count_usage

_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRequest(ChatRequest):
    """A question that came in Anthropic's format."""

    @property
    def by_tool(self) -> bool:
        """Whether the answer has to be given to a tool."""
        return bool(self.schema_name)


def read_message(body: Mapping[str, Any], headers: Mapping[str, str]) -> MessageRequest:
    """Read the body of a POST to /v1/messages. Its instructions become the first message."""
    name, schema = _wanted(body)
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    return MessageRequest(
        model=body.get("model", ""),
        messages=[*system, *body.get("messages", ())],
        schema=schema,
        schema_name=name,
        body=body,
        headers=headers,
    )


def write_message(request: MessageRequest, answer: Answer, number: int) -> bytes:
    """Write the body that answers a message."""
    usage = count_usage(request.messages, answer)
    message = _message(request, number, usage) | _end(request, answer) | {"content": _content(request, answer)}
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def fault_of(fault: Fault) -> Fault:
    """Write the error of a scripted fault as Anthropic does."""
    told = _error(fault)
    if fault.reply is None or told is None:
        return fault
    error = {"type": _type(fault.reply.status), "message": told.get("message")}
    if told.get("code") == "insufficient_quota":
        error["details"] = {"error_code": "enforced_spend_limit_reached"}
    body = {"type": "error", "error": error, "request_id": "req_scripted"}
    return replace(fault, reply=replace(fault.reply, body=json.dumps(body).encode()))


class MessageStreaming(Streaming):
    """Writes one answer to one connection, with the events that Anthropic sends."""

    def _open(self) -> None:
        assert isinstance(self._request, MessageRequest)
        message = _message(self._request, self._number, count_usage(self._request.messages, Answer("")))
        self._send("message_start", message=message)
        block: dict[str, Any] = {"type": "text", "text": ""}
        if self._request.by_tool:
            block = {"type": "tool_use", "id": "toolu_1", "name": self._request.schema_name, "input": {}}
        self._send("content_block_start", index=0, content_block=block)
        self._send("ping")

    def _piece(self, text: str) -> None:
        assert isinstance(self._request, MessageRequest)
        delta = {"type": "text_delta", "text": text}
        if self._request.by_tool:
            delta = {"type": "input_json_delta", "partial_json": text}
        self._send("content_block_delta", index=0, delta=delta)

    def _close(self, answer: Answer) -> None:
        assert isinstance(self._request, MessageRequest)
        self._send("content_block_stop", index=0)
        used = {"output_tokens": count_usage(self._request.messages, answer).output_tokens}
        self._send("message_delta", delta=_end(self._request, answer), usage=used)
        self._send("message_stop")

    def _error(self, body: bytes) -> None:
        self._connection.chunk(b"event: error\ndata: " + body + b"\n\n")

    async def _fail(self, fault: Fault) -> None:
        await super()._fail(fault_of(fault))

    def _send(self, kind: str, **fields: Any) -> None:
        data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
        self._connection.chunk(f"event: {kind}\ndata: {data}\n\n".encode())


def _wanted(body: Mapping[str, Any]) -> tuple[str | None, JsonSchema | None]:
    """The name and schema that the answer was asked to have: as the input of a tool, or as its format."""
    if _mapping(body.get("tool_choice")).get("type") == "tool":
        name = body["tool_choice"].get("name")
        return name, next(
            (tool.get("input_schema") for tool in body.get("tools", ()) if tool.get("name") == name), None
        )
    return None, _mapping(_mapping(body.get("output_config")).get("format")).get("schema")


def _message(request: ChatRequest, number: int, usage: Usage) -> dict[str, Any]:
    return {
        "id": f"msg_{number:08x}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": usage.input_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        },
    }


def _end(request: MessageRequest, answer: Answer) -> dict[str, Any]:
    """Why the answer ended."""
    reason = _REASONS[answer.finish_reason] if answer.refusal is None else "refusal"
    if reason == "refusal":
        details = {"type": "refusal", "category": None, "explanation": answer.refusal}
        return {"stop_reason": reason, "stop_sequence": None, "stop_details": details}
    reason = "tool_use" if request.by_tool and reason == "end_turn" else reason
    return {"stop_reason": reason, "stop_sequence": None, "stop_details": None}


def _content(request: MessageRequest, answer: Answer) -> list[dict[str, Any]]:
    if not answer.text:
        return []
    if request.by_tool:
        try:
            given = json.loads(answer.text)
        except ValueError:
            given = None
        if isinstance(given, dict):
            return [{"type": "tool_use", "id": "toolu_1", "name": request.schema_name, "input": given}]
    return [{"type": "text", "text": answer.text}]


def _error(fault: Fault) -> Mapping[str, Any] | None:
    """What a scripted fault says in OpenAI's manner; None where it is no error of that kind."""
    try:
        body: Any = json.loads(fault.reply.body) if fault.reply else None
    except ValueError:
        return None
    error = _mapping(body).get("error")
    return cast("Mapping[str, Any]", error) if isinstance(error, dict) else None


def _type(status: int) -> str:
    return _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
