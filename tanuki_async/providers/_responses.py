"""OpenAI's Responses API: writes its requests and reads its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from tanuki_async._errors import AttachmentRefusedError, ProviderError, RefusalError, clip
from tanuki_async._records import FILE_NAME, Attachment, Completion, Head, JsonValue, Model, Reply, Turn, Usage
from tanuki_async.providers._abilities import Abilities
from tanuki_async.providers._answers import no_answer
from tanuki_async.providers._bodies import Bodies, data_url, quote, schema_of
from tanuki_async.providers._errors import QUOTA_CODES, error_from
from tanuki_async.providers._rates import rate_from
from tanuki_async.providers._thoughts import spoken

_ROLES = {  # llama.cpp wants the type to be said
    role: b',{"type":"message","role":"' + role.encode() + b'","content":' for role in ("user", "assistant")
}


class ResponseBodies(Bodies):
    """Makes the bodies of requests for /responses. Nothing is stored there; `seed` and `stop` do not exist there."""

    roles = _ROLES

    def begin(self, head: Head, model: Model, abilities: Abilities) -> bytes:
        """Everything before the first turn."""
        parts = [b'{"model":', quote(model.name), b',"instructions":', quote(head.system), b',"input":[']
        examples: list[bytes] = []
        for turn in head.examples:
            examples += self.seen(turn, model, abilities)
        return b"".join(parts) + b"".join(examples)[1:]

    def end(self, head: Head, model: Model, abilities: Abilities, max_tokens: int | None) -> bytes:
        """Everything after the last turn."""
        params = head.params
        fields: dict[str, Any] = {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "reasoning": {"effort": model.reasoning_effort} if model.reasoning_effort else None,
            "max_output_tokens": max_tokens,
            "text": _text_format(head, abilities),
        }
        sent = {name: value for name, value in fields.items() if value is not None and name not in abilities.dropped}
        return b"]," + json.dumps({"store": False, **sent}, separators=(",", ":")).encode("ascii")[1:]

    def seen(self, turn: Turn, model: Model, abilities: Abilities) -> Sequence[bytes]:
        """One message with what is attached to it. AttachmentRefusedError for what cannot be sent."""
        if not turn.attachments:
            return _ROLES[turn.role], quote(turn.text), b"}"
        parts = [_ROLES[turn.role], b'[{"type":"input_text","text":', quote(turn.text), b"}"]
        for attachment in turn.attachments:
            if attachment.kind in abilities.untaken:
                raise AttachmentRefusedError(f"it takes no {attachment.kind}s", model.provider, model.name)
            parts += _attached(attachment)
        return [*parts, b"]}"]

    def joined(self, parts: Sequence[bytes]) -> bytes:
        """Put the parts together; the first turn has no comma before it."""
        begin, first, *others = parts
        return b"".join((begin, first[1:] if begin.endswith(b'"input":[') else first, *others))

    def streamed(self, body: bytes, abilities: Abilities) -> bytes:
        """Make of a request one whose answer comes in pieces."""
        return body if "stream" in abilities.dropped else body[:-1] + b',"stream":true}'


def _attached(attachment: Attachment) -> tuple[bytes, ...]:
    if attachment.kind == "image":
        begin, field = b',{"type":"input_image",', b'"image_url":'
    else:
        begin, field = b',{"type":"input_file",', b'"file_url":'
    if attachment.url:
        return begin, field, quote(attachment.url), b"}"
    if attachment.kind == "document":
        field = b'"filename":"%b","file_data":' % FILE_NAME.encode("ascii")
    return (begin, field, *data_url(attachment), b"}")


def _text_format(head: Head, abilities: Abilities) -> JsonValue:
    answer = head.answer
    if abilities.structured == "none":
        return None
    if abilities.structured == "json_object" or not answer.strict:
        return {"format": {"type": "json_object"}}
    schema = schema_of(answer, abilities)
    return {"format": {"type": "json_schema", "name": answer.name, "strict": True, "schema": schema}}


class _InputDetails(TypedDict, total=False):
    cached_tokens: int | None


class _OutputDetails(TypedDict, total=False):
    reasoning_tokens: int | None


class ResponsesUsage(TypedDict, total=False):
    """How this API and its kin count tokens."""

    input_tokens: int | None
    output_tokens: int | None
    input_tokens_details: _InputDetails | None
    output_tokens_details: _OutputDetails | None


class _Part(TypedDict, total=False):
    type: str
    text: str | None
    refusal: str | None


class _Item(TypedDict, total=False):
    type: str
    content: list[_Part] | None


class _Incomplete(TypedDict, total=False):
    reason: str | None


class _Response(TypedDict, total=False):
    status: str | None
    model: str | None
    output: list[_Item] | None
    error: dict[str, Any] | None
    incomplete_details: _Incomplete | None
    usage: ResponsesUsage | None


@cache
def _response() -> TypeAdapter[_Response]:
    return TypeAdapter(_Response)


def response_from(reply: Reply, *, provider: str, model: str, secrets: Sequence[str] = ()) -> Completion:
    """Read an answer with status 200, as `completion_from` does for chats."""
    request_id = reply.headers.get("x-request-id")
    try:
        response = _response().validator.validate_json(reply.body)
    except ValidationError:
        response = _Response()
    if response.get("status") == "failed" or (response.get("error") and not response.get("output")):
        raise failure(response.get("error") or {}, reply, provider=provider, model=model, secrets=secrets)
    reason = (response.get("incomplete_details") or {}).get("reason")
    truncated = response.get("status") == "incomplete" and reason == "max_output_tokens"
    parts = _parts(response)
    refusal = next((text for part in parts if (text := part.get("refusal"))), None)
    if refusal or reason == "content_filter":
        why = f"the model declined: {clip(refusal)}" if refusal else "a content filter stopped the answer"
        raise RefusalError(why, provider, model, None, request_id)
    if not parts and not truncated:
        raise no_answer(reply, b'"error"' in reply.body[:200], provider, model, secrets)
    return Completion(
        text=spoken("".join(part.get("text") or "" for part in parts)),
        usage=usage_from(response.get("usage")),
        truncated=truncated,
        model=response.get("model") or model,
        request_id=request_id,
        rate=rate_from(reply.headers),
    )


def _parts(response: _Response) -> list[_Part]:
    """What the model said, whatever thoughts or calls stand before it."""
    items = response.get("output") or ()
    return [part for item in items if item.get("type") == "message" for part in item.get("content") or ()]


def usage_from(usage: ResponsesUsage | None) -> Usage:
    """Read what was used, reasoning and cached tokens within the sums."""
    if not usage:
        return Usage(requests=1)
    into, out = usage.get("input_tokens_details") or {}, usage.get("output_tokens_details") or {}
    return Usage(
        requests=1,
        input_tokens=usage.get("input_tokens") or 0,
        cached_tokens=into.get("cached_tokens") or 0,
        output_tokens=usage.get("output_tokens") or 0,
        reasoning_tokens=out.get("reasoning_tokens") or 0,
    )


def failure(
    error: Mapping[str, Any], reply: Reply, *, provider: str, model: str, secrets: Sequence[str] = ()
) -> ProviderError:
    """Make the error of an answer that failed after all was accepted: its code stands for a status."""
    code = str(error.get("code") or "server_error")
    if code == "rate_limit_exceeded" or code in QUOTA_CODES:
        status = 429
    elif code.startswith("invalid_") or "image" in code:
        status = 400
    else:  # server_error, vector_store_timeout, and what is not known yet
        status = 500
    message = error.get("message") or f"the answer failed with {code}"
    told = json.dumps({"error": {"message": message, "code": code}}).encode()
    reply = Reply(status=status, headers=reply.headers, body=told)
    return error_from(reply, provider=provider, model=model, secrets=secrets)
