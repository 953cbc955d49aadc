"""litellm: `acompletion` with a pydantic model as response format, over one shared session."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import litellm
from _clients.task import KEY, MODEL, MOST_AT_ONCE, Judge, Judgement, messages


@asynccontextmanager
async def opened(url: str, scratch: Path) -> AsyncGenerator[Judge]:
    connector = aiohttp.TCPConnector(limit=MOST_AT_ONCE, keepalive_timeout=600)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def call(text: str) -> Judgement:
            response = await litellm.acompletion(
                model=f"openai/{MODEL}",
                api_base=url,
                api_key=KEY,
                messages=messages(text),
                response_format=Judgement,
                shared_session=session,
            )
            return Judgement.model_validate_json(response.choices[0].message.content)

        yield call
