"""InvokeModel: each family of models in its own format, Claude's, Llama's and Titan's, and Titan's vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic_core import from_json

from tanuki_async._errors import AttachmentRefusedError, ProviderError, ProviderUnavailableError, RefusalError
from tanuki_async._records import Completion, JsonValue, Reply, Request, Turn, Usage
from tanuki_async.providers._bodies import quote, room
from tanuki_async.providers._claude import ClaudeAbilities
from tanuki_async.providers._errors import readable
from tanuki_async.providers._message_bodies import MessageBodies
from tanuki_async.providers._messages import message_from

_LLAMAS_ROOM = 2_048
"""Tokens of an answer that every Llama there allows."""
_TOKEN = re.compile(r"<\|(?=[a-z_0-9]+\|>)")
_SPEAKER = re.compile(r"^(?=(?:User|Bot):)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Format:
    """How one family is asked, and what its answers look like."""

    encode: Callable[[Request], bytes]
    read: Callable[[Reply, str, str], Completion]  # an answer, the names of provider and model


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    reason: str
    input_tokens: int
    output_tokens: int


def encode(request: Request, how: Format) -> bytes:
    """Write the body of one request. AttachmentRefusedError for attachments, which these formats cannot hold."""
    if any(turn.attachments for turn in request.turns):
        raise AttachmentRefusedError("this format takes no attachments", "bedrock", request.model.name)
    return how.encode(request)


def _reader(read: Callable[[Mapping[str, Any]], _Said]) -> Callable[[Reply, str, str], Completion]:
    def completion(reply: Reply, provider: str, model: str) -> Completion:
        request_id = reply.headers.get("x-amzn-requestid")
        try:
            said = read(_object(reply.body))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise no_answer(reply, provider, model) from error
        if said.reason == "CONTENT_FILTERED":
            raise RefusalError("a content filter stopped the answer", provider, model, None, request_id)
        return Completion(
            text=said.text,
            usage=Usage(requests=1, input_tokens=said.input_tokens, output_tokens=said.output_tokens),
            truncated=said.reason in ("length", "LENGTH"),
            model=model,
            request_id=request_id,
        )

    return completion


def no_answer(reply: Reply, provider: str, model: str) -> ProviderError:
    """The error for an answer with status 200 that holds no answer."""
    said = readable(reply.body) or "an empty body"
    request_id = reply.headers.get("x-amzn-requestid")
    return ProviderUnavailableError(f"success, but without an answer: {said}", provider, model, 200, request_id)


def encode_embedding(model: str, text: str, *, dimensions: int | None, normalize: bool) -> bytes:
    """Write a request for the vector of one text: Titan takes no more at once."""
    fields: dict[str, JsonValue] = {"inputText": text}
    if not model.endswith("titan-embed-text-v1"):
        fields |= {"normalize": normalize, "embeddingTypes": ["float"]}
        if dimensions is not None:
            fields["dimensions"] = dimensions
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def vector_from(reply: Reply, *, provider: str, model: str) -> tuple[list[float], int]:
    """Read one vector, and the tokens of its text."""
    try:
        answer = _object(reply.body)
        found = answer.get("embedding") or answer["embeddingsByType"]["float"]
        vector = [float(number) for number in found]
        return vector, int(answer.get("inputTextTokenCount", 0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise no_answer(reply, provider, model) from error


def _object(body: bytes) -> dict[str, Any]:
    value: Any = from_json(body)
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return cast("dict[str, Any]", value)


def _turns(request: Request) -> Sequence[Turn]:
    return (*request.head.examples, *request.turns)


def _encode_llama(request: Request) -> bytes:
    def part(role: str, text: str) -> str:
        # A text that holds a special token could otherwise end its turn, and speak for somebody else.
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n{_TOKEN.sub('< |', text)}<|eot_id|>"

    parts = [part("system", request.head.system)] + [part(turn.role, turn.text) for turn in _turns(request)]
    params = request.head.params
    return _compact(
        {
            "prompt": f"<|begin_of_text|>{''.join(parts)}<|start_header_id|>assistant<|end_header_id|>\n\n",
            "max_gen_len": request.max_tokens or params.max_new_tokens or _LLAMAS_ROOM,
            "temperature": params.temperature,
            "top_p": params.top_p,
        }
    )


def _read_llama(answer: Mapping[str, Any]) -> _Said:
    used = answer.get("prompt_token_count") or 0, answer.get("generation_token_count") or 0
    return _Said(answer["generation"] or "", str(answer.get("stop_reason")), *used)


def _encode_titan(request: Request) -> bytes:
    names = {"user": "User", "assistant": "Bot"}
    lines = [f"{names[turn.role]}: {_SPEAKER.sub(' ', turn.text)}" for turn in _turns(request)]
    params = request.head.params
    limits = {
        "maxTokenCount": request.max_tokens or params.max_new_tokens or room(request.model),
        "temperature": params.temperature,
        "topP": params.top_p,
        "stopSequences": list(params.stop) if params.stop else None,
    }
    config = {name: value for name, value in limits.items() if value is not None}
    text = "\n".join([*([f"{request.head.system}\n"] if request.head.system else []), *lines, "Bot:"])
    return _compact({"inputText": text, "textGenerationConfig": config or None})


def _read_titan(answer: Mapping[str, Any]) -> _Said:
    result = answer["results"][0]
    used = answer.get("inputTextTokenCount") or 0, result.get("tokenCount") or 0
    return _Said(result["outputText"].strip(), str(result.get("completionReason")), *used)


def _encode_claude(request: Request) -> bytes:
    model = request.model
    body = MessageBodies().encode(request, ClaudeAbilities.assumed(model))
    named = b'{"model":' + quote(model.name)  # the URL names it here
    return b'{"anthropic_version":"bedrock-2023-05-31"' + body.removeprefix(named)


def _read_claude(reply: Reply, provider: str, model: str) -> Completion:
    headers = {**reply.headers, "request-id": reply.headers.get("x-amzn-requestid", "")}
    return message_from(replace(reply, headers=headers), provider=provider, model=model)


def _compact(fields: Mapping[str, Any]) -> bytes:
    sent = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(sent, separators=(",", ":")).encode("ascii")


FORMATS: dict[str, Format] = {
    "claude": Format(_encode_claude, _read_claude),
    "llama": Format(_encode_llama, _reader(_read_llama)),
    "titan": Format(_encode_titan, _reader(_read_titan)),
}
"""What `Model.wire_format` may name; without a name it is Converse."""
