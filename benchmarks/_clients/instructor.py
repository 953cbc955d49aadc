"""instructor over the openai SDK, in the mode that it recommends for OpenAI: tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import instructor
from _clients.openai import sdk
from _clients.task import MODEL, Judge, Judgement, messages


@asynccontextmanager
async def opened(url: str, scratch: Path) -> AsyncGenerator[Judge]:
    async with sdk(url) as client:
        patched = instructor.from_openai(client)

        async def call(text: str) -> Judgement:
            return await patched.chat.completions.create(model=MODEL, messages=messages(text), response_model=Judgement)

        yield call
