"""Lines of one name in Redis are replaced: a draft is written beside them, and swapped for them in one step."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tanuki_async._bloom import stamped
from tanuki_async._errors import StorageError
from tanuki_async._lines import key_of
from tanuki_async.storage._redis_lines import Lines, batches
from tanuki_async.storage._redis_scripts import BEGIN, DROP, KEEP, SWAP

__all__ = ["Rewritten", "rewrite"]

_DRAFT_SECONDS = 60.0
"""How long a draft lives after its last batch: what a process leaves that dies vanishes by itself."""
_OLD_SECONDS = 60.0
"""How long the old lines stay for whoever is reading them."""
_HOLD_SECONDS = 2.0
"""For how long at most appends wait in which a draft that could not keep up takes in the last lines."""
_ROUNDS = 8
_BUSY_SECONDS = 0.1

Change = Callable[[list[bytes]], list[bytes]]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """How many lines were kept, and how many left out."""

    kept: int
    gone: int


async def rewrite(lines: Lines, change: Change, *, always: bool = False) -> Rewritten:
    """Leave out what `change` leaves out, which is given each line once. Unless `always`, not if that is nothing.

    Waits for another that rewrites the same name. On any failure the lines are as before; where only the answer to the
    last step is lost, or replicas that are waited for lack it, they may be rewritten, and doing it again does no harm.
    """
    draft = _Draft(lines, change, differs=always)
    await draft.begin()
    try:
        while True:
            await draft.follow()
            if not (draft.read and draft.differs):
                break
            if await draft.swap():
                return Rewritten(draft.kept, draft.gone)
    except BaseException:
        with contextlib.suppress(StorageError):
            await draft.drop()
        raise
    await draft.drop()
    return Rewritten(draft.read, 0)


class _Draft:
    """What is to take the place of a name's lines, and all that appending would know of them."""

    def __init__(self, lines: Lines, change: Change, *, differs: bool) -> None:
        self._lines, self._clients, self._change = lines, lines.clients, change
        self._owner = secrets.token_hex(8)
        self._generation = self._rounds = 0
        self.read = self.kept = self.gone = 0
        self.differs = differs  # until then nothing is written, as the lines are what they were

    async def begin(self) -> None:
        keys = [*self._lines.keys, *self._lines.draft_keys]
        while True:
            generation = await self._clients.run(BEGIN, keys, self._owner, _milliseconds(_DRAFT_SECONDS), wait=False)
            if generation >= 0:
                break
            await asyncio.sleep(_BUSY_SECONDS)
        self._generation = generation

    async def follow(self) -> None:
        """Take in the lines that came since."""
        end, generation = await self._lines.state()
        async for page in self._lines.pages(self.read, end, generation):
            kept = await asyncio.to_thread(self._change, page)
            if len(kept) < len(page) and not self.differs:
                self.differs = True
                async for same in self._lines.pages(0, self.read, generation):
                    await self._keep(same)
            await self._keep(kept if self.differs else ())
            self.read += len(page)
            self.gone += len(page) - len(kept)

    async def swap(self) -> bool:
        """Put the draft in the place of the lines, unless there are more lines than were read."""
        self._rounds += 1
        keys = [*self._lines.keys, *self._lines.draft_keys, self._lines.old_key(self._generation)]
        hold = _milliseconds(_HOLD_SECONDS) if self._rounds > _ROUNDS else 0
        numbers = self.read, self.kept, _milliseconds(_OLD_SECONDS), hold
        return self._still(await self._clients.run(SWAP, keys, self._owner, *numbers)) == self.read

    async def drop(self) -> None:
        await self._clients.run(DROP, self._lines.draft_keys, self._owner, wait=False)

    async def _keep(self, lines: Sequence[bytes]) -> None:
        """Write lines to the draft; with none, only let it live on."""
        for batch in batches(lines) if lines else ((),):
            stamps = b"".join(stamped(map(key_of, batch)))
            told = self.kept, self._owner, _milliseconds(_DRAFT_SECONDS)
            self.kept = self._still(
                await self._clients.run(KEEP, self._lines.draft_keys, stamps, b"\n".join(batch), *told, wait=False)
            )

    def _still(self, told: int) -> int:
        if told < 0:
            raise StorageError(
                f"the lines of {self._lines.name!r} at {self._clients.place} were not rewritten, and are as before: "
                "the draft was lost, by a failover, a deletion, or a pause of a minute; do it again"
            )
        return told


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
