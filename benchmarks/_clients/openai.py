"""The openai SDK, `chat.completions.parse` with a pydantic model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import openai
from _clients.task import KEY, MODEL, MOST_AT_ONCE, Judge, Judgement, messages


def sdk(url: str) -> openai.AsyncOpenAI:
    """The client as its documentation tells to make one for many connections."""
    limits = httpx2.Limits(max_connections=MOST_AT_ONCE, max_keepalive_connections=MOST_AT_ONCE, keepalive_expiry=600)
    return openai.AsyncOpenAI(base_url=url, api_key=KEY, http_client=openai.DefaultAsyncHttpxClient(limits=limits))


@asynccontextmanager
async def opened(url: str, scratch: Path) -> AsyncGenerator[Judge]:
    async with sdk(url) as client:

        async def call(text: str) -> Judgement | None:
            completion = await client.chat.completions.parse(
                model=MODEL, messages=messages(text), response_format=Judgement
            )
            return completion.choices[0].message.parsed

        yield call
