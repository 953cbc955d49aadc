"""The openai SDK, `chat.completions.parse` with a pydantic model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
from _clients.task import KEY, MODEL, Judge, Judgement, messages


def sdk(url: str) -> openai.AsyncOpenAI:
    """The client as it is: it has room for 1,000 connections and keeps 100. To keep more makes it slower."""
    return openai.AsyncOpenAI(base_url=url, api_key=KEY)


@asynccontextmanager
async def opened(url: str, scratch: Path) -> AsyncGenerator[Judge]:
    async with sdk(url) as client:

        async def call(text: str) -> Judgement | None:
            completion = await client.chat.completions.parse(
                model=MODEL, messages=messages(text), response_format=Judgement
            )
            return completion.choices[0].message.parsed

        yield call
