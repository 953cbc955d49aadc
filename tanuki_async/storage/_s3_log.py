"""One name in S3: immutable segments, and a head that lists them and is replaced only by whoever has read it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tanuki_async._bloom import BloomError
from tanuki_async._errors import StorageError
from tanuki_async.abc import Appended
from tanuki_async.storage._s3_bucket import Bucket
from tanuki_async.storage._s3_objects import Objects, Saved
from tanuki_async.storage._s3_rewriting import Change, Rewriting
from tanuki_async.storage._s3_segments import Head, Segment, mergeable
from tanuki_async.storage._seen import Filter, Index, Newest

__all__ = ["Log", "Reading"]

_SAVE_EVERY = 50_000
_STALE = 600.0
"""Seconds after which what was sent, but is in no head yet, is sent again: others may have cleared it away."""
_HELD = 5.0
"""Seconds that a writer waits for a rewriting that asks for it: one that was killed asks for ever."""
_LOOK_EVERY = 0.1
logger = logging.getLogger("tanuki_async.storage")


@dataclass(slots=True)
class Reading:
    """How far somebody has read: the number of the next line, and of the one that comes after the last."""

    line: int
    end: int = 0
    head: Head | None = None
    began: bool = False


@dataclass(slots=True)
class _Position:
    """How far an index has read which log."""

    index: Index
    id: str = ""
    lines: int = 0


class Log:
    """The lines of one name. Belongs to one event loop; many processes elsewhere may write.

    A writer adds segments, then replaces the head that it has read, or learns that another was first; so it has seen
    all lines that come before its own, and none is there twice. Merging keeps the lines, in order, under their numbers;
    rewriting begins another log, which is known by its `id`.
    """

    def __init__(self, bucket: Bucket, name: str) -> None:
        self.objects = Objects(bucket, name)
        self._turn = asyncio.Lock()
        self._head = Head.new()
        self._version: str | None = None
        self._filter: _Position | None = None
        self._newest: _Position | None = None
        self._saved = 0

    async def append(self, lines: Sequence[bytes], *, latest: bool) -> Appended:
        """Add what is new."""
        async with self._turn:
            position = self._position(latest=latest)
            looked = latest or self._version is None or not lines
            if looked:
                await self._refresh()
            sent: _Sent | None = None
            while True:
                await self._let_pass()
                await self._catch_up(position)
                fresh, take_in = position.index.fresh(lines)
                if sent is not None and not sent.fits(fresh, self._head):
                    await self._take_back(sent)  # others wrote some of these meanwhile
                    sent = None
                if fresh:
                    sent = sent or await self._send(fresh)
                    if await self._commit(sent.segments):
                        take_in()
                        position.lines += len(fresh)
                        break
                elif looked:
                    break
                else:
                    await self._refresh()  # what seems to be there may have been taken back
                looked = True
            return Appended(len(fresh), len(lines) - len(fresh))

    async def count(self) -> int:
        """Count the lines."""
        head, _ = await self.objects.head()
        return head.lines

    async def read(self, reading: Reading) -> list[bytes]:
        """Return the next lines, of one segment; none at the end of what was there when reading began."""
        if reading.head is None:
            reading.head, _ = await self.objects.head()
            reading.end = reading.head.lines
        while reading.line < reading.end:
            first, segment = next(reading.head.after(reading.line))
            found = await self.objects.lines(segment)
            if found is not None:
                lines = found[reading.line - first : reading.end - first]
                reading.line += len(lines)
                reading.began = True
                return lines
            await self._read_on(reading, segment)
        return []

    async def _read_on(self, reading: Reading, gone: Segment) -> None:
        """Find out where lines are now. Merged, they keep their numbers; rewritten, they are other lines."""
        newer, version = await self.objects.head()
        assert reading.head is not None
        if version is None or newer == reading.head:
            raise _deleted(self.objects.name, gone)
        if newer.id != reading.head.id:
            if reading.began:
                raise StorageError(f"lines of {self.objects.name!r} were taken back while it was read: read it again")
            reading.end = newer.lines
        reading.head = newer

    async def rewrite(self, change: Change, now: float) -> int:
        """Leave out what `change` leaves out, and delete it for good. StorageError where another does so too."""
        rewriting = Rewriting(self.objects, change)
        rewritten = await rewriting.run(self._turn)
        if rewritten is not None:
            async with self._turn:
                self._head, self._version = rewritten
                self._newest, self._saved = None, 0
                self._filter = _Position(rewriting.filter, self._head.id, rewriting.lines)
                await self.objects.unsave()  # it remembers what is to go
                await self.save()
        else:
            await self.objects.unsave_older()
        await self.objects.sweep(now)
        await self.objects.erase()
        return rewriting.gone

    async def rebuild(self) -> int:
        """Make the filter anew from the lines and save it; return how many there are."""
        async with self._turn:
            await self.objects.unsave()
            await self._refresh()
            self._filter = _Position(Filter())
            await self._catch_up(self._filter)
            self._saved = 0
        await self.save()
        return self._filter.lines

    async def merge(self) -> None:
        """Put one segment in the place of many small ones, as long as there are such."""
        while parts := mergeable(self._head.segments):
            era, contents = self._head.era, [await self.objects.content(part) for part in parts]
            content = b"".join([found for found in contents if found])
            if None in contents or len(content) != sum(part.size for part in parts):
                await self.refresh()
                return  # another process was faster
            whole = await self.objects.send_whole(content, sum(part.lines for part in parts), era)
            if not await self._exchange(parts, whole, era):
                await self.objects.delete([whole])
                await self.objects.erase()  # it may hold lines that were taken back meanwhile
                return
            await self.objects.delete(parts)

    @property
    def wants_merging(self) -> bool:
        """Tell whether there are many small segments."""
        return bool(mergeable(self._head.segments))

    @property
    def wants_saving(self) -> bool:
        """Tell whether the filter has grown enough since it was saved."""
        return self._filter is not None and self._filter.lines - self._saved >= max(_SAVE_EVERY, self._saved // 50)

    async def save(self) -> None:
        """Keep the filter, so that the next process need not read all lines. Failing is harmless."""
        position = self._filter
        if position is None or position.lines == self._saved or not isinstance(position.index, Filter):
            return
        lines = position.lines
        try:
            await self.objects.save(Saved(position.id, lines, position.index.bloom))
            self._saved = lines
        except StorageError as error:
            logger.warning(
                "the filter of %s could not be saved, it is rebuilt when needed: %s", self.objects.name, error
            )

    async def refresh(self) -> None:
        """Learn what others have done."""
        async with self._turn:
            await self._refresh()

    async def _refresh(self) -> None:
        self._head, self._version = await self.objects.head()

    async def _let_pass(self) -> None:
        """Wait a moment for a rewriting that asks for it, lest it never ends beside writers who are always faster."""
        held, until = self._head.held, time.monotonic() + _HELD
        while held and held == self._head.held and time.monotonic() < until:
            await asyncio.sleep(_LOOK_EVERY)
            await self._refresh()
        self._head = self._head.freed()

    def _position(self, *, latest: bool) -> _Position:
        if latest:
            self._newest = self._newest or _Position(Newest())
            return self._newest
        self._filter = self._filter or _Position(Filter())
        return self._filter

    async def _catch_up(self, position: _Position) -> None:
        """Take in the lines that others added. Those that this head does not name are not taken as seen."""
        while position.id != self._head.id or position.lines < self._head.lines:
            if position.id != self._head.id:
                await self._begin(position)
                continue
            first, segment = next(self._head.after(position.lines))
            lines = await self.objects.lines(segment)
            if lines is not None:
                position.index.feed(lines[position.lines - first :])
                position.lines = first + segment.lines
                continue
            before = self._head  # merged meanwhile, or rewritten
            await self._refresh()
            if self._head == before:
                raise _deleted(self.objects.name, segment)

    async def _begin(self, position: _Position) -> None:
        """Know nothing of this log yet but, where it was saved, its filter."""
        position.index, position.id, position.lines = type(position.index)(), self._head.id, 0
        if position is not self._filter:
            return
        self._saved = 0
        try:
            saved = await self.objects.saved() if self._head.lines else None
        except BloomError:
            logger.info("the saved filter of %s is of no use: it is built anew", self.objects.name)
            return
        if saved is not None and saved.id == position.id and saved.lines <= self._head.lines:
            position.index, position.lines, self._saved = Filter(saved.bloom), saved.lines, saved.lines

    async def _send(self, lines: list[bytes]) -> _Sent:
        began, era = time.monotonic(), self._head.era
        return _Sent(lines, await self.objects.send(lines, era), era, began)

    async def _take_back(self, sent: _Sent) -> None:
        """Delete segments that the head just read does not name, nor will any: the version to follow is gone."""
        with contextlib.suppress(StorageError):  # a sweep finds them
            await self.objects.delete(segment for segment in sent.segments if segment not in self._head.segments)
            if sent.era != self._head.era:
                await self.objects.erase()  # they may hold lines that were taken back meanwhile

    async def _commit(self, segments: Sequence[Segment]) -> bool:
        """Add segments to the log, or learn what others added meanwhile."""
        head = self._head.extended(segments)
        version = await self.objects.replace(head, self._version)
        if version is not None:
            self._head, self._version = head, version
            return True
        await self._refresh()
        return self._head.holds(segments)

    async def _exchange(self, parts: Sequence[Segment], whole: Segment, era: str) -> bool:
        async with self._turn:
            while self._head.era == era and (head := self._head.merged(parts, whole)) is not None:
                version = await self.objects.replace(head, self._version)
                if version is not None:
                    self._head, self._version = head, version
                    return True
                await self._refresh()
            return self._head.holds([whole])


@dataclass(frozen=True, slots=True)
class _Sent:
    """Lines that are in segments, but in no head yet."""

    lines: list[bytes]
    segments: list[Segment]
    era: str
    at: float

    def fits(self, lines: list[bytes], head: Head) -> bool:
        """Tell whether these lines may still be added to that head by naming the segments."""
        return self.lines == lines and self.era == head.era and time.monotonic() - self.at <= _STALE


def _deleted(name: str, segment: Segment) -> StorageError:
    return StorageError(f"{segment} of {name!r} is gone: somebody deleted it")
