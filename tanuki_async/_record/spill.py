"""What the recorder does with a local journal: lines go there from the queue, and from there to storage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from tanuki_async._errors import StorageError
from tanuki_async._record.delivery import Delivery
from tanuki_async._record.journal import Journal
from tanuki_async._record.waiting import Waiting

__all__ = ["Spill"]

T = TypeVar("T")
logger = logging.getLogger("tanuki_async.record")


class Spill:
    """A journal whose blocking work is done in threads, one piece at a time; without a journal, nothing waits here."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._turn = asyncio.Lock()
        self._failing = False
        self.adopted = False  # whether what others left was looked for

    @property
    def exists(self) -> bool:
        """Tell whether there is a journal."""
        return self._journal is not None

    @property
    def lines(self) -> int:
        """How many lines wait in the journal."""
        return self._journal.lines if self._journal else 0

    @property
    def is_full(self) -> bool:
        """Tell whether there is enough for one good write."""
        return self._journal is not None and self._journal.is_full

    async def adopt(self) -> int:
        """Take over what processes that died have left."""
        if self._journal is None:
            return 0
        try:
            adopted = await self._run(self._journal.adopt)
        except StorageError as error:
            logger.warning("what an earlier process left in the journal cannot be read: %s", error)
            return 0
        finally:
            self.adopted = True
        if adopted:
            logger.info("%d examples of a process that ended early are taken over from %s", adopted, self._journal.path)
        return adopted

    async def add(self, lines: Sequence[tuple[str, bytes]], *, before: bool = False) -> bool:
        """Put lines into the journal, at the end before all others. False where that fails, which is logged once."""
        journal = self._journal
        if journal is None:
            return False
        add = journal.add_before if before else journal.add
        return self._kept(await self._attempt(lambda: add(lines)))

    async def take(self, waiting: Waiting, limit: int) -> bool:
        """Move lines, up to so many bytes, from memory to the journal; where that fails, they stay in memory."""
        kept = False
        try:
            lines = waiting.spill(limit)
            kept = not lines or await self.add(lines)
        finally:
            waiting.spilled(kept=kept)
        return kept

    def add_now(self, lines: Sequence[tuple[str, bytes]], *, before: bool = False) -> bool:
        """Do the same while everything ends and nothing else runs."""
        if self._journal is None:
            return False
        try:
            if lines:
                (self._journal.add_before if before else self._journal.add)(lines)
        except StorageError as error:
            return self._kept(error)
        return True

    async def drain(self, delivery: Delivery) -> int:
        """Write the oldest part of the journal, and count its lines. StorageError tells of those that stay there."""
        journal = self._journal
        if journal is None:
            return 0
        oldest = await self._run(journal.oldest)
        problems: list[StorageError] = []
        for name, lines in list(oldest.items()):
            try:
                await delivery.deliver(name, lines)
                del oldest[name]
            except StorageError as error:  # the other names may do better
                problems.append(error)
        if problems:
            raise problems[0]
        return await self._run(journal.done)

    async def set_aside(self, name: str, line: bytes, why: StorageError) -> str:
        """Keep a line that storage refuses, and say where."""
        journal = self._journal
        if journal is None:
            return "lost"
        return f"kept in {await self._run(lambda: journal.set_aside(name, line, why))}"

    async def close(self) -> None:
        """Let go of the journal; what still waits there is found by the next process."""
        if self._journal is not None:
            await self._run(self._journal.close)

    def close_now(self) -> None:
        """Do the same while everything ends and nothing else runs."""
        if self._journal is not None:
            self._journal.close()

    async def _attempt(self, work: Callable[[], None]) -> StorageError | None:
        try:
            await self._run(work)
        except StorageError as error:
            return error
        return None

    async def _run(self, work: Callable[[], T]) -> T:
        """Work in a thread, to its end, also when the waiter is cancelled: the next work begins after that."""
        cancelled: asyncio.CancelledError | None = None
        async with self._turn:
            working = asyncio.ensure_future(asyncio.to_thread(work))
            while not working.done():
                try:
                    await asyncio.wait({working})
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            working.exception()  # seen
            raise cancelled
        return working.result()

    def _kept(self, error: StorageError | None) -> bool:
        if error is not None and not self._failing:
            logger.error("examples cannot wait in the local journal: %s", error)
        self._failing = error is not None
        return error is None
