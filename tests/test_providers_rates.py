from __future__ import annotations

import json
from pathlib import Path

import pytest

from tanuki_async._pool.http import Connections
from tanuki_async._pool.pool import Pool, Progress
from tanuki_async._records import AnswerSchema, Head, Limits, RateHint, Reply, Request, Turn
from tanuki_async.providers._answers import completion_from
from tanuki_async.providers._errors import retry_after
from tanuki_async.providers._messages import message_from
from tanuki_async.providers._rates import rate_from, rate_of_families
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.testing import LoopbackServer

FIXTURES = Path(__file__).parent / "fixtures"
HEAD = Head(function="f", system="x", answer=AnswerSchema(name="f", schema={"type": "object"}, strict=True))


def recorded(name: str) -> Reply:
    told = json.loads((FIXTURES / name).with_suffix(".json").read_text())
    return Reply(status=told["status"], headers=told["headers"], body=json.dumps(told["body"]).encode())


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("openai/chat_success_structured", RateHint(requests=5000, tokens=1_000_000)),
        ("together/chat_success_structured", RateHint(requests=10, tokens=3000, seconds=1.0, at_once=True)),
        ("anyscale/chat_success_structured", None),
    ],
)
def test_what_is_told_of_limits_is_read_from_recorded_answers(answer: str, hint: RateHint | None) -> None:
    first, second = (completion_from(recorded(answer), provider="p", model="m") for _ in range(2))
    assert first.rate == hint
    assert first.rate is second.rate  # so that hearing it again costs nothing


@pytest.mark.parametrize(
    ("headers", "hint"),
    [
        ({}, None),
        ({"x-ratelimit-limit-requests": "60"}, RateHint(requests=60)),
        ({"x-ratelimit-limit-tokens": "60000"}, RateHint(tokens=60_000)),
        ({"x-ratelimit-limit-requests": "soon", "x-ratelimit-limit-tokens": "-5"}, RateHint()),
        ({"x-ratelimit-limit-requests": "0", "x-ratelimit-limit-tokens": "nan"}, RateHint()),
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1m0s",
                "x-ratelimit-limit-tokens": "5000",
                "x-ratelimit-remaining-tokens": "17",
                "x-ratelimit-reset-tokens": "59.8s",
            },
            RateHint(requests=60, tokens=5000, requests_back=60.0),
        ),
        (
            {
                "x-ratelimit-limit-tokens": "5000",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "250ms",
            },
            RateHint(tokens=5000, tokens_back=0.25),
        ),
        (  # Groq: requests per day, tokens per minute
            {
                "x-ratelimit-limit-requests": "14400",
                "x-ratelimit-remaining-requests": "14370",
                "x-ratelimit-reset-requests": "2m59.56s",
                "x-ratelimit-limit-tokens": "18000",
                "x-ratelimit-remaining-tokens": "17997",
                "x-ratelimit-reset-tokens": "7.66ms",
            },
            RateHint(tokens=18_000),
        ),
        (  # nothing is left of a day's requests: the next is back in 6 s
            {
                "x-ratelimit-limit-requests": "14400",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "24h0m0s",
            },
            RateHint(requests_back=6.0),
        ),
        (  # a minute's, though little of it is back
            {
                "x-ratelimit-limit-requests": "3",
                "x-ratelimit-remaining-requests": "1",
                "x-ratelimit-reset-requests": "40s",
            },
            RateHint(requests=3),
        ),
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "many",
                "x-ratelimit-reset-requests": "1h",
            },
            RateHint(requests=60),
        ),
        (
            {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "2"},
            RateHint(requests=10, seconds=1.0, requests_back=2.0, at_once=True),
        ),
        (
            {"x-ratelimit-limit": "10", "x-tokenlimit-limit": "300", "x-tokenlimit-remaining": "0"},
            RateHint(requests=10, tokens=300, seconds=1.0, at_once=True),
        ),
    ],
)
def test_what_is_told_of_limits_is_read(headers: dict[str, str], hint: RateHint | None) -> None:
    assert rate_from(headers) == hint


async def test_a_limit_per_day_is_not_taken_for_one_per_minute() -> None:
    day = {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "999",
        "x-ratelimit-reset-requests": "1m26.4s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5990",
        "x-ratelimit-reset-tokens": "100ms",
    }
    async with LoopbackServer("{}", headers=day) as server:
        pool, provider = Pool(Connections()), OpenAICompatible(server.url, name="groq")
        request = Request(model=provider.model("m"), head=HEAD, turns=(Turn("user", "hi"),))
        await pool.complete(provider, request, Progress())
        (account,) = pool.statistics().accounts
        assert account.models[0].limits == Limits(tokens_per_minute=6000)
        await pool.aclose()


# Anthropic: several families, and times instead of durations

NOW = {"date": "Sun, 22 Nov 2026 10:00:00 GMT"}


def family(kind: str, limit: int, remaining: int, reset: str = "2026-11-22T10:00:11Z") -> dict[str, str]:
    told = {"limit": limit, "remaining": remaining, "reset": reset}
    return {f"anthropic-ratelimit-{kind}-{name}": str(value) for name, value in told.items()}


def test_what_anthropic_tells_of_limits_is_read_from_a_recorded_answer() -> None:
    first, second = (
        message_from(recorded("anthropic/message_success_structured"), provider="p", model="m") for _ in "ab"
    )
    assert first.rate == RateHint(requests=4000, tokens=2_400_000)
    assert first.rate is second.rate


@pytest.mark.parametrize(
    ("headers", "hint"),
    [
        (NOW, None),
        (family("requests", 60, 1) | NOW, RateHint(requests=60)),
        (family("requests", 60, 0) | NOW, RateHint(requests=60, requests_back=11)),
        (family("input-tokens", 100, 0) | NOW, RateHint(tokens=100, tokens_back=11)),
        (family("tokens", 120, 9) | family("output-tokens", 20, 0) | NOW, RateHint(tokens=120, tokens_back=11)),
        (
            family("input-tokens", 100, 0) | family("output-tokens", 20, 0, "2026-11-22T10:00:30+00:00") | NOW,
            RateHint(tokens=100, tokens_back=30),
        ),
        (family("requests", 60, 0, "2026-11-22T09:00:00Z") | NOW, RateHint(requests=60, requests_back=0)),
        (family("requests", 60, 0, "soon") | NOW, RateHint(requests=60)),
        (family("requests", 60, 0, "2026-11-22T10:00:11") | NOW, RateHint(requests=60)),  # in whose time?
        (family("requests", 60, 0), RateHint(requests=60)),  # our own clock may be wrong by hours
    ],
)
def test_what_anthropic_tells_of_limits_is_read(headers: dict[str, str], hint: RateHint | None) -> None:
    assert rate_of_families(headers) == hint


def test_a_429_without_retry_after_waits_until_what_is_used_up_is_back() -> None:
    assert retry_after(family("requests", 60, 0) | family("tokens", 9, 9, "2026-11-22T11:00:00Z") | NOW) == 11
    assert retry_after(family("requests", 60, 0) | NOW | {"retry-after": "3"}) == 3
