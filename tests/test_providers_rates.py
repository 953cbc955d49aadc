from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tanuki_async._errors import ProviderError
from tanuki_async._pool.http import Connections
from tanuki_async._pool.pool import Pool, Progress
from tanuki_async._records import AnswerSchema, Head, Limits, RateHint, Reply, Request, Turn
from tanuki_async.abc import Http
from tanuki_async.providers._answers import completion_from
from tanuki_async.providers._rates import rate_from
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.testing import FakeClock, LoopbackServer

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


# How long a lone call waits for each recorded error: without chance, and with the longest waits that chance may choose
WAITS = {
    "openai/error_429_rate_limit": ([0.034] * 5, [0.034, 0.5, 1, 2, 4]),
    "openai/error_503_overloaded": ([5.0] * 5, [5.0] * 5),
    "openai/error_500": ([0.0] * 5, [0.5, 1, 2, 4, 8]),
    "together/error_429_rate_limit": ([2.0] * 5, [2.0, 2.0, 2.0, 2.2, 4.2]),
    "together/error_503_overloaded": ([0.0] * 5, [0.5, 1, 2, 4, 8]),
    "together/error_500": ([0.0] * 5, [0.5, 1, 2, 4, 8]),
}


@pytest.mark.parametrize("name", sorted(f"{path.parent.name}/{path.stem}" for path in FIXTURES.glob("*/error_*.json")))
@pytest.mark.parametrize("chance", [0.0, 1.0])
async def test_a_lone_call_waits_as_documented_between_its_tries(name: str, chance: float) -> None:
    clock = FakeClock(autojump=0)
    pool, moments = Pool(Connections(), clock=clock, random=lambda: chance), list[float]()
    provider, reply = OpenAI("sk-test", "http://localhost/v1"), recorded(name)

    class Answering:
        async def send(self, method: str, *_: Any, **__: Any) -> Reply:
            if method == "POST":  # not the list of models that explains a 404
                moments.append(clock.monotonic())
            return reply

    async def ask(request: Request, http: Http) -> Any:
        return await provider.complete(request, Answering())

    request = Request(model=provider.model("m"), head=HEAD, turns=(Turn("user", "hi"),))
    with pytest.raises(ProviderError):
        await pool.complete(provider, request, Progress(), ask=ask)
    waits = [later - earlier for earlier, later in pairwise(moments)]
    assert waits == pytest.approx(WAITS.get(name, ([], []))[int(chance)], abs=0.011)
    await pool.aclose()
