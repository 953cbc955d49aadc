"""Bedrock's Converse: one format for all its chat models. Writes requests as bytes, reads answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypedDict

from tanuki_async._errors import AttachmentRefusedError, ProviderUnavailableError, RefusalError
from tanuki_async._records import (
    AnswerSchema,
    Attachment,
    Completion,
    Head,
    JsonValue,
    Model,
    Reply,
    Request,
    Turn,
    Usage,
)
from tanuki_async.providers._bedrock_abilities import Taken
from tanuki_async.providers._bodies import Heads, quote, room
from tanuki_async.providers._errors import readable

REFUSED = {
    "content_filtered": "a content filter stopped the answer",
    "guardrail_intervened": "a guardrail stopped the answer",
}
CUT = ("max_tokens", "model_context_window_exceeded")

_BLANK = "…"
"""Stands for a text of nothing but spaces, which Converse refuses."""
_TOOL_KEYS = ("type", "properties", "required", "$defs")
"""What Nova knows at the root of a tool's schema."""
_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}


class Converse:
    """Makes the bodies of requests. Keeps the encoded head for as long as the head lives."""

    def __init__(self) -> None:
        self._heads: Heads[Taken] = Heads()

    def encode(self, request: Request, taken: Taken) -> bytes:
        """Write one request. The same request gives the same bytes."""
        head, model = request.head, request.model
        kept = self._heads.of(head, model, taken, _edges)
        end = kept.end if request.max_tokens is None else _end(head, model, taken, request.max_tokens)
        return kept.begin + b",".join([_message(turn, model, taken) for turn in request.turns]) + end


def _edges(head: Head, model: Model, taken: Taken) -> tuple[bytes, bytes]:
    return _begin(head, model, taken), _end(head, model, taken, head.params.max_new_tokens)


def _begin(head: Head, model: Model, taken: Taken) -> bytes:
    system = head.system.strip()
    if system and "system" not in taken.dropped:
        start = b'{"system":[{"text":' + quote(system) + b'}],"messages":['
        turns = head.examples
    else:  # a model without system messages hears them first
        told = (Turn("user", system), Turn("assistant", "Understood.")) if system else ()
        start, turns = b'{"messages":[', (*told, *head.examples)
    return start + b"".join([_message(turn, model, taken) + b"," for turn in turns])


def _text_message(turn: Turn) -> bytes:
    text = turn.text if turn.text.strip() else _BLANK
    return b'{"role":"%b","content":[{"text":%b}]}' % (turn.role.encode(), quote(text))


def _message(turn: Turn, model: Model, taken: Taken) -> bytes:
    if not turn.attachments:
        return _text_message(turn)
    blocks = b"".join([b"," + _block(each, place, model, taken) for place, each in enumerate(turn.attachments, 1)])
    return _text_message(turn)[:-2] + blocks + b"]}"


def _block(attachment: Attachment, place: int, model: Model, taken: Taken) -> bytes:
    if attachment.kind in taken.untaken:
        raise AttachmentRefusedError(f"it takes no {attachment.kind}s", model.provider, model.name)
    if attachment.data is None:
        raise AttachmentRefusedError(
            "Bedrock does not fetch attachments by their address; pass the bytes", "bedrock", model.name
        )
    formats = _IMAGES if attachment.kind == "image" else _DOCUMENTS
    name = formats.get(attachment.media_type)
    if name is None:
        known = ", ".join(formats)
        what = f"Bedrock takes an attached {attachment.kind} as {known}; got {attachment.media_type!r}"
        raise AttachmentRefusedError(what, "bedrock", model.name)
    fields: dict[str, JsonValue] = {"format": name}
    if attachment.kind == "document":
        fields["name"] = f"document {place}"
    fields["source"] = {"bytes": base64.b64encode(attachment.data).decode()}
    return _compact({attachment.kind: fields})


def _end(head: Head, model: Model, taken: Taken, max_tokens: int | None) -> bytes:
    params = head.params
    limits: dict[str, Any] = {
        "maxTokens": max_tokens or room(model),  # all of it counts against the account before it is used
        "temperature": params.temperature,
        "topP": params.top_p,
        "stopSequences": list(params.stop) if params.stop else None,
    }
    sent = {name: value for name, value in limits.items() if value is not None and name not in taken.dropped}
    fields: dict[str, JsonValue] = {"inferenceConfig": sent} if sent else {}
    fields |= _form(head.answer, taken)
    if model.reasoning_effort and "effort" not in taken.dropped:
        output = fields.setdefault("outputConfig", {})
        assert isinstance(output, dict)
        output["effort"] = model.reasoning_effort
    return b"]," + _compact(fields)[1:] if fields else b"]}"


def _form(answer: AnswerSchema, taken: Taken) -> dict[str, JsonValue]:
    """What makes the model answer in the form of the schema, where it can."""
    if taken.structured == "json_schema" and answer.strict:
        from tanuki_async._codec.schema import dialect

        schema = json.dumps(dialect(answer.schema, "anthropic"), separators=(",", ":"))
        form: JsonValue = {"jsonSchema": {"name": answer.name, "schema": schema}}
        return {"outputConfig": {"textFormat": {"type": "json_schema", "structure": form}}}
    if taken.structured == "tool" and answer.schema.get("type") == "object":
        kept: JsonValue = {name: answer.schema[name] for name in _TOOL_KEYS if name in answer.schema}
        tool: JsonValue = {
            "name": answer.name,
            "description": "Takes the answer.",
            "inputSchema": {"json": kept},
        }
        return {"toolConfig": {"tools": [{"toolSpec": tool}], "toolChoice": {"tool": {"name": answer.name}}}}
    return {}


def _compact(value: JsonValue) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii")


class _ToolUse(TypedDict, total=False):
    input: Any


class _Block(TypedDict, total=False):
    text: str
    toolUse: _ToolUse


class _Message(TypedDict, total=False):
    content: list[_Block]


class _Output(TypedDict, total=False):
    message: _Message


class TokenUsage(TypedDict, total=False):
    """What a request used, as Converse counts it."""

    inputTokens: int | None
    outputTokens: int | None
    cacheReadInputTokens: int | None
    cacheWriteInputTokens: int | None


class _Answer(TypedDict, total=False):
    output: _Output
    stopReason: str
    usage: TokenUsage | None


@cache
def _answers() -> TypeAdapter[_Answer]:
    return TypeAdapter(_Answer)


def completion_from(reply: Reply, *, provider: str, model: str) -> Completion:
    """Read an answer with status 200. RefusalError for a refusal, ProviderUnavailableError for no answer at all."""
    request_id = reply.headers.get("x-amzn-requestid")
    try:
        answer = _answers().validator.validate_json(reply.body)
        content = answer["output"]["message"].get("content", [])
    except (ValidationError, KeyError) as error:
        said = readable(reply.body) or "an empty body"
        message = f"success, but without an answer: {said}"
        raise ProviderUnavailableError(message, provider, model, reply.status, request_id) from error
    reason = answer.get("stopReason", "")
    if why := REFUSED.get(reason):
        raise RefusalError(why, provider, model, None, request_id)
    return Completion(
        text=_text(content),
        usage=usage_from(answer.get("usage")),
        truncated=reason in CUT,
        model=model,
        request_id=request_id,
    )


def _text(content: Sequence[_Block]) -> str:
    """The answer in what a tool was given, else in the texts."""
    for block in content:
        if (used := block.get("toolUse")) is not None:
            return to_json(used.get("input")).decode()
    return "".join([block.get("text", "") for block in content])


def usage_from(used: TokenUsage | Mapping[str, Any] | None) -> Usage:
    """Read what a request used. Converse counts what came from a cache, or went there, beside the input."""
    if not used:
        return Usage(requests=1)
    cached = used.get("cacheReadInputTokens") or 0
    return Usage(
        requests=1,
        input_tokens=(used.get("inputTokens") or 0) + cached + (used.get("cacheWriteInputTokens") or 0),
        cached_tokens=cached,
        output_tokens=used.get("outputTokens") or 0,
    )
