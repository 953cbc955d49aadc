"""What the tests of students that are models share: a teacher and cheap models on one server, and recorded calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import tanuki_async as tanuki
from tanuki_async._lines import encode_example
from tanuki_async._records import Example, JsonValue
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing.answers import ChatRequest


class Models:
    """Answers for several models: the teacher `small` knows the truth, the others as they are told to."""

    def __init__(self, truth: Callable[[Any], JsonValue]) -> None:
        self.truth = truth
        self.asked: dict[str, int] = {}
        self.others: dict[str, Callable[[ChatRequest], Any]] = {}
        self.shown: dict[str, list[int]] = {}

    def __call__(self, request: ChatRequest) -> Any:
        self.asked[request.model] = self.asked.get(request.model, 0) + 1
        self.shown.setdefault(request.model, []).append(shown(request))
        if request.model in self.others:
            return self.others[request.model](request)
        return {"value": self.truth(next(iter(request.arguments.values())))}


def shown(request: ChatRequest) -> int:
    """How many examples a request shows."""
    return sum(message["role"] == "assistant" for message in request.messages)


async def fill(storage: MemoryStorage, f: Any, inputs: list[Any], truth: Callable[[Any], JsonValue]) -> None:
    """Record calls of `f` as if they had been made before."""
    lines = [
        encode_example(Example(args=(each,), kwargs={}, output=truth(each), source="call", at="2026"))
        for each in inputs
    ]
    await storage.append(f"{tanuki.describe(f).hash}/PATCHES", lines)


async def until(f: Any, reached: Callable[[tanuki.Status], bool]) -> tanuki.Status:
    """Wait for what happens in the background."""
    async with asyncio.timeout(10):
        while not reached(found := await tanuki.status(f)):  # noqa: ASYNC110  # it learns in the background
            await asyncio.sleep(0.01)
        return found


async def serving(opened: tanuki.Tanuki, f: Any) -> tanuki.Status:
    """Wait until a student answers in this very process."""
    async with asyncio.timeout(10):
        while opened.desk(f.__tanuki__).apprentice.student() is None:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
    return await tanuki.status(f)
