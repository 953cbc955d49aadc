"""tanuki_async as it is installed, everything on: limits, validation, recording to disk, the filter."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from _clients.task import KEY, MODEL, Judge, Judgement

import tanuki_async as tanuki
from tanuki_async.providers.openai import OpenAICompatible

LIMITS = tanuki.Limits(requests_per_minute=1e9, tokens_per_minute=1e12, concurrency=10_000)


@tanuki.patch(timeout=600)
async def judge(text: str) -> Judgement:
    """Tell whether a message is good, bad or neutral news for the shop, and how sure you are, from 0 to 1."""


@asynccontextmanager
async def opened(url: str, scratch: Path) -> AsyncGenerator[Judge]:
    provider = OpenAICompatible(url, name="local", api_key=KEY, limits=LIMITS)
    async with tanuki.Tanuki(storage=str(scratch), providers=[provider], teacher_models=f"local:{MODEL}"):
        yield judge
