"""Reads what a provider tells of its limits beside each answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from tanuki_async._records import RateHint
from tanuki_async.providers._errors import family_back, go_duration

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


def rate_of_families(headers: Mapping[str, str]) -> RateHint | None:
    """Return what Anthropic tells, which has a limit of requests and several of tokens: of all, of input, of output.

    The pool knows one limit of tokens: the widest is taken, and the longest pause.
    """
    requests = headers.get("anthropic-ratelimit-requests-limit")
    tokens = next((told for kind in _KINDS if (told := headers.get(f"anthropic-ratelimit-{kind}-limit"))), None)
    if requests is None and tokens is None:
        return None
    waits = [wait for kind in _KINDS if (wait := family_back(headers, kind)) is not None]
    return _hint(requests, tokens, _MINUTE, family_back(headers, "requests"), max(waits, default=None))


_KINDS = ("tokens", "input-tokens", "output-tokens")


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
