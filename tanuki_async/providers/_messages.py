"""Reads what Anthropic's Messages API answered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypedDict

from tanuki_async._errors import RefusalError, clip
from tanuki_async._records import Completion, Reply, Usage
from tanuki_async.providers._answers import no_answer
from tanuki_async.providers._rates import rate_of_families

STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that an error of each type has, where it comes without one: in a stream, or in a batch."""

_CUT_OFF = frozenset({"max_tokens", "model_context_window_exceeded"})


class _Block(TypedDict, total=False):
    type: str
    text: str | None
    input: Any


class _Details(TypedDict, total=False):
    category: str | None
    explanation: str | None


class _OutputDetails(TypedDict, total=False):
    thinking_tokens: int | None


class _Usage(TypedDict, total=False):
    input_tokens: int | None
    cache_creation_input_tokens: int | None
    cache_read_input_tokens: int | None
    output_tokens: int | None
    output_tokens_details: _OutputDetails | None


class _Message(TypedDict, total=False):
    model: str | None
    content: list[_Block] | None
    stop_reason: str | None
    stop_details: _Details | None
    usage: _Usage | None


@cache
def _message() -> TypeAdapter[_Message]:
    return TypeAdapter(_Message)


def message_from(reply: Reply, *, provider: str, model: str, secrets: Sequence[str] = ()) -> Completion:
    """Read an answer with status 200. RefusalError for a refusal, ProviderUnavailableError for no answer at all.

    `secrets` never appear in an error.
    """
    try:
        message = _message().validator.validate_json(reply.body)
    except ValidationError:
        message = _Message()
    request_id = reply.headers.get("request-id") or reply.headers.get("x-request-id")
    reason, blocks = message.get("stop_reason"), message.get("content")
    if reason == "refusal":
        raise RefusalError(_why(message.get("stop_details")), provider, model, None, request_id)
    if blocks is None:
        raise no_answer(reply, b'"error"' in reply.body[:200], provider, model, secrets)
    return Completion(
        text=_text(blocks),
        usage=_usage(message.get("usage")),
        truncated=reason in _CUT_OFF,
        model=message.get("model") or model,
        request_id=request_id,
        rate=rate_of_families(reply.headers),
    )


def _text(blocks: list[_Block]) -> str:
    """What the model said, without its thoughts; else what it gave to the tool that it had to use."""
    if said := "".join([block.get("text") or "" for block in blocks if block.get("type") == "text"]):
        return said
    return next((to_json(block.get("input")).decode() for block in blocks if block.get("type") == "tool_use"), "")


def _why(details: _Details | None) -> str:
    category, explanation = (details or {}).get("category"), (details or {}).get("explanation")
    about = f" ({category})" if category else ""
    return f"the model declined{about}: {clip(explanation or 'no explanation was given')}"


def _usage(usage: _Usage | None) -> Usage:
    if not usage:
        return Usage(requests=1)
    cached, details = usage.get("cache_read_input_tokens") or 0, usage.get("output_tokens_details")
    fresh = (usage.get("input_tokens") or 0) + (usage.get("cache_creation_input_tokens") or 0)
    return Usage(
        requests=1,
        input_tokens=fresh + cached,
        cached_tokens=cached,
        output_tokens=usage.get("output_tokens") or 0,
        reasoning_tokens=(details.get("thinking_tokens") or 0) if details else 0,
    )
