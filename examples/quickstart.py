"""The library on one screen. Needs OPENAI_API_KEY: `python quickstart.py`."""

import asyncio
from typing import Literal

import tanuki_async as tanuki


@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"] | None:
    """Classify the sentiment of a message, or None if it has none."""
    ...


@tanuki.align
async def align_classify() -> None:
    assert await classify("I love you") == "good"
    assert await classify("I hate you") == "bad"
    assert not await classify("People from Phoenix are called Phoenicians")


MESSAGES = ("What a day!", "Never again", "The train leaves at nine", "You made my week", "It broke after an hour")


async def main() -> None:
    await align_classify()  # records three examples; calls no model
    print("I like you:", await classify("I like you"))
    async for answer in tanuki.amap(classify, MESSAGES, concurrency=64):
        print(answer)


if __name__ == "__main__":
    asyncio.run(main())
