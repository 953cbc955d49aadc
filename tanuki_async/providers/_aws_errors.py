"""Turns an unhappy answer of AWS into one of our errors."""

from __future__ import annotations

import re
from typing import Any, cast

from pydantic_core import from_json

from tanuki_async._errors import (
    AuthenticationError,
    ProviderError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitedError,
    RequestRejectedError,
)
from tanuki_async._records import Reply
from tanuki_async.providers._errors import error_from

_KINDS: dict[str, type[ProviderError]] = {
    "ThrottlingException": RateLimitedError,
    "TooManyRequestsException": RateLimitedError,
    "ModelNotReadyException": RateLimitedError,
    "ModelTimeoutException": ProviderUnavailableError,
    "InternalServerException": ProviderUnavailableError,
    "ServiceUnavailableException": ProviderUnavailableError,
    "ModelStreamErrorException": ProviderUnavailableError,
    "ServiceQuotaExceededException": QuotaExceededError,
    "ValidationException": RequestRejectedError,
    "ConflictException": RequestRejectedError,
    "AccessDeniedException": AuthenticationError,
    "ExpiredTokenException": AuthenticationError,
    "UnrecognizedClientException": AuthenticationError,
    "InvalidSignatureException": AuthenticationError,
    "ResourceNotFoundException": RequestRejectedError,
}
_STATUS = {
    "ThrottlingException": 429,
    "InternalServerException": 500,
    "ServiceUnavailableException": 503,
    "ModelStreamErrorException": 424,
    "ValidationException": 400,
}
STARTING = 10.0
"""Seconds between two tries while a model starts: that takes about a minute."""

_NEEDS_PROFILE = re.compile("on-demand throughput isn.t supported|n.t support on-demand throughput")
_XML_CODE = re.compile(rb"<Code>([^<]+)</Code>")
_XML_MESSAGE = re.compile(rb"<Message>([^<]+)</Message>")


def aws_error(reply: Reply, *, provider: str, model: str, region: str | None = None) -> ProviderError:
    """Make the error that fits `reply`, by AWS's own word for it where there is one, else by its status."""
    facts = _facts(reply.body)
    code = _code(reply, facts)
    error = error_from(reply, provider=provider, model=model)
    told = facts.get("message") or facts.get("Message")
    message = " ".join(told.split())[:500] if isinstance(told, str) and told.strip() else error.message
    kind = _KINDS.get(code or "", type(error))
    if code == "ModelErrorException":  # the model's own server failed, or found the request wrong
        original = facts.get("originalStatusCode")
        failed = isinstance(original, int) and original >= 500
        kind = ProviderUnavailableError if failed else RequestRejectedError
    wait = STARTING if code == "ModelNotReadyException" and error.retry_after is None else error.retry_after
    request_id = reply.headers.get("x-amzn-requestid") or reply.headers.get("x-amz-request-id") or error.request_id
    if code == "ValidationException" and _NEEDS_PROFILE.search(message):
        message += f"; write {_profiled(model, region)}"
    made = kind(message, provider, model, error.status, request_id, wait)
    if isinstance(made, RequestRejectedError):
        made.code = code
    return made


def keys_have_ended(reply: Reply) -> bool:
    """Tell whether an answer says that the credentials were good, but are no longer."""
    return _code(reply, _facts(reply.body)) in ("ExpiredTokenException", "ExpiredToken")


def streamed_error(name: str, payload: bytes, *, provider: str, model: str, request_id: str | None) -> ProviderError:
    """Make the error that came as an event of a stream: `throttlingException` and its like."""
    code = name[:1].upper() + name[1:]
    headers = {"x-amzn-errortype": code, **({"x-amzn-requestid": request_id} if request_id else {})}
    reply = Reply(status=_STATUS.get(code, 500), headers=headers, body=payload)
    return aws_error(reply, provider=provider, model=model)


def _facts(body: bytes) -> dict[str, Any]:
    try:
        value: Any = from_json(body)
    except ValueError:  # S3 speaks XML
        found = {"code": _XML_CODE.search(body), "message": _XML_MESSAGE.search(body)}
        return {name: match[1].decode(errors="replace") for name, match in found.items() if match}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _code(reply: Reply, facts: dict[str, Any]) -> str | None:
    told = reply.headers.get("x-amzn-errortype") or facts.get("__type") or facts.get("code")
    if not isinstance(told, str):
        return None
    return told.partition(":")[0].rpartition("#")[2] or None


def _profiled(model: str, region: str | None) -> str:
    """How a model is written that answers only through an inference profile."""
    names = [f"'bedrock:{prefix}.{model}'" for prefix in (*_prefixes(region), "global")]
    return " or ".join(names) + ", an inference profile that your account has"


def _prefixes(region: str | None) -> tuple[str, ...]:
    if region is None:
        return ("us", "eu", "apac")
    if region.startswith("ap-northeast-1") or region == "ap-northeast-3":
        return ("jp", "apac")
    if region in ("ap-southeast-2", "ap-southeast-4"):
        return ("au", "apac")
    start = region.partition("-")[0]
    return {"us": ("us",), "eu": ("eu",), "ap": ("apac",), "ca": ("us",)}.get(start, ())
