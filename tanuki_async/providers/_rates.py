"""Reads what a provider tells of its limits beside each answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from tanuki_async._records import RateHint
from tanuki_async.providers._errors import family_back, go_duration

_MINUTE = 60.0
_REQUESTS, _TOKENS = (
    (f"x-ratelimit-limit-{kind}", f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}")
    for kind in ("requests", "tokens")
)
_LONG = 1_800.0
"""Seconds; a limit that takes longer to come back is one per day."""


def rate_from(headers: Mapping[str, str]) -> RateHint | None:
    """Return what the headers of one answer tell; None if nothing.

    Equal limits are one object, so that who hears them again and again sees at once that there is no news.
    """
    requests, requests_back = _told(headers, *_REQUESTS)
    tokens, tokens_back = _told(headers, *_TOKENS)
    if requests is not None or tokens is not None or requests_back is not None:
        return _hint(requests, tokens, _MINUTE, requests_back, tokens_back)
    requests = headers.get("x-ratelimit-limit")
    if requests is None:
        return None
    back = _back(headers, "x-ratelimit-remaining", "x-ratelimit-reset")
    tokens_back = _back(headers, "x-tokenlimit-remaining", "x-ratelimit-reset")
    return _hint(requests, headers.get("x-tokenlimit-limit"), 1.0, back, tokens_back)  # Together: per second


def _told(headers: Mapping[str, str], name: str, left: str, back: str) -> tuple[str | None, float | None]:
    """Return a limit per minute, and in how many seconds all is back where nothing is left.

    Some, such as Groq, tell a limit per day under the same name. It comes back bit by bit, so the time until all is
    back and what is missing show for how long it counts. Of such a limit only the time until the next is back matters.
    """
    limit = headers.get(name)
    if limit is None:
        return None, None
    remaining, reset = headers.get(left), headers.get(back, "")
    if reset.endswith("ms"):  # as most often
        return limit, go_duration(reset) if remaining == "0" else None
    try:
        most, seconds = float(limit), _seconds(reset)
        per_day = seconds * most >= _LONG * (most - float(remaining or limit)) > 0
    except ValueError:
        return limit, None
    if per_day:
        return None, seconds / most if remaining == "0" else None
    return limit, seconds if remaining == "0" else None


def _seconds(reset: str) -> float:
    """Read a duration, the usual ones quickly. ValueError for what is none."""
    if reset.endswith("s") and not reset.endswith(("µs", "μs", "us", "ns")) and "h" not in reset:
        minutes, _, rest = reset.rpartition("m")
        return 60 * float(minutes or 0) + float(rest[:-1])
    if (seconds := go_duration(reset)) is None:
        raise ValueError(reset)
    return seconds


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
