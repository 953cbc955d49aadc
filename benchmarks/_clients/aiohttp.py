"""aiohttp as it is, by hand: no retries, no limits, nothing kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from _clients.task import KEY, MOST_AT_ONCE, Judge, Judgement, body, judgement


@asynccontextmanager
async def opened(url: str, scratch: Path) -> AsyncGenerator[Judge]:
    connector = aiohttp.TCPConnector(limit=MOST_AT_ONCE, keepalive_timeout=600)
    headers = {"authorization": f"Bearer {KEY}"}
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:

        async def call(text: str) -> Judgement:
            async with session.post(f"{url}/chat/completions", json=body(text)) as response:
                response.raise_for_status()
                return judgement(await response.read())

        yield call
