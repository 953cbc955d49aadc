"""Reads what an OpenAI-compatible server answered: a completion, or vectors."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict

from tanuki_async._errors import ProviderError, ProviderUnavailableError, RefusalError, clip
from tanuki_async._records import Completion, Reply, Usage
from tanuki_async.providers._errors import error_from, readable
from tanuki_async.providers._rates import rate_from
from tanuki_async.providers._secrets import without
from tanuki_async.providers._thoughts import spoken


class _InputDetails(TypedDict, total=False):
    cached_tokens: int | None


class _OutputDetails(TypedDict, total=False):
    reasoning_tokens: int | None


class _Usage(TypedDict, total=False):
    prompt_tokens: int | None
    completion_tokens: int | None
    prompt_tokens_details: _InputDetails | None
    completion_tokens_details: _OutputDetails | None


class _Function(TypedDict, total=False):
    arguments: str


class _ToolCall(TypedDict, total=False):
    function: _Function


class _Part(TypedDict, total=False):
    text: str | None
    refusal: str | None


class _Message(TypedDict, total=False):
    content: str | list[_Part | str] | None
    refusal: str | None
    tool_calls: list[_ToolCall] | None
    reasoning_content: str | None
    reasoning: str | None


class _Choice(TypedDict, total=False):
    message: _Message
    finish_reason: str | None


class _Envelope(TypedDict, total=False):
    model: str | None
    choices: list[_Choice] | None
    usage: _Usage | None
    error: Any


class _Vector(TypedDict, total=False):
    index: int
    embedding: str | list[float]


class _Vectors(TypedDict, total=False):
    data: list[_Vector]
    usage: _Usage | None
    error: Any


@cache
def _envelope() -> TypeAdapter[_Envelope]:
    return TypeAdapter(_Envelope)


@cache
def _vectors() -> TypeAdapter[_Vectors]:
    return TypeAdapter(_Vectors)


def completion_from(reply: Reply, *, provider: str, model: str, secrets: Sequence[str] = ()) -> Completion:
    """Read an answer with status 200. RefusalError for a refusal, ProviderUnavailableError for no answer at all.

    `secrets` never appear in an error.
    """
    try:
        envelope = _envelope().validator.validate_json(reply.body)
    except ValidationError:
        envelope = _loosely(reply.body)
    choices = envelope.get("choices")
    request_id = reply.headers.get("x-request-id")
    choice: _Choice = choices[0] if choices else {}
    message, finish = choice.get("message"), choice.get("finish_reason")
    if message is None:
        raise no_answer(reply, bool(envelope.get("error")), provider, model, secrets)
    content = message.get("content")
    refusal = message.get("refusal")
    if isinstance(content, list):
        content, refused = _join(content)
        refusal = refusal or refused
    if refusal or finish == "content_filter":
        why = f"the model declined: {clip(refusal)}" if refusal else "a content filter stopped the answer"
        raise RefusalError(why, provider, model, None, request_id)
    truncated = finish == "length"
    return Completion(
        text=spoken(content or _elsewhere(message, truncated)),
        usage=_usage(envelope.get("usage")),
        truncated=truncated,
        model=envelope.get("model") or model,
        request_id=request_id,
        rate=rate_from(reply.headers),
    )


def vectors_from(
    reply: Reply, count: int, *, provider: str, model: str, secrets: Sequence[str] = ()
) -> tuple[list[Sequence[float]], Usage]:
    """Read `count` vectors in the order of their texts; packed ones stay arrays. `secrets` never appear in an error."""
    try:
        answer = _vectors().validator.validate_json(reply.body)
        items = answer.get("data", [])
        if len(items) != count:
            raise ValueError(f"{len(items)} vectors for {count} texts")
        vectors = {item.get("index", place): _floats(item["embedding"]) for place, item in enumerate(items)}
        ordered = [vectors[place] for place in range(count)]
    except (ValueError, KeyError) as error:  # ValidationError and binascii.Error are ValueErrors
        raise no_answer(reply, b'"error"' in reply.body[:200], provider, model, secrets) from error
    return ordered, _usage(answer.get("usage"))


def _floats(vector: str | list[float]) -> Sequence[float]:
    """Unpack base64 of little-endian float32 without a loop; a server that ignores the format sends a list."""
    if not isinstance(vector, str):
        return vector
    numbers = array("f", base64.b64decode(vector, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _usage(usage: _Usage | None) -> Usage:
    if not usage:
        return Usage(requests=1)
    into, out = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return Usage(
        requests=1,
        input_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=(into.get("cached_tokens") or 0) if into else 0,
        output_tokens=usage.get("completion_tokens") or 0,
        reasoning_tokens=(out.get("reasoning_tokens") or 0) if out else 0,
    )


def _join(parts: list[_Part | str]) -> tuple[str, str]:
    """The text and the refusal that a list of content parts holds."""
    texts: list[str] = []
    refusals: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        else:
            texts.append(part.get("text") or "")
            refusals.append(part.get("refusal") or "")
    return "".join(texts), "".join(refusals)


def _elsewhere(message: _Message, truncated: bool) -> str:
    """The answer of a server that put it into a tool call, or all of it into its reasoning."""
    for call in message.get("tool_calls") or ():
        if arguments := call.get("function", {}).get("arguments"):
            return arguments
    if truncated:
        return ""
    return message.get("reasoning_content") or message.get("reasoning") or ""


def _loosely(body: bytes) -> _Envelope:
    """Read an envelope whose fields are not all of the usual types: only what is needed, if it is usable."""
    try:
        value: Any = from_json(body)
        choice = value["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return {"error": True} if b'"error"' in body[:200] else {}
    if not isinstance(content, str | list):
        return {}
    finish = choice.get("finish_reason")
    return {
        "choices": [
            {"message": {"content": content}, "finish_reason": finish if isinstance(finish, str) else None},
        ]
    }


def no_answer(reply: Reply, says_error: bool, provider: str, model: str, secrets: Sequence[str]) -> ProviderError:
    """The error for an answer with status 200 that holds no answer."""
    reply = without(reply, secrets)
    if says_error:
        return error_from(reply, provider=provider, model=model)
    request_id = reply.headers.get("x-request-id")
    said = readable(reply.body) or "an empty body"
    return ProviderUnavailableError(
        f"success, but without an answer: {said}", provider, model, reply.status, request_id
    )
