"""The words of a name's log in S3: its segments, its head, and which segments are worth merging. Pure."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tanuki_async._errors import StorageError

__all__ = ["EMPTY", "LARGEST", "Head", "Segment", "cut", "mergeable"]

LARGEST = 16 << 20
"""Bytes of a segment: as much is held in memory when it is read or merged. A longer line is a segment of its own."""
_TINY = 64 << 10
_MANY = 16
"""So many neighbours are merged into one."""
_LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """One object of whole lines, which never changes. Its key begins with the era of the log it was made for."""

    key: str
    lines: int
    size: int

    @classmethod
    def of(cls, lines: int, size: int, *, era: str) -> Segment:
        """Name a segment. No two are named alike."""
        return cls(era + secrets.token_hex(8), lines, size)


@dataclass(frozen=True, slots=True)
class Head:
    """All segments of a name, in the order of appending. `id` changes when a log is begun anew, or rewritten.

    `held` names a rewriting that asks writers to wait a moment; it is empty where none does.
    """

    id: str
    segments: tuple[Segment, ...] = ()
    held: str = ""

    @classmethod
    def new(cls) -> Head:
        """Begin a log."""
        return cls(secrets.token_hex(8))

    @property
    def era(self) -> str:
        """What keys of new segments begin with. One that no head names, of another era, will never be named."""
        return self.id[:8]

    @property
    def lines(self) -> int:
        """How many lines the log has."""
        return sum(segment.lines for segment in self.segments)

    def within(self, first: int, end: int) -> Iterator[tuple[int, int, Segment]]:
        """Yield the segments that hold lines from `first` to `end`, each with the first and the end of its own."""
        for begin, segment in self.after(first):
            if begin >= end:
                return
            yield begin, begin + segment.lines, segment

    def after(self, line: int) -> Iterator[tuple[int, Segment]]:
        """Yield the segments that hold what follows the first `line` lines, each with its own first line's number."""
        first = 0
        for segment in self.segments:
            if first + segment.lines > line:
                yield first, segment
            first += segment.lines

    def holding(self) -> Head:
        """Return the log, asking writers to wait."""
        return replace(self, held=secrets.token_hex(8))

    def freed(self) -> Head:
        """Return the log, open to writers."""
        return replace(self, held="")

    def holds(self, segments: Sequence[Segment]) -> bool:
        """Tell whether these are in the log, one after another."""
        return self._place(segments) is not None

    def extended(self, segments: Sequence[Segment]) -> Head:
        """Return the log with these at its end."""
        return replace(self, segments=(*self.segments, *segments))

    def merged(self, parts: Sequence[Segment], whole: Segment) -> Head | None:
        """Return the log with one segment in the place of neighbours; None where these are gone."""
        at = self._place(parts)
        if at is None:
            return None
        return replace(self, segments=(*self.segments[:at], whole, *self.segments[at + len(parts) :]))

    def _place(self, parts: Sequence[Segment]) -> int | None:
        try:
            at = self.segments.index(parts[0])
        except ValueError:
            return None
        return at if self.segments[at : at + len(parts)] == tuple(parts) else None

    def to_json(self) -> bytes:
        """Write it down."""
        parts = [[segment.key, segment.lines, segment.size] for segment in self.segments]
        held = {"held": self.held} if self.held else {}
        return json.dumps({"v": _LAYOUT, "id": self.id, "segments": parts, **held}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes, where: str) -> Head:
        """Read it. StorageError where it is of a newer release, or somebody else's."""
        try:
            told = json.loads(text)
            if told["v"] > _LAYOUT:
                raise StorageError(f"{where!r} has layout {told['v']}, this release reads {_LAYOUT}: upgrade")
            return cls(told["id"], tuple(Segment(*part) for part in told["segments"]), told.get("held", ""))
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{where!r} was not written by tanuki_async ({error!r})") from error


EMPTY = len(Head.new().to_json())
"""Bytes of a head that lists nothing: one that lists something is longer."""


def cut(lines: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], bytes]]:
    """Cut lines into what segments hold, each with its bytes."""
    begin = size = 0
    for at, line in enumerate(lines):
        if size and size + len(line) + 1 > LARGEST:
            yield lines[begin:at], b"\n".join(lines[begin:at]) + b"\n"
            begin, size = at, 0
        size += len(line) + 1
    if size:
        yield lines[begin:], b"\n".join(lines[begin:]) + b"\n"


def mergeable(segments: Sequence[Segment]) -> Sequence[Segment]:
    """Return neighbours that are many and small, and fit into one; none where all is well.

    An older one is taken along only if it is no larger than those after it together, or tiny: so a line is copied into
    something about sixteen times as large each time, and only a few times in all.
    """
    end = len(segments)
    while end:
        begin, size = end, 0
        while begin and _fits(segments[begin - 1].size, size):
            begin -= 1
            size += segments[begin].size
        if end - begin >= _MANY:
            return segments[begin:end]
        end = begin if begin < end else end - 1
    return ()


def _fits(older: int, newer: int) -> bool:
    return older <= LARGEST // 2 and older + newer <= LARGEST and (not newer or older <= max(newer, _TINY))
