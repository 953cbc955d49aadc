"""Reads what a provider tells of its limits beside each answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from tanuki_async._records import RateHint
from tanuki_async.providers._errors import go_duration

_MINUTE = 60.0


def rate_from(headers: Mapping[str, str]) -> RateHint | None:
    """Return what the headers of one answer tell; None if nothing.

    Equal limits are one object, so that who hears them again and again sees at once that there is no news.
    """
    requests, tokens = headers.get("x-ratelimit-limit-requests"), headers.get("x-ratelimit-limit-tokens")
    if requests is not None or tokens is not None:
        requests_back = _back(headers, "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
        tokens_back = _back(headers, "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")
        return _hint(requests, tokens, _MINUTE, requests_back, tokens_back)
    requests = headers.get("x-ratelimit-limit")
    if requests is None:
        return None
    back = _back(headers, "x-ratelimit-remaining", "x-ratelimit-reset")
    tokens_back = _back(headers, "x-tokenlimit-remaining", "x-ratelimit-reset")
    return _hint(requests, headers.get("x-tokenlimit-limit"), 1.0, back, tokens_back)  # Together: per second


def _back(headers: Mapping[str, str], remaining: str, reset: str) -> float | None:
    """Seconds until all is back, where nothing is left."""
    return go_duration(headers.get(reset, "")) if headers.get(remaining) == "0" else None


@lru_cache(maxsize=256)
def _hint(
    requests: str | None, tokens: str | None, seconds: float, requests_back: float | None, tokens_back: float | None
) -> RateHint:
    return RateHint(
        requests=_limit(requests),
        tokens=_limit(tokens),
        seconds=seconds,
        requests_back=requests_back,
        tokens_back=tokens_back,
        at_once=seconds < _MINUTE,
    )


def _limit(text: str | None) -> float | None:
    try:
        limit = float(text or "")
    except ValueError:
        return None
    return limit if 1 <= limit < 1e12 else None  # nan fails both
