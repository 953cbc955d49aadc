"""The work of the demonstration: real messages through one patched coroutine, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import tanuki_async as tanuki
from tanuki_async._records import Completion, Request
from tanuki_async.abc import Http
from tanuki_async.providers.openai import OpenAI

Who = Literal["teacher", "student"]

ANSWER_TOKENS = 512
"""Tokens of one answer at most, thinking included: what bounds the price of a run with a real teacher."""
LOOK = 0.25
"""Seconds between two looks at the phase and the bill."""


@tanuki.patch(generation_params={"max_new_tokens": ANSWER_TOKENS})
async def classify_sms(text: str) -> Literal["spam", "ham"]:
    """Tell spam from ham in text messages.

    Spam is what nobody asked for: advertising, prizes, premium-rate numbers, chat lines, ringtones. Ham is whatever
    people and the services they use write to them, however short, coarse or misspelled.
    """
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Answered:
    """One call: who answered, whether the answer is the label of the set, after how many seconds."""

    by: Who
    right: bool
    seconds: float


@dataclass(slots=True)
class Progress:
    """How far the run is."""

    total: int
    started: float
    answers: list[Answered] = field(default_factory=list[Answered])
    counts: Counter[Who] = field(default_factory=Counter[Who])
    failed: int = 0
    takeover: tuple[int, float] | None = None  # calls answered and seconds gone when the student answered first
    status: tanuki.Status = field(kw_only=True)
    spent_before: float = field(kw_only=True)
    trainings_before: int = field(kw_only=True)

    @property
    def done(self) -> int:
        """Calls that have ended."""
        return len(self.answers) + self.failed

    @property
    def cost(self) -> float:
        """US dollars that this run has cost, as far as the last look shows."""
        return self.status.cost - self.spent_before

    def count(self, answered: Answered | None) -> None:
        """Take note of one call; None is one that failed."""
        if answered is None:
            self.failed += 1
            return
        self.answers.append(answered)
        self.counts[answered.by] += 1
        if answered.by == "student" and self.takeover is None:
            self.takeover = len(self.answers), time.monotonic() - self.started


Screen = Callable[[Progress], None]
"""Shows how far the run is; called after each call and after each look."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: its calls, and the function's status before and after."""

    progress: Progress
    seconds: float
    before: tanuki.Status
    after: tanuki.Status


async def run(
    messages: Sequence[tuple[str, str]], *, place: str, teacher: OpenAI, concurrency: int, screen: Screen
) -> Outcome:
    """Send all messages through `classify_sms`, as any program would, and watch."""
    async with tanuki.Tanuki(storage=place, providers=[teacher]) as opened:
        before = await tanuki.status(classify_sms)
        progress = Progress(
            len(messages),
            time.monotonic(),
            status=before,
            spent_before=before.cost,
            trainings_before=before.trainings,
        )
        screen(progress)
        async with _looking(progress, screen):
            async for answered in tanuki.amap(_measured, messages, concurrency=concurrency, ordered=False):
                progress.count(answered)
                screen(progress)
            seconds = time.monotonic() - progress.started
        while opened.statistics().pool.in_flight:  # noqa: ASYNC110  # the last audits, which nobody awaits
            await asyncio.sleep(LOOK / 10)
        return Outcome(progress, seconds, before, await tanuki.status(classify_sms))


async def _measured(text: str, label: str) -> Answered | None:
    _asked.set(False)
    started = time.perf_counter()
    try:
        answer = await classify_sms(text)
    except (tanuki.OutputError, tanuki.RefusalError, tanuki.CallTimeoutError):
        return None  # one message that a real teacher cannot deal with does not end the run
    return Answered("teacher" if _asked.get() else "student", answer == label, time.perf_counter() - started)


_asked: ContextVar[bool] = ContextVar("asked")


class Watched(OpenAI):
    """OpenAI, or a server like it, that leaves a mark in the context of each call that reaches it.

    A call whose context has no mark was answered by the student. Audits run in contexts of their own.
    """

    async def complete(self, request: Request, http: Http) -> Completion:
        """Ask once, having left the mark."""
        _asked.set(True)
        return await super().complete(request, http)


@contextlib.asynccontextmanager
async def _looking(progress: Progress, screen: Screen) -> AsyncGenerator[None]:
    async def look() -> None:
        while True:
            await asyncio.sleep(LOOK)
            progress.status = await tanuki.status(classify_sms)
            screen(progress)

    task = asyncio.create_task(look(), name="tanuki demo look")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()
