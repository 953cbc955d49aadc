"""pydantic-ai: an Agent with an output type, over the client of the openai SDK."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from _clients.openai import sdk
from _clients.task import INSTRUCTION, MODEL, Judge, Judgement
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


@asynccontextmanager
async def opened(url: str, scratch: Path) -> AsyncGenerator[Judge]:
    async with sdk(url) as client:
        model = OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))
        agent = Agent(model, output_type=Judgement, instructions=INSTRUCTION)

        async def call(text: str) -> Judgement:
            return (await agent.run(text)).output

        yield call
