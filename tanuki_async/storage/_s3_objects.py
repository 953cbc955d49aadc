"""The objects of one name in S3: its head, its segments, its saved filter. What they mean is said elsewhere."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tanuki_async._bloom import Bloom, BloomError
from tanuki_async.storage._s3_bucket import ANY, Bucket, Listed
from tanuki_async.storage._s3_segments import Head, Segment, cut

__all__ = ["Objects", "Saved"]

_SAVED = struct.Struct("<8s16sQI")  # magic, the log's id, lines covered, checksum of these
_MAGIC = b"tanuki01"
_ABANDONED = 86_400.0
"""Seconds after which a segment that no head names is what a killed writer left. Clocks may differ by hours."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A filter over the first `lines` lines of the log `id`."""

    id: str
    lines: int
    bloom: Bloom


class Objects:
    """Reads, adds, replaces and deletes them. Belongs to one event loop."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._bucket, self.name = bucket, name
        self._head_key, self._saved_key = f"heads/{name}.json", f"filters/{name}.bloom"
        self._tree = f"lines/{name}/"

    async def head(self) -> tuple[Head, str | None]:
        """Read the head and its version; a new one and None where there is none."""
        found = await self._bucket.get(self._head_key)
        return (Head.from_json(found.content, self._head_key), found.version) if found else (Head.new(), None)

    async def replace(self, head: Head, version: str | None) -> str | None:
        """Replace the head that has this version; None when somebody else was first."""
        return await self._bucket.put(self._head_key, head.to_json(), version=version)

    def key(self, segment: Segment) -> str:
        """Return where a segment is."""
        return f"{self._tree}{segment.key}.jsonl"

    async def content(self, segment: Segment) -> bytes | None:
        """Read a segment; None where it is gone."""
        found = await self._bucket.get(self.key(segment))
        return found.content if found else None

    async def lines(self, segment: Segment) -> list[bytes] | None:
        """Read the lines of a segment; None where it is gone."""
        content = await self.content(segment)
        return None if content is None else content[:-1].split(b"\n")

    async def send(self, lines: Sequence[bytes], era: str) -> list[Segment]:
        """Write lines into segments, which no head names yet."""
        return [await self.send_whole(content, len(part), era) for part, content in cut(lines)]

    async def send_whole(self, content: bytes, lines: int, era: str) -> Segment:
        """Write one segment."""
        segment = Segment.of(lines, len(content), era=era)
        await self._bucket.put(self.key(segment), content, version=ANY)
        return segment

    async def delete(self, segments: Iterable[Segment]) -> None:
        """Delete segments that no head names any more."""
        await self._bucket.delete(*map(self.key, segments))

    async def strays(self) -> bool:
        """Tell whether segments are there that no head names, but one still may."""
        unnamed, mine = await self._unnamed()
        return any(each.key.startswith(mine) for each in unnamed)

    async def sweep(self, now: float) -> None:
        """Delete segments that no head names nor will: of what was rewritten, and what killed writers left."""
        unnamed, mine = await self._unnamed()
        gone = (each for each in unnamed if not each.key.startswith(mine) or now - each.modified > _ABANDONED)
        await self._bucket.delete(*(each.key for each in gone))

    async def _unnamed(self) -> tuple[list[Listed], str]:
        """List segments that the head does not name, and say how the keys begin of those that it may name yet."""
        listed = await self._bucket.list(self._tree)
        if not listed:
            return [], self._tree
        head, version = await self.head()  # after the listing: what is added meanwhile is not in that
        named = set(map(self.key, head.segments))
        own = (each for each in listed if "/" not in each.key.removeprefix(self._tree))  # not of a name below this one
        return [each for each in own if each.key not in named], self._tree + (head.era if version else "")

    async def erase(self) -> None:
        """Delete for good what was deleted or replaced, where the bucket keeps older versions."""
        await self._bucket.erase(self._tree)
        await self._bucket.erase(self._saved_key)

    async def saved(self) -> Saved | None:
        """Read the filter; None where there is none. BloomError where it cannot be read."""
        found = await self._bucket.get(self._saved_key)
        if found is None:
            return None
        head, rest = found.content[: _SAVED.size], memoryview(found.content)[_SAVED.size :]
        if len(head) < _SAVED.size:
            raise BloomError("the saved filter is torn")
        magic, id_, lines, checksum = _SAVED.unpack(head)
        if magic != _MAGIC or checksum != zlib.crc32(head[:-4]):
            raise BloomError("the saved filter is torn, or something else")
        return Saved(id_.decode(), lines, Bloom.load(io.BytesIO(rest)))

    async def save(self, saved: Saved) -> None:
        """Write the filter, in the place of whichever is there."""
        head = _SAVED.pack(_MAGIC, saved.id.encode(), saved.lines, 0)[:-4]
        content = b"".join((head, struct.pack("<I", zlib.crc32(head)), *saved.bloom.dump()))
        await self._bucket.put(self._saved_key, content, version=ANY)

    async def unsave(self) -> None:
        """Delete the filter."""
        await self._bucket.delete(self._saved_key)

    async def unsave_older(self) -> None:
        """Delete the filter where a rewriter left it that was killed: it remembers what is gone."""
        with contextlib.suppress(BloomError):
            saved, (head, _) = await self.saved(), await self.head()
            if saved is None or saved.id == head.id:
                return
        await self.unsave()
