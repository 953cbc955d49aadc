"""An application for a simulated day: functions of every kind, and a server with its weather."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from typing import Any, Literal

import tanuki_async as tanuki
from tanuki_async import Budget, Embedding, Hedge
from tanuki_async.testing import Fault
from tanuki_async.testing.answers import ChatRequest

A_DAY = 6  # requests that `rationed` may make a day
SPAM = ["pills", "money", "winner", "casino", "prize", "bonus"]
HAM = ["meeting", "budget", "noon", "agenda", "report", "train"]


@tanuki.patch(ignore_finetuning=True)
async def plain(text: str) -> int:
    """Count the letters."""


@tanuki.patch(hedge=Hedge(after=0.9, share=0.1), ignore_finetuning=True)
async def hedged(text: str) -> int:
    """Count the letters, soon."""


@tanuki.patch(single_flight=True, ignore_finetuning=True)
async def shared(text: str) -> int:
    """Count the letters, once."""


@tanuki.patch(cache="memory", ignore_finetuning=True)
async def cached(text: str) -> int:
    """Count the letters, or remember."""


@tanuki.patch(budget=Budget(requests=A_DAY, per="day"), ignore_finetuning=True)
async def rationed(text: str) -> int:
    """Count the letters, for money."""


@tanuki.patch(ignore_finetuning=True)
async def streamed(text: str) -> AsyncIterator[int]:
    """List the lengths of the words."""


@tanuki.patch
async def embedded(text: str) -> Embedding[list[float]]:
    """Embed."""


@tanuki.patch(student_model="local", distill_after=25, audit_rate=0.2, min_agreement=0.8)
async def sorted_out(text: str) -> Literal["spam", "ham"]:
    """Tell spam from what is wanted."""


@tanuki.patch(teacher_models="soak:old", ignore_finetuning=True)
async def outdated(text: str) -> int:
    """Count the letters, as long as it goes."""


FUNCTIONS: dict[Any, int] = {
    plain: 1, hedged: 1, shared: 1, cached: 1, rationed: 1, streamed: 1, embedded: 1, outdated: 1, sorted_out: 4,
}  # fmt: skip
"""What is called, how often beside the others."""


class Weather:
    """What the server does in the course of a day."""

    def __init__(self, draw: Random) -> None:
        self.draw = draw
        self.sent: Counter[str] = Counter()

    async def __call__(self, request: ChatRequest) -> object:
        kind = self.draw.choices(["good", "429", "500", "503", "cut", "wrong", "hang"], [90, 3, 2, 2, 1, 1, 0.5])[0]
        self.sent[kind] += 1
        await asyncio.sleep(self.draw.lognormvariate(-0.5, 0.8))
        text = request.arguments.get("text", "")
        if "spam" in request.system:
            value: Any = "spam" if any(word in text for word in SPAM) else "ham"
        else:
            value = [len(word) for word in text.split()] if "List" in request.system else len(text)
        return {
            "429": Fault.status(429, retry_after=self.draw.choice([1, 5, 20])), "500": Fault.status(500),
            "503": Fault.status(503, retry_after_ms=700), "cut": Fault.cut_midway(), "wrong": "I do not know",
            "hang": Fault.hang(), "good": {"value": value},
        }[kind]  # fmt: skip
