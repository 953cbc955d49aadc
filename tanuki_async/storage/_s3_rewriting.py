"""Taking lines back from a name in S3: another log is written beside it, and takes its place in one step."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tanuki_async._errors import StorageError
from tanuki_async.storage._s3_objects import Objects
from tanuki_async.storage._s3_segments import Head, Segment
from tanuki_async.storage._seen import Filter

__all__ = ["Change", "Rewriting"]

Change: TypeAlias = Callable[[list[bytes]], list[bytes]]
_BATCH = 1 << 20
_TRIES = 3
"""So often others may be faster; then they are asked to wait."""


class Rewriting:
    """One pass of `change` over all lines of a name, those that come meanwhile included, a segment at a time.

    Segments of which nothing was left out are taken over as they are. Merging may go on beside it, as lines keep their
    numbers; a second rewriting may not, and whoever comes second fails and changes nothing.
    """

    def __init__(self, objects: Objects, change: Change) -> None:
        self._objects, self._change = objects, change
        self._begun: Head | None = None
        self._passed: list[_Passed] = []
        self._line = 0
        self._sent: list[Segment] = []
        self._tried = False
        self.gone = 0
        self.filter = Filter()
        """Over the lines that stay."""

    @property
    def lines(self) -> int:
        """How many stay of those that `change` has seen."""
        return self._line - self.gone

    async def run(self, turn: asyncio.Lock) -> tuple[Head, str] | None:
        """Return the new head and its version, or None where every line stays. `turn` keeps appends here waiting."""
        head, version = await self._objects.head()
        if version is None:
            if not await self._objects.strays():
                return None
            await self._objects.replace(head, None)  # begun here, the log has an era in which none of these are
            head, _ = await self._objects.head()
        try:
            await self._pass(self._checked(head))
            async with turn:  # now only what came meanwhile is left
                return await self._replace()
        except Exception:
            if not self._tried:  # else a head may name them, though nobody told; or a sweep finds them
                with contextlib.suppress(StorageError):
                    await self._objects.delete(self._sent)
            raise

    async def _replace(self) -> tuple[Head, str] | None:
        new, tries = Head.new(), 0
        while True:
            head, version = await self._objects.head()
            if head.id == new.id and version is not None:
                return head, version  # the answer got lost
            tries += 1
            if tries > _TRIES and not head.held:
                head = self._checked(head).holding()
                if (version := await self._objects.replace(head, version)) is None:
                    continue
            await self._pass(self._checked(head))
            if not self.gone and not await self._objects.strays():
                return None
            if (settled := await self._settled(head)) is None:
                continue
            new, self._tried = replace(new, segments=tuple(settled)), True
            if (version := await self._objects.replace(new, version)) is not None:
                return new, version

    def _checked(self, head: Head) -> Head:
        """Let a head pass that goes on from the one that was read first."""
        self._begun = self._begun or head
        if head.id != self._begun.id:
            raise StorageError(f"another process took lines of {self._objects.name!r} back meanwhile: try again")
        return head

    async def _pass(self, head: Head) -> None:
        """Show `change` the lines that it has not seen."""
        while self._line < head.lines:
            first, segment = next(head.after(self._line))
            lines = await self._objects.lines(segment)
            if lines is None:  # merged meanwhile
                before, (head, _) = head, await self._objects.head()
                if before == self._checked(head):
                    raise StorageError(f"{segment} of {self._objects.name!r} is gone: somebody deleted it")
                continue
            kept = await asyncio.to_thread(self._kept, lines[self._line - first :])
            await self._add(first + segment.lines, kept, head)

    def _kept(self, lines: list[bytes]) -> list[bytes]:
        kept: list[bytes] = []
        for batch in _batches(lines):
            kept += self._change(batch)
        self.filter.feed(kept)
        return kept

    async def _add(self, end: int, kept: list[bytes], head: Head) -> None:
        begin, self._line = self._line, end
        gone = end - begin - len(kept)
        self.gone += gone
        if gone:
            self._passed.append(_Passed(begin, end, await self._send(kept, head)))
        elif self._passed and self._passed[-1].segments is None:
            self._passed[-1] = replace(self._passed[-1], end=end)
        else:
            self._passed.append(_Passed(begin, end, None))

    async def _send(self, lines: list[bytes], head: Head) -> list[Segment]:
        """Write lines. Their segments' era is the old one, so that they are cleared away if they are never named."""
        sent = await self._objects.send(lines, head.era)
        self._sent += sent
        return sent

    async def _settled(self, head: Head) -> list[Segment] | None:
        """Say in which segments what stays is; None where these were merged just now."""
        settled: list[Segment] = []
        for passed in self._passed:
            if passed.segments is not None:
                settled += passed.segments
                continue
            for begin, end, segment in head.within(passed.begin, passed.end):
                if passed.begin <= begin and end <= passed.end:
                    settled.append(segment)
                    continue
                lines = await self._objects.lines(segment)  # merged with others, of which some go
                if lines is None:
                    return None
                settled += await self._send(lines[max(passed.begin - begin, 0) : passed.end - begin], head)
        return settled


@dataclass(frozen=True, slots=True)
class _Passed:
    """Lines that `change` has seen: in which segments what stays of them is, or None where all of them stay."""

    begin: int
    end: int
    segments: list[Segment] | None


def _batches(lines: Sequence[bytes]) -> Iterator[list[bytes]]:
    begin = size = 0
    for at, line in enumerate(lines):
        if size and size + len(line) > _BATCH:
            yield list(lines[begin:at])
            begin, size = at, 0
        size += len(line)
    if begin < len(lines):
        yield list(lines[begin:])
