"""One program for every provider: only the model's name changes.

    python any_provider.py                                  # a server on this machine that plays a model; needs no key
    python any_provider.py openai:gpt-6-luna                # needs OPENAI_API_KEY
    python any_provider.py together:Qwen/Qwen3.5-9B         # needs TOGETHER_API_KEY
    python any_provider.py gemini:gemini-3.5-flash-lite     # needs GEMINI_API_KEY
    python any_provider.py anthropic:claude-haiku-5-5       # needs ANTHROPIC_API_KEY
    python any_provider.py bedrock:us.amazon.nova-lite-v1:0 # needs AWS_REGION and AWS credentials
    python any_provider.py ollama:qwen3                     # needs Ollama on this machine

Several names are asked one after the other. `tanuki models` lists what is known of each.
"""

import asyncio
import sys
from typing import Annotated, Literal

from pydantic import BaseModel, Field

import tanuki_async as tanuki
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.testing import ChatRequest, LoopbackServer


class Ticket(BaseModel):
    topic: Literal["delivery", "payment", "other"]
    urgency: Annotated[int, Field(ge=1, le=5)]


@tanuki.patch
async def triage(text: str) -> Ticket:
    """Say what a support ticket is about, and how urgent it is from 1 to 5."""
    ...


@tanuki.align
async def align_triage() -> None:
    assert await triage("I was charged twice!") == Ticket(topic="payment", urgency=4)


async def answer(model: str) -> None:
    await align_triage()
    ticket = await triage("My parcel never came")
    status = await tanuki.status(triage)
    price = "unknown" if status.unpriced else f"${status.cost:.6f}"
    print(f"{model}: {ticket.topic}, urgency {ticket.urgency}; cost {price}")


def play(request: ChatRequest) -> dict[str, str | int]:
    """Answer as a model would, for who has none at hand."""
    return {"topic": "delivery" if "parcel" in request.text else "other", "urgency": 3}


async def main(*models: str) -> None:
    for model in models:
        async with tanuki.Tanuki(teacher_models=model):
            await answer(model)
    if not models:
        async with LoopbackServer(play) as server:
            here = OpenAICompatible(server.url, name="here")
            async with tanuki.Tanuki(providers=[here], teacher_models="here:played"):
                await answer("here:played")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
