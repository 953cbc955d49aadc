"""One watched function as this process sees it: who serves it now, and what audits showed since the last look."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import TypeAlias

from tanuki_async._distill import evaluate
from tanuki_async._distill.course import Learner
from tanuki_async._distill.evaluate import Audits
from tanuki_async._distill.state import State, Task
from tanuki_async.abc import Student

Note: TypeAlias = tuple[bool, bool]
"""Whether an answer agreed, and whether it was not even of the declared type."""

PENDING = 1000
"""Audits kept while storage cannot be reached; beyond, the oldest are forgotten."""


class Watched:
    """What a call asks of distillation. Asking costs no look at storage, so it may be as old as one poll."""

    def __init__(self, task: Task, random: Random, settle: Callable[[Watched], Awaitable[None]]) -> None:
        self.task = task
        self.state = State()
        self.seen = 0  # examples counted in storage, and those written here since
        self.enough = 0  # examples below which there is no use in trying again
        self.unable: str | None = "it was not looked at yet"  # why it cannot be learnt here
        self.rungs: list[Learner] = []  # ways of learning it here, cheapest first
        self.used = True  # since the last poll
        self.unreadable = False  # its state, at the last look
        self.counted_at = 0.0
        self.rest_until = 0.0  # moment before which no step is tried here
        self.step: asyncio.Task[State] | None = None
        self.serving: Student | None = None
        self.serving_key: str | None = None
        self.withdrawn: str | None = None  # a student's key whose end was told
        self.refused: str | None = None  # a student's key that is not to be used here
        self.pending = self.fresh()
        self._random = random
        self._settle = settle

    def student(self) -> Student | None:
        """Whoever serves now."""
        self.used = True
        return self.serving

    def due_audit(self) -> bool:
        """Draw whether this answer of the student shall be checked."""
        return self._random.random() < self.task.audit_rate

    async def audited(self, *, agreed: bool) -> None:
        """Take note of one check. A disagreement is told to all processes now, an agreement at the next poll."""
        await self._note(agreed=agreed, fault=False)

    async def fault(self) -> None:
        """Take note of an answer that did not fit the type."""
        await self._note(agreed=False, fault=True)

    async def _note(self, *, agreed: bool, fault: bool) -> None:
        if self.serving_key is None:
            return  # it was reverted while the teacher was asked
        self.pending.append((agreed, fault))
        if agreed:
            return
        if evaluate.must_revert(add_up(self.state.audits, self.pending, self.task.min_agreement)):
            self.dismiss(refuse=True)  # here at once, whatever storage does
        await self._settle(self)

    @staticmethod
    def fresh() -> deque[Note]:
        """Return an empty place for audits."""
        return deque(maxlen=PENDING)

    def dismiss(self, *, refuse: bool = False) -> None:
        """Let the teacher answer all; `refuse` keeps this student away even if storage still names it."""
        if refuse and self.serving_key is not None:  # it may have been dismissed already
            self.refused = self.serving_key
        self.serving = self.serving_key = None


def add_up(audits: Audits, noted: Iterable[Note], min_agreement: float) -> Audits:
    """Add audits to what is known."""
    for agreed, fault in noted:
        audits = evaluate.audit(audits, agreed=agreed, fault=fault, min_agreement=min_agreement)
    return audits
