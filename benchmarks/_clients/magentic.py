"""magentic: a decorated coroutine function. It always streams, and makes its own client, with room for 1,000."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from _clients.task import INSTRUCTION, KEY, MODEL, Judge, Judgement
from magentic import OpenaiChatModel, SystemMessage, UserMessage, chatprompt


@asynccontextmanager
async def opened(url: str, scratch: Path) -> AsyncGenerator[Judge]:
    @chatprompt(
        SystemMessage(INSTRUCTION), UserMessage("{text}"), model=OpenaiChatModel(MODEL, api_key=KEY, base_url=url)
    )
    async def judge(text: str) -> Judgement: ...

    yield judge
