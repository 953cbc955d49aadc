"""One name on disk: a file of lines that many processes append to, and what this process knows of it."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tanuki_async._bloom import Bloom, BloomError
from tanuki_async.abc import Appended
from tanuki_async.storage._files import is_at, lock, open_locked, replacing, sync_data, translated, unlock, write_all
from tanuki_async.storage._position import ANCHOR, Position, read
from tanuki_async.storage._seen import Counted, Filter, Index, Newest

_SAVE_EVERY = 50_000
_SAVED = struct.Struct("<8sQQ512sI")  # magic, covered bytes, lines, the last bytes before, checksum of these
_MAGIC = b"tanuki01"


class _Unchanged(Exception):  # noqa: N818  # no error: there is nothing to rewrite
    """Every line stays."""


class Segment:
    """The lines of one name. Blocking; safe for many threads here and many processes elsewhere.

    Every line that `append` reported is on the disk, whole and once. What a killed writer left unfinished is cut off
    by the next. Indexes follow the file: nothing is taken as seen that is not in it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved_path = path.with_suffix(".bloom")
        self._mutex = threading.RLock()
        self._descriptor: int | None = None
        self._filter: Position | None = None
        self._newest: Position | None = None
        self._counted: Position | None = None
        self._saved_lines: int = 0
        self._saving = threading.Lock()

    def append(self, lines: Sequence[bytes], *, latest: bool) -> Appended:
        """Add what is new, durably. On any failure the file and the indexes are as before."""
        with self._mutex, translated("append to", self._path):
            descriptor = self._lock()
            try:
                position = self._position(latest=latest)
                others_wrote = self._catch_up(descriptor, position)
                fresh, take_in = position.index.fresh(lines)
                if fresh:
                    self._write(descriptor, position, fresh)
                    take_in()
                elif others_wrote:
                    sync_data(descriptor)  # what counts as there already must be as durable as what is written
                return Appended(len(fresh), len(lines) - len(fresh))
            except OSError:
                self.release()
                raise
            finally:
                if self._descriptor is not None:
                    unlock(self._descriptor)

    def rewrite(self, change: Callable[[list[bytes]], list[bytes]]) -> int:
        """Leave out what `change` leaves out, durably, and return how many lines that were. Others wait meanwhile."""
        with self._mutex, translated("rewrite", self._path):
            if not self._path.exists():
                return 0
            descriptor = self._lock()
            try:
                gone = 0
                with contextlib.suppress(_Unchanged), replacing(self._path) as draft:
                    for lines, _ in read(descriptor, 0, os.fstat(descriptor).st_size):
                        kept = change(lines)
                        gone += len(lines) - len(kept)
                        write_all(draft, b"".join([line + b"\n" for line in kept]))
                    if not gone:
                        raise _Unchanged
                    self._saved_path.unlink(missing_ok=True)  # it remembers what is to go
                return gone
            finally:
                self.release()
                self._filter = self._newest = self._counted = None
                self._saved_lines = 0

    def rebuild(self) -> int:
        """Make the filter anew from the lines and save it; return how many lines there are."""
        with self._mutex, translated("rebuild the filter of", self._path):
            if not self._path.exists():
                self._saved_path.unlink(missing_ok=True)
                return 0
            self._filter, self._newest, self._counted, self._saved_lines = Position(Filter()), None, None, 0
            descriptor = self._lock()
            try:
                self._filter.follow(descriptor, os.fstat(descriptor).st_size)
            finally:
                unlock(descriptor)
            lines = self._filter.lines
        self._saved_path.unlink(missing_ok=True)
        self.save()
        return lines

    def saved_filter_misses(self) -> str:
        """Say what is wrong with the saved filter, or nothing. One that is missing or older is right."""
        if not self._saved_path.exists():
            return ""
        with translated("read", self._path), self._path.open("rb") as file:
            position = self._load(None)
            if not position.offset:
                return "the filter cannot be read"
            if not position.is_valid(file.fileno()):
                return "the filter belongs to other data"
            lines = 0
            for batch, _ in read(file.fileno(), 0, position.offset):
                lines += len(batch)
                if position.index.fresh(batch)[0]:
                    return "the filter does not know all lines that it covers"
            return "" if lines == position.lines else f"the filter counts {position.lines} lines where {lines} are"

    def torn_tail(self, *, aside: Callable[[bytes], None] | None = None) -> int:
        """Return how many bytes after the last whole line a killed writer left; `aside` takes them before they go."""
        with self._mutex, translated("read", self._path):
            descriptor = self._lock()
            try:
                size = os.fstat(descriptor).st_size
                whole = sum(taken for _, taken in read(descriptor, 0, size))
                if aside is not None and whole < size:
                    aside(os.pread(descriptor, size - whole, whole))
                    os.ftruncate(descriptor, whole)
                    sync_data(descriptor)
                return size - whole
            finally:
                unlock(descriptor)

    def count(self) -> int:
        """Count the lines, without a lock and without the filter."""
        with self._mutex, translated("read", self._path):
            known = [position for position in (self._filter, self._newest, self._counted) if position]
            position = max(known, key=lambda known: known.offset, default=None) or self._load(Counted())
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return 0
            try:
                start = position if position.is_valid(descriptor) else Position(Counted())
                if start.offset == os.fstat(descriptor).st_size:
                    return start.lines
                self._counted = Position(Counted(), start.offset, start.lines, start.anchor)
                self._counted.follow(descriptor, os.fstat(descriptor).st_size)
                return self._counted.lines
            finally:
                os.close(descriptor)

    @property
    def wants_saving(self) -> bool:
        """Tell whether the filter has grown enough since it was saved."""
        position = self._filter
        if position is None or self._saving.locked():
            return False
        return position.lines - self._saved_lines >= max(_SAVE_EVERY, position.lines // 50)

    def save(self) -> None:
        """Put the filter beside the data, so that the next process need not read it all. Failing is harmless.

        Appends wait while it is handed to the system, as it is large and a copy would be too, not while the disk works.
        """
        with self._saving:
            position = self._filter
            if position is None or position.lines == self._saved_lines or not self._path.exists():
                return
            with replacing(self._saved_path) as descriptor, self._mutex:
                lines = position.lines
                for part in _saved(position):
                    write_all(descriptor, part)
            self._saved_lines = lines

    def release(self) -> None:
        """Let go of the file; the next use opens it again."""
        with self._mutex:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def _lock(self) -> int:
        if self._descriptor is not None:
            lock(self._descriptor)
            if is_at(self._descriptor, self._path):
                return self._descriptor
            self.release()  # somebody deleted or replaced the file
        self._descriptor = open_locked(self._path)
        return self._descriptor

    def _position(self, *, latest: bool) -> Position:
        if latest:
            self._newest = self._newest or Position(Newest())
            return self._newest
        if self._filter is None:
            self._filter = self._load(None)
            self._saved_lines = self._filter.lines
        return self._filter

    def _load(self, index: Index | None) -> Position:
        """Begin where the saved filter ends; with `index` given, only its place is read, not the filter."""
        try:
            with self._saved_path.open("rb") as file:
                head = file.read(_SAVED.size)
                magic, offset, lines, anchor, checksum = _SAVED.unpack(head)
                if magic != _MAGIC or checksum != zlib.crc32(head[:-4]):
                    raise BloomError("torn")
                anchor = anchor[-min(offset, ANCHOR) :] if offset else b""
                return Position(index or Filter(Bloom.load(file)), offset, lines, anchor)
        except (OSError, struct.error, BloomError):
            return Position(index or Filter())  # missing, torn or of another version: read the data

    def _catch_up(self, descriptor: int, position: Position) -> bool:
        """Read what others appended, and cut off a line that a killed writer did not finish. Needs the lock."""
        if not position.is_valid(descriptor):
            position = self._restart(position)
        before, size = position.offset, os.fstat(descriptor).st_size
        if before < size:
            position.follow(descriptor, size)
        if position.offset < size:
            os.ftruncate(descriptor, position.offset)
        return position.offset > before

    def _restart(self, position: Position) -> Position:
        position.index = type(position.index)()
        position.offset = position.lines = 0
        self._saved_lines = 0
        position.anchor = b""
        self._counted = None
        return position

    def _write(self, descriptor: int, position: Position, fresh: list[bytes]) -> None:
        data = b"\n".join((*fresh, b""))
        try:
            write_all(descriptor, data)
            sync_data(descriptor)
        except BaseException:
            os.ftruncate(descriptor, position.offset)
            raise
        position.move(len(fresh), len(data), data[-ANCHOR:])


def _saved(position: Position) -> Iterator[bytes | memoryview]:
    assert isinstance(position.index, Filter)
    head = _SAVED.pack(_MAGIC, position.offset, position.lines, position.anchor.rjust(ANCHOR, b"\0"), 0)[:-4]
    yield head + struct.pack("<I", zlib.crc32(head))
    yield from position.index.bloom.dump()
