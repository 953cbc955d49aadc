"""One pass over all that waits, in memory and in the journal: each name in its order, none waiting for another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from tanuki_async._errors import StorageError
from tanuki_async._record.delivery import Delivered, Delivery
from tanuki_async._record.journal import Part
from tanuki_async._record.spill import Spill
from tanuki_async._record.waiting import Waiting
from tanuki_async._record.waits import all_of

__all__ = ["Writer"]

_GROUP_BYTES = 4 << 20


class Writer:
    """Takes lines from where they wait, hands them to storage, and settles what became of them.

    A name that fails is left alone for the rest of the pass. Its lines in memory go to the journal, if there is one.
    With `journal_first` all do before storage is asked, as its answer may take long, and a kill comes at any time.
    """

    def __init__(self, waiting: Waiting, spill: Spill, delivery: Delivery, *, journal_first: bool = False) -> None:
        self._waiting, self._spill, self._delivery = waiting, spill, delivery
        self._journal_first = journal_first
        self._moving = asyncio.Lock()  # held while lines go to the journal, so that none overtakes them
        self._settled = 0  # lines that are written, or set aside

    @property
    def lines(self) -> int:
        """How many lines wait."""
        return len(self._waiting) + self._spill.lines

    async def move_to_journal(self, *, queue: bool) -> bool:
        """Move lines from memory to the journal: of names that fail and, if wanted, of the queue. Tell if it went."""
        async with self._moving:
            return await self._spill.take(self._waiting, _GROUP_BYTES, queue=queue)

    async def write(self, *, resting: bool) -> dict[str, StorageError]:
        """Write as many lines as wait now; return the names whose lines still wait, and why.

        With `resting`, names whose pause has not ended are left alone. Only one task at a time may do this.
        """
        troubles = self._delivery.troubles
        blocked = troubles.resting() if resting else {}
        target = self._settled + self.lines
        while self._settled < target and await self._write_some(blocked):
            pass
        if troubles and not self.goes(blocked):
            troubles.keep(self._waiting.names() | self._spill.names)
        return blocked

    def goes(self, blocked: Mapping[str, StorageError]) -> bool:
        """Tell whether lines wait that are not of these names."""
        return self._waiting.goes(blocked) or not self._spill.names <= blocked.keys()

    async def _write_some(self, blocked: dict[str, StorageError]) -> bool:
        """Write the oldest lines of names that are not blocked. False where there are none."""
        async with self._moving:  # only to choose: the journal must take lines while storage hangs
            if self._journal_first:
                await self._spill.take(self._waiting, _GROUP_BYTES, queue=True)
            batch = self._waiting.take_older(_GROUP_BYTES, blocked)
            from_journal = not batch and not self._spill.names <= blocked.keys()
            if not batch and not from_journal:
                batch = self._waiting.take(_GROUP_BYTES, blocked)
        if from_journal:
            await self._write_from_journal(blocked)
        elif batch:
            await self._write_from_memory(batch, blocked)
        return from_journal or bool(batch) or bool(self._waiting.queue)

    async def _write_from_memory(self, batch: Mapping[str, list[bytes]], blocked: dict[str, StorageError]) -> None:
        await all_of(*[self._write_name(name, lines, blocked) for name, lines in batch.items()])

    async def _write_name(self, name: str, lines: list[bytes], blocked: dict[str, StorageError]) -> None:
        left: Sequence[bytes] = lines  # where cancelled, it may be written: writing it again does no harm
        try:
            delivered = await self._delivery.deliver(name, lines)
            left = delivered.left
            self._settle({name: delivered}, len(lines), blocked)
        finally:
            self._waiting.land(name, left, journal=self._spill.has(name))

    async def _write_from_journal(self, blocked: dict[str, StorageError]) -> None:
        try:
            part = await self._spill.read(blocked.keys())
            if part is not None:
                await self._write_part(part, blocked)
        except StorageError as error:  # of the journal itself
            for name in self._spill.names - blocked.keys():
                self._delivery.troubles.stalled(name, error)
                blocked[name] = error

    async def _write_part(self, part: Part, blocked: dict[str, StorageError]) -> None:
        names = list(part.lines)
        delivered = await all_of(*[self._delivery.deliver(name, part.lines[name]) for name in names])
        by_name = dict(zip(names, delivered, strict=True))
        lines = sum(map(len, part.lines.values()))
        left = {name: each.left for name, each in by_name.items()}
        await self._spill.done(part, left, lambda: self._settle(by_name, lines, blocked))

    def _settle(self, delivered: Mapping[str, Delivered], lines: int, blocked: dict[str, StorageError]) -> None:
        """Count what no longer waits, and block the names that failed."""
        self._settled += lines - sum(len(each.left) for each in delivered.values())
        for name, each in delivered.items():
            self._delivery.count(each)
            if each.left and each.error is not None:
                blocked[name] = each.error
