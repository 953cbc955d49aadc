"""Every error that is recorded of a provider, sent through the real transport and the pool: what becomes of it.

For each: the class of our error, how many requests are made, and how long a lone call waits between them, without
chance and with the longest waits that chance may choose.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tanuki_async._errors import (
    AuthenticationError,
    ProviderError,
    ProviderUnavailableError,
    QuotaExceededError,
    RateLimitedError,
    RequestRejectedError,
)
from tanuki_async._pool.http import Connections
from tanuki_async._pool.pool import Pool, Progress
from tanuki_async._records import AnswerSchema, Head, Reply, Request, Turn
from tanuki_async.abc import Provider
from tanuki_async.providers.anthropic import Anthropic
from tanuki_async.providers.anyscale import Anyscale
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.providers.together import TogetherAI
from tanuki_async.testing import FakeClock, LoopbackServer
from tanuki_async.testing.loopback import fixture_reply

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

FIXTURES = Path(__file__).parent / "fixtures"
KEY = "sk-very-secret-0123456789"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "string"}},
    "required": ["value"],
    "additionalProperties": False,
}
HEAD = Head(function="f", system="Answer in JSON.", answer=AnswerSchema(name="f", schema=SCHEMA, strict=True))

MAKERS: dict[str, Callable[[str], Provider]] = {
    "openai": lambda url: OpenAI(KEY, url),
    "together": lambda url: TogetherAI(KEY, url),
    "anyscale": lambda url: Anyscale(KEY, url),
    "anthropic": lambda url: Anthropic(KEY, url),
    "gemini": lambda url: OpenAICompatible(url, name="gemini", api_key=KEY),
}


@dataclass(frozen=True)
class Expected:
    kind: type[ProviderError]
    waits: tuple[float, ...] = ()
    longest_waits: tuple[float, ...] = ()


def backed_off(kind: type[ProviderError] = ProviderUnavailableError) -> Expected:
    return Expected(kind, (0.0,) * 5, (0.5, 1, 2, 4, 8))


def told(kind: type[ProviderError], seconds: float) -> Expected:
    """A wait that the server asks for holds for all calls; what chance adds for one of them is up meanwhile, or later."""
    longest = [max(seconds, 0.1 * seconds + more) for more in (0, 0.5, 1, 2, 4)]
    return Expected(kind, (seconds,) * 5, tuple(longest))


REJECTED, DENIED, EMPTY = Expected(RequestRejectedError), Expected(AuthenticationError), Expected(QuotaExceededError)

EXPECTED: dict[str, Expected] = {
    "openai/error_400_context_length": REJECTED,
    "openai/error_400_invalid_schema": REJECTED,
    "openai/error_400_unsupported_parameter": REJECTED,
    "openai/error_401_invalid_api_key": DENIED,
    "openai/error_403_training_not_available": DENIED,
    "openai/error_404_model_not_found": REJECTED,
    "openai/error_429_insufficient_quota": EMPTY,
    "openai/error_429_rate_limit": told(RateLimitedError, 0.034),
    "openai/error_500": backed_off(),
    "openai/error_503_overloaded": told(ProviderUnavailableError, 5),
    "together/error_400_context_length": REJECTED,
    "together/error_400_invalid_schema": REJECTED,
    "together/error_402_credit": EMPTY,
    "together/error_429_rate_limit": told(RateLimitedError, 2),
    "together/error_500": backed_off(),
    "together/error_503_overloaded": backed_off(),
    "anyscale/errors/400_wrapped": REJECTED,
    "anyscale/errors/400_flat": REJECTED,
    "anyscale/errors/404_unknown_model": REJECTED,
    "anyscale/errors/429_backpressure": told(RateLimitedError, 1),
    "anyscale/errors/500": backed_off(),
    "anyscale/errors/503_service_starting": backed_off(),
    "anthropic/error_400_invalid_schema": REJECTED,
    "anthropic/error_400_temperature": REJECTED,
    "anthropic/error_429_rate_limit": told(RateLimitedError, 11),
    "anthropic/error_429_spend_limit": EMPTY,
    "anthropic/error_500": backed_off(),
    "anthropic/error_529_overloaded": backed_off(),
    "gemini/errors/400_array": REJECTED,
    "gemini/errors/429": told(RateLimitedError, 23),
    "gemini/errors/500": backed_off(),
    "gemini/errors/503": backed_off(),
    "gemini/402": EMPTY,
}


def recorded() -> Iterator[tuple[str, Reply]]:
    for path in sorted(FIXTURES.glob("*/error*.json")):
        if path.parent.name == "bedrock":  # a shape of its own, on two doors: see test_providers_bedrock.py
            continue
        name, content = f"{path.parent.name}/{path.stem}", json.loads(path.read_text())
        if path.stem == "errors":
            for key, answer in content.items():
                if isinstance(answer, dict):
                    answer = {**answer, "body": answer["text"]} if "text" in answer else answer
                    yield f"{name}/{key}", fixture_reply(answer)
            continue
        for body in [content["body"], *content.get("variants", [])]:
            yield name, fixture_reply({**content, "body": body})
    no_funds = {"error": {"code": 402, "message": "No funds.", "status": "FAILED_PRECONDITION"}}
    yield "gemini/402", fixture_reply({"status": 402, "body": [no_funds]})


def test_every_recorded_error_is_in_the_table_and_the_other_way_round() -> None:
    assert {name for name, _ in recorded()} == EXPECTED.keys()


@pytest.mark.parametrize("chance", [0.0, 1.0])
@pytest.mark.parametrize(
    ("name", "reply"),
    [pytest.param(name, reply, id=f"{name}-{place}") for place, (name, reply) in enumerate(recorded())],
)
async def test_a_recorded_error_becomes_ours_after_the_documented_tries_and_waits(
    name: str, reply: Reply, chance: float
) -> None:
    expected, clock, moments = EXPECTED[name], FakeClock(autojump=0), list[float]()
    pool = Pool(Connections(), clock=clock, random=lambda: chance)

    def answer(_: object) -> Reply:
        moments.append(clock.monotonic())
        return reply

    async with LoopbackServer(answer) as server:
        provider = MAKERS[name.partition("/")[0]](server.url)
        request = Request(model=provider.model("m"), head=HEAD, turns=(Turn("user", "hi"),))
        with pytest.raises(ProviderError) as caught:
            await pool.complete(provider, request, Progress())
    error = caught.value
    assert type(error) is expected.kind
    waits = [later - earlier for earlier, later in pairwise(moments)]
    assert waits == pytest.approx(expected.longest_waits if chance else expected.waits, abs=0.011)
    assert (error.provider, error.model, error.status) == (provider.name, "m", reply.status)
    assert error.request_id == (reply.headers.get("x-request-id") or reply.headers.get("request-id"))
    assert len(error.tried) == len(moments)
    assert KEY not in f"{error!r}{error}"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert pool.statistics().in_flight == pool.statistics().http.in_flight == 0
    await pool.aclose()
