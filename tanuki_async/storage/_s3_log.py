"""One name in S3: immutable segments, and a head that lists them and is replaced only by whoever has read it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from tanuki_async._bloom import Bloom, BloomError
from tanuki_async._errors import StorageError
from tanuki_async.abc import Appended
from tanuki_async.storage._s3_bucket import ANY, Bucket
from tanuki_async.storage._s3_segments import Head, Segment, cut, mergeable
from tanuki_async.storage._seen import Filter, Index, Newest

__all__ = ["Log", "Reading"]

_SAVED = struct.Struct("<8s16sQI")  # magic, the log's id, lines covered, checksum of these
_MAGIC = b"tanuki01"
_SAVE_EVERY = 50_000
_STALE = 600.0
"""Seconds after which what was sent, but is in no head yet, is sent again: others may have cleared it away."""
_ABANDONED = 86_400.0
"""Seconds after which a segment that no head names is what a killed writer left. Clocks may differ by hours."""
logger = logging.getLogger("tanuki_async.storage")


@dataclass(slots=True)
class Reading:
    """How far somebody has read: the number of the next line, and of the one that comes after the last."""

    line: int
    end: int = 0
    head: Head | None = None


@dataclass(slots=True)
class _Position:
    """How far an index has read which log."""

    index: Index
    id: str = ""
    lines: int = 0


class Log:
    """The lines of one name. Belongs to one event loop; many processes elsewhere may write.

    A writer adds segments, then replaces the head that it has read, or learns that another was first; so it has seen
    all lines that come before its own, and none is there twice. Merging keeps the lines, in order, under their numbers.
    """

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._bucket, self._name = bucket, name
        self._turn = asyncio.Lock()
        self._head = Head.new()
        self._version: str | None = None
        self._filter: _Position | None = None
        self._newest: _Position | None = None
        self._saved = 0

    async def append(self, lines: Sequence[bytes], *, latest: bool) -> Appended:
        """Add what is new."""
        async with self._turn:
            position = await self._position(latest=latest)
            if latest or self._version is None:
                await self._refresh()
            sent: _Sent | None = None
            while True:
                await self._catch_up(position)
                fresh, take_in = position.index.fresh(lines)
                if sent is not None and (sent.lines != fresh or time.monotonic() - sent.at > _STALE):
                    await self._take_back(sent)  # others wrote some of these meanwhile
                    sent = None
                if not fresh:
                    break
                sent = sent or await self._send(fresh)
                if await self._commit(sent.segments):
                    take_in()
                    position.lines += len(fresh)
                    break
            return Appended(len(fresh), len(lines) - len(fresh))

    async def count(self) -> int:
        """Count the lines."""
        head, _ = await self._read_head()
        return head.lines

    async def read(self, reading: Reading) -> list[bytes]:
        """Return the next lines, of one segment; none at the end of what was there when reading began."""
        if reading.head is None:
            reading.head, _ = await self._read_head()
            reading.end = reading.head.lines
        while reading.line < reading.end:
            first, segment = next(reading.head.after(reading.line))
            found = await self._bucket.get(self._key(segment))
            if found is not None:
                lines = found.content[:-1].split(b"\n")[reading.line - first : reading.end - first]
                reading.line += len(lines)
                return lines
            (
                newer,
                _,
            ) = await self._read_head()  # merged meanwhile: the head says into what, and lines keep their numbers
            if newer == reading.head or newer.id != reading.head.id:
                raise StorageError(f"{segment} of {self._name!r} is gone: somebody deleted it")
            reading.head = newer
        return []

    async def merge(self) -> None:
        """Put one segment in the place of many small ones, as long as there are such."""
        while parts := mergeable(self._head.segments):
            contents = [await self._bucket.get(self._key(part)) for part in parts]
            content = b"".join([found.content for found in contents if found])
            if None in contents or len(content) != sum(part.size for part in parts):
                await self.refresh()
                return  # another process was faster
            whole = Segment.of([b""] * sum(part.lines for part in parts), len(content))
            await self._bucket.put(self._key(whole), content, version=ANY)
            if not await self._exchange(parts, whole):
                await self._bucket.delete(self._key(whole))
                return
            await self._bucket.delete(*map(self._key, parts))

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
        lines, head = position.lines, _SAVED.pack(_MAGIC, position.id.encode(), position.lines, 0)[:-4]
        blob = b"".join((head, struct.pack("<I", zlib.crc32(head)), *position.index.bloom.dump()))
        try:
            await self._bucket.put(f"filters/{self._name}.bloom", blob, version=ANY)
            self._saved = lines
        except StorageError as error:
            logger.warning("the filter of %s could not be saved, it is rebuilt when needed: %s", self._name, error)

    async def sweep(self, now: float) -> None:
        """Delete segments that no head names, which killed writers left."""
        listed = await self._bucket.list(f"lines/{self._name}/")
        old = [each.key for each in listed if now - each.modified > _ABANDONED]
        if old:
            head, _ = await self._read_head()  # after the listing: what was added meanwhile is young
            await self._bucket.delete(*sorted(set(old) - set(map(self._key, head.segments))))

    async def refresh(self) -> None:
        """Learn what others have done."""
        async with self._turn:
            await self._refresh()

    def _key(self, segment: Segment) -> str:
        return f"lines/{self._name}/{segment.key}.jsonl"

    async def _refresh(self) -> None:
        self._head, self._version = await self._read_head()

    async def _read_head(self) -> tuple[Head, str | None]:
        key = f"heads/{self._name}.json"
        found = await self._bucket.get(key)
        return (Head.from_json(found.content, key), found.version) if found else (Head.new(), None)

    async def _position(self, *, latest: bool) -> _Position:
        if latest:
            self._newest = self._newest or _Position(Newest())
            return self._newest
        if self._filter is None:
            self._filter = await self._load()
            self._saved = self._filter.lines
        return self._filter

    async def _load(self) -> _Position:
        found = await self._bucket.get(f"filters/{self._name}.bloom")
        if found is not None:
            try:
                head = found.content[: _SAVED.size]
                magic, id_, lines, checksum = _SAVED.unpack(head)
                if magic == _MAGIC and checksum == zlib.crc32(head[:-4]):
                    bloom = Bloom.load(io.BytesIO(memoryview(found.content)[_SAVED.size :]))
                    return _Position(Filter(bloom), id_.decode(), lines)
            except (struct.error, BloomError, ValueError):
                logger.info("the saved filter of %s is of no use: it is built anew", self._name)
        return _Position(Filter())

    async def _catch_up(self, position: _Position) -> None:
        """Take in the lines that others added. Those that this head does not name are not taken as seen."""
        if position.id != self._head.id or position.lines > self._head.lines:
            position.index, position.id, position.lines = type(position.index)(), self._head.id, 0
        while position.lines < self._head.lines:
            first, segment = next(self._head.after(position.lines))
            found = await self._bucket.get(self._key(segment))
            if found is None:  # merged meanwhile
                before = self._head
                await self._refresh()
                if self._head == before:
                    raise StorageError(f"{segment} of {self._name!r} is gone: somebody deleted it")
                if self._head.id != position.id:
                    position.index, position.id, position.lines = type(position.index)(), self._head.id, 0
                continue
            position.index.feed(found.content[:-1].split(b"\n")[position.lines - first :])
            position.lines = first + segment.lines

    async def _send(self, lines: list[bytes]) -> _Sent:
        began = time.monotonic()
        segments: list[Segment] = []
        for part, content in cut(lines):
            segments.append(Segment.of(part, len(content)))
            await self._bucket.put(self._key(segments[-1]), content, version=ANY)
        return _Sent(lines, segments, began)

    async def _take_back(self, sent: _Sent) -> None:
        """Delete segments that the head just read does not name, nor will any: the version to follow is gone."""
        unnamed = [segment for segment in sent.segments if segment not in self._head.segments]
        with contextlib.suppress(StorageError):  # a sweep finds them
            await self._bucket.delete(*map(self._key, unnamed))

    async def _commit(self, segments: Sequence[Segment]) -> bool:
        """Add segments to the log, or learn what others added meanwhile."""
        head = self._head.extended(segments)
        version = await self._bucket.put(f"heads/{self._name}.json", head.to_json(), version=self._version)
        if version is not None:
            self._head, self._version = head, version
            return True
        await self._refresh()
        return self._head.holds(segments)

    async def _exchange(self, parts: Sequence[Segment], whole: Segment) -> bool:
        async with self._turn:
            while (head := self._head.merged(parts, whole)) is not None:
                version = await self._bucket.put(f"heads/{self._name}.json", head.to_json(), version=self._version)
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
    at: float
