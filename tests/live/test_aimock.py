"""A mock of OpenAI that others wrote: what we send and read is what they think it is too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest

import tanuki_async as tanuki
from tanuki_async import QuotaExceededError, RateLimitedError
from tanuki_async.providers.openai import OpenAI

pytest_plugins = ["live_servers"]
pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]


@tanuki.patch(timeout=5)
async def classify(text: str) -> Literal["good", "bad"]:
    """Classify the sentiment of a message."""


@tanuki.patch
async def complaints(text: str) -> AsyncIterator[str]:
    """List what the customer complains about."""


def opened(aimock: str, *, responses: bool) -> tanuki.Tanuki:
    openai = OpenAI("mock", aimock, responses=responses)
    return tanuki.Tanuki(storage="memory:", providers=[openai], teacher_models="openai:gpt-6-luna")


@pytest.mark.parametrize("responses", [False, True])
async def test_a_patched_function_is_answered(aimock: str, responses: bool) -> None:
    async with opened(aimock, responses=responses):
        assert await classify("I love it") == "good"
        assert (await tanuki.status(classify)).usage.requests == 1


@pytest.mark.parametrize("responses", [False, True])
async def test_a_stream_gives_item_by_item(aimock: str, responses: bool) -> None:
    async with opened(aimock, responses=responses):
        items = [item async for item in await complaints("stream these")]
    assert items == ["late", "cold", "the waiter sang"]


@pytest.mark.parametrize("responses", [False, True])
async def test_errors_are_told_apart(aimock: str, responses: bool) -> None:
    async with opened(aimock, responses=responses):
        with pytest.raises(QuotaExceededError):
            await classify("no credit")
        with pytest.raises((RateLimitedError, tanuki.CallTimeoutError)):
            await classify("too much")


async def test_vectors_come_back(aimock: str) -> None:
    @tanuki.patch
    async def embedded(text: str) -> tanuki.Embedding[list[float]]:
        """Embed a message."""

    async with opened(aimock, responses=False):
        assert len(await embedded("I love it")) > 10
