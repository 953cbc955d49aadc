"""httpx as it is, by hand: no retries, no limits, nothing kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from _clients.task import KEY, MOST_AT_ONCE, Judge, Judgement, body, judgement


@asynccontextmanager
async def opened(url: str, scratch: Path) -> AsyncGenerator[Judge]:
    # 20 connections are kept by default. To keep more is much slower: each request looks at all that are kept.
    limits = httpx.Limits(max_connections=MOST_AT_ONCE, max_keepalive_connections=20)
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=600) as client:

        async def call(text: str) -> Judgement:
            response = await client.post("/chat/completions", json=body(text))
            response.raise_for_status()
            return judgement(response.content)

        yield call
