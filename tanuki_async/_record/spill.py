"""What the recorder does with a local journal: lines go there from memory, and from there to storage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

from tanuki_async._errors import StorageError
from tanuki_async._record.journal import Journal, Part
from tanuki_async._record.waiting import Waiting

__all__ = ["Spill"]

T = TypeVar("T")
_MUCH = 1 << 20
"""Bytes that are enough for one good write."""
logger = logging.getLogger("tanuki_async.record")


class Spill:
    """A journal whose blocking work is done in threads, one piece at a time; without a journal, nothing waits here."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._turn = asyncio.Lock()
        self._failing = False
        self.adopted = False  # whether what others left was looked for
        self._left = 0  # lines that waited when it was closed
        self.fresh = 0  # bytes that came since somebody set this to none

    @property
    def exists(self) -> bool:
        """Tell whether there is a journal."""
        return self._journal is not None

    @property
    def lines(self) -> int:
        """How many lines wait in the journal, or waited when it was closed."""
        return self._left + (self._journal.lines if self._journal else 0)

    @property
    def lost(self) -> int:
        """How many lines are lost, as somebody deleted the files in which they waited."""
        return self._journal.lost if self._journal else 0

    @property
    def names(self) -> AbstractSet[str]:
        """The names of which lines wait in the journal."""
        return self._journal.names if self._journal else frozenset()

    @property
    def is_full(self) -> bool:
        """Tell whether enough came for one good write."""
        return self.fresh >= _MUCH

    def has(self, name: str) -> bool:
        """Tell whether lines of a name wait in the journal."""
        return self._journal is not None and self._journal.has(name)

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
        """Put lines into the journal, at the end or before all others. False where that fails, which is logged once."""
        return self.exists and self._kept(await self._attempt(lambda: self._add(lines, before=before)))

    async def take(self, waiting: Waiting, limit: int, *, queue: bool) -> bool:
        """Move lines, up to so many bytes, from memory to the journal; where that fails, they stay in memory.

        Those of names that fail go there and, if wanted, those of the queue.
        """
        if waiting.older and not await self._move(waiting, waiting.spill_older(), older=True):
            return False
        return await self._move(waiting, waiting.spill(limit, queue=queue), older=False)

    async def _move(self, waiting: Waiting, lines: Sequence[tuple[str, bytes]], *, older: bool) -> bool:
        kept = not lines

        def work() -> None:
            nonlocal kept
            self._add(lines, before=older)
            kept = True

        try:
            if lines:
                self._kept(await self._attempt(work))
        finally:  # also where cancelled, upon which the work went on to its end
            self.fresh += sum([len(line) for _, line in lines]) if kept else 0
            waiting.spilled(kept=kept, older=older)
        return kept

    def add_now(self, lines: Sequence[tuple[str, bytes]], *, before: bool = False) -> bool:
        """Put lines into the journal while everything ends and nothing else runs."""
        if not self.exists:
            return False
        try:
            self._add(lines, before=before)
        except StorageError as error:
            return self._kept(error)
        return True

    async def read(self, blocked: AbstractSet[str]) -> Part | None:
        """Return the oldest lines of other names, to be given to `done`. Raises StorageError."""
        journal = self._journal
        return None if journal is None else await self._run(lambda: journal.read(blocked))

    async def done(self, part: Part, left: Mapping[str, Sequence[bytes]], then: Callable[[], None]) -> None:
        """Keep only what is left of what was read, `then` say so, also when cancelled. Raises StorageError."""
        kept = False

        def work() -> None:
            nonlocal kept
            if self._journal is not None:
                self._journal.done(part, left)
            kept = True

        try:
            await self._run(work)
        finally:
            if kept:
                then()

    async def set_aside(self, name: str, line: bytes, why: StorageError) -> str:
        """Keep a line that storage refuses, and say where. Raises StorageError."""
        journal = self._journal
        if journal is None:
            return "lost, as this storage has no journal"
        path = await self._run(lambda: journal.set_aside(name, line, why))
        return f"kept in {path}; `tanuki verify --repair` sends it once more"

    async def close(self) -> None:
        """Let go of the journal; what still waits there is found by the next process."""
        await self._run(self.close_now)

    def close_now(self) -> None:
        """Do the same while everything ends and nothing else runs."""
        if self._journal is not None:
            self._left = self._journal.lines
            self._journal.close()

    def _add(self, lines: Sequence[tuple[str, bytes]], *, before: bool) -> None:
        if self._journal is not None and lines:
            (self._journal.add_before if before else self._journal.add)(lines)

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
