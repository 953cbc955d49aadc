"""Turns an unhappy HTTP answer in OpenAI's manner into one of our errors, whatever shape its body has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from pydantic_core import from_json

from tanuki_async._errors import (
    AuthenticationError,
    ProviderError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitedError,
    RequestRejectedError,
    clip,
)
from tanuki_async._records import JsonValue, Reply
from tanuki_async.providers._secrets import without

QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "enforced_spend_limit_reached",
    }
)
"""Codes or types of a 429 that waiting does not mend."""

_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|μs|ns|h|m|s)")
_TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)


def error_from(
    reply: Reply, *, provider: str, model: str, secrets: Sequence[str] = (), key_hint: str = ""
) -> ProviderError:
    """Make the error that fits `reply`. `secrets` never appear in it; `key_hint` says where a key comes from."""
    reply = without(reply, secrets)
    facts = _facts(reply.body)
    code = _code(facts)
    message = _message(facts, reply)
    status = reply.status if reply.status != 200 else _status_within(facts)
    kind = _kind(status, {code, _text(facts.get("type"))})
    if kind is AuthenticationError and key_hint and status == 401:
        message = f"{message} ({key_hint})"
    if 300 <= status < 400:
        message = f"redirected to {clip(reply.headers.get('location', 'nowhere'))!r}; correct the base URL"
    request_id = reply.headers.get("x-request-id") or reply.headers.get("request-id")
    hint = retry_after(reply.headers)
    error = kind(message, provider, model, status, request_id, _retry_delay(facts) if hint is None else hint)
    if isinstance(error, RequestRejectedError):
        error.code, error.parameter = code, _text(facts.get("param"))
    wish = reply.headers.get("x-should-retry")
    if wish in ("true", "false") and kind is not QuotaExceededError:
        error.should_retry = wish == "true"
    return error


def code_of(reply: Reply) -> str | None:
    """Return the code that an unhappy answer gives, where it gives one."""
    return _text(_facts(reply.body).get("code"))


def _kind(status: int, words: set[str | None]) -> type[ProviderError]:
    if status == 402 or (status == 429 and words & QUOTA_CODES):
        return QuotaExceededError
    if status == 429:
        return RateLimitedError
    if status in (401, 403):
        return AuthenticationError
    if status >= 500 or status in (200, 408, 409):
        return ProviderUnavailableError
    return RequestRejectedError


def _facts(body: bytes) -> Mapping[str, JsonValue]:
    """Find message, type, param and code: wrapped in `error`, flat, in a list, or as a mere text."""
    try:
        value: JsonValue = from_json(body)
    except ValueError:
        return {}
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        value = value.get("error") or value.get("detail") or value
    if isinstance(value, dict):
        return value
    return {"message": value} if isinstance(value, str) else {}


def _code(facts: Mapping[str, JsonValue]) -> str | None:
    """The provider's word for what is wrong. Anthropic hides it in `details`; Google's `code` is only the status."""
    code, details = _text(facts.get("code")), facts.get("details")
    if isinstance(details, dict) and (inner := _text(details.get("error_code"))):
        return inner
    status = facts.get("status")
    return status if isinstance(status, str) and (code is None or code.isdecimal()) else code


def _status_within(facts: Mapping[str, JsonValue]) -> int:
    """The status of an error in the body of a success, as relays send; 200 where it tells none."""
    code = _text(facts.get("code"))
    return int(code) if code and code.isdecimal() and 400 <= int(code) < 600 else 200


def _retry_delay(facts: Mapping[str, JsonValue]) -> float | None:
    """Seconds that Google asks to wait, in a detail of the error itself."""
    details = facts.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(told := detail.get("retryDelay"), str):
            return go_duration(told)
    return None


def _message(facts: Mapping[str, JsonValue], reply: Reply) -> str:
    message = facts.get("message")
    if isinstance(message, str) and message.strip():
        return clip(" ".join(message.split()))
    return readable(reply.body) or "no explanation was given"


def readable(body: bytes) -> str:
    """What a body says, on one line and clipped, without the tags of HTML."""
    text = body[:20_000].decode(errors="replace")
    if "<html" in text[:1000].lower() or text.lstrip()[:9].lower() == "<!doctype":
        text = f"a web page: {_TAG.sub(' ', text)}"
    return clip(" ".join(text.split()))


def _text(value: JsonValue) -> str | None:
    return None if value is None or isinstance(value, dict | list) else str(value)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, from the strongest of its hints."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    if told := headers.get("retry-after"):
        if (seconds := _number(told)) is not None:
            return seconds
        if (moment := _date(told)) is not None:
            return max(0.0, (moment - _now(headers)).total_seconds())
    return _reset(headers)


def _reset(headers: Mapping[str, str]) -> float | None:
    """The longest time until a bucket that is empty now is full again."""
    waits = [
        seconds
        for kind in ("-requests", "-tokens", "")
        if _number(headers.get(f"x-ratelimit-remaining{kind}")) == 0
        and (seconds := go_duration(headers.get(f"x-ratelimit-reset{kind}", ""))) is not None
    ]
    families = ("requests", "tokens", "input-tokens", "output-tokens")
    waits += [seconds for kind in families if (seconds := family_back(headers, kind)) is not None]
    return max(waits, default=None)


def family_back(headers: Mapping[str, str], kind: str) -> float | None:
    """Seconds until all of one of Anthropic's limits is back, where nothing is left; by the server's clock alone."""
    now = _date(headers.get("date", ""))
    if now is None or headers.get(f"anthropic-ratelimit-{kind}-remaining") != "0":
        return None
    try:
        moment = datetime.fromisoformat(headers[f"anthropic-ratelimit-{kind}-reset"])
        return max(0.0, (moment - now).total_seconds())
    except (KeyError, ValueError, TypeError):  # not told, no time, no time zone
        return None


def go_duration(text: str) -> float | None:
    """Seconds of a duration such as `1h23m31s`, `7.66s`, `20ms`, or a bare number of seconds; None for others."""
    text = text.strip()
    if (seconds := _number(text)) is not None:
        return seconds
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None  # nan fails both


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _now(headers: Mapping[str, str]) -> datetime:
    """The server's own clock where it tells, so that a wrong clock here does not matter."""
    return _date(headers.get("date", "")) or datetime.now(UTC)
