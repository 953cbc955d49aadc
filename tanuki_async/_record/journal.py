"""A local journal: lines that wait on this machine's disk until storage takes them, also over a crash."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import struct
import sys
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import mmh3

from tanuki_async.storage._files import (
    is_at,
    lock,
    make_directory,
    replace,
    sync_data,
    sync_directory,
    translated,
    write_all,
)

__all__ = ["Journal", "journal_for"]

_FRAME = struct.Struct("<IHI")  # bytes of the line, bytes of its name, checksum of both
_FULL = 4 << 20
"""Bytes of one file: as much is read, and written to storage, at once."""


def journal_for(address: str | None, directory: str | Path | None) -> Journal | None:
    """Make the journal of a storage; None where it has no address, or the system no locks, as Windows."""
    if address is None or importlib.util.find_spec("fcntl") is None:
        return None
    try:
        return Journal(Path(directory or _directory()), address)
    except RuntimeError:  # there is no home directory
        return None


def _directory() -> Path:
    """Where journals are kept when nobody says otherwise."""
    if told := os.environ.get("TANUKI_JOURNAL_DIR"):
        return Path(told)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "tanuki_async" / "journal"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "tanuki_async" / "journal"


class Journal:
    """First in, first out, for one storage. Blocking; safe for several threads. Failures are StorageErrors.

    Each process writes into a directory of its own, which it holds locked. What a process that died has left there is
    taken over by the next that opens a journal for the same storage. A file is deleted when all its lines are written,
    so a crash may write some twice, which storage leaves out.
    """

    def __init__(self, root: Path, address: str) -> None:
        self.path = root.expanduser().absolute() / mmh3.mmh3_x64_128_digest(address.encode()).hex()
        self._mutex = threading.RLock()
        self._own: Path | None = None
        self._held: list[int] = []  # descriptors whose locks say that this process lives
        self._files: deque[tuple[Path, int]] = deque()  # the oldest first, each with its lines
        self._tail: int | None = None  # the open file, which is the last of these
        self._tail_size = self._serial = 0
        self._oldest: dict[str, list[bytes]] | None = None

    @property
    def lines(self) -> int:
        """How many lines wait."""
        return sum(lines for _, lines in self._files)

    @property
    def is_full(self) -> bool:
        """Tell whether there is enough for one good write."""
        return len(self._files) > 1 or self._tail_size >= _FULL // 4

    def adopt(self) -> int:
        """Take over what processes that died have left. Returns how many lines that is."""
        if not self.path.is_dir():
            return 0
        with self._mutex, translated("read", self.path):
            before = self.lines
            for left in sorted(self.path.iterdir(), key=_age):
                if left.is_dir() and left != self._own and (descriptor := _locked(left)) is not None:
                    try:
                        self._take_over(left)
                    finally:
                        os.close(descriptor)
            return self.lines - before

    def _take_over(self, left: Path) -> None:
        files = [(path, sum(1 for _ in _frames(path.read_bytes()))) for path in sorted(left.glob("*.lines"))]
        for path, lines in files:
            if lines:
                self._serial += 1
                moved = self._directory() / f"{self._serial:012}.lines"
                path.replace(moved)
                self._files.append((moved, lines))
                self._end_tail()
        if files and self._own:
            sync_directory(self._own)
        shutil.rmtree(left, ignore_errors=True)

    def add(self, lines: Iterable[tuple[str, bytes]]) -> None:
        """Add lines, each under a name; they are on the disk when this returns. Where that fails, none is."""
        lines = list(lines)
        content = b"".join([_frame(name.encode(), line) for name, line in lines])
        with self._mutex, translated("write to the journal", self.path):
            tail = self._open_tail()
            try:
                write_all(tail, content)
                sync_data(tail)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(tail, self._tail_size)
                self._end_tail()  # whatever is left of it there: nobody reads behind it
                self._drop_last_if_empty()
                raise
            self._tail_size += len(content)
            path, before = self._files.pop()
            self._files.append((path, before + len(lines)))
            if self._tail_size >= _FULL:
                self._end_tail()

    def add_before(self, lines: Sequence[tuple[str, bytes]]) -> None:
        """Add lines that are older than all that wait here; once, as the last thing before closing."""
        with self._mutex, translated("write to the journal", self.path):
            path = self._directory() / f"{0:012}.lines"
            replace(path, b"".join([_frame(name.encode(), line) for name, line in lines]))
            self._files.appendleft((path, len(lines)))
            self._oldest = None

    def oldest(self) -> dict[str, list[bytes]]:
        """Return the lines of the oldest file by name; whoever writes a name deletes it there. Empty at the end."""
        with self._mutex, translated("read the journal", self.path):
            if self._oldest is None and self._files:
                if len(self._files) == 1:
                    self._end_tail()
                self._oldest = {}
                for name, line in _frames(self._files[0][0].read_bytes()):
                    self._oldest.setdefault(name, []).append(line)
            return {} if self._oldest is None else self._oldest

    def done(self) -> int:
        """Delete the oldest file: all its lines are written. Returns how many these are."""
        with self._mutex, translated("write to the journal", self.path):
            if self._oldest is None:
                return 0
            path, lines = self._files[0]
            path.unlink(missing_ok=True)
            self._files.popleft()
            self._oldest = None
            return lines

    def set_aside(self, name: str, line: bytes, why: object) -> Path:
        """Keep a line that storage refuses, where a person finds it."""
        path = self.path / "refused.jsonl"
        record = {"name": name, "line": line.decode(errors="backslashreplace"), "why": str(why)}
        with self._mutex, translated("write to", path):
            make_directory(self.path)
            with path.open("ab") as file:
                file.write(json.dumps(record).encode() + b"\n")
        return path

    def close(self) -> None:
        """Let go. What still waits is taken over by the next process, or by the next journal of this one."""
        with self._mutex:
            self._end_tail()
            if self._own is not None and not self._files:
                shutil.rmtree(self._own, ignore_errors=True)
            self._files.clear()
            self._own = self._oldest = None
            while self._held:
                os.close(self._held.pop())

    def _directory(self) -> Path:
        while self._own is None:
            draft = self.path / f"{os.getpid()}-{secrets.token_hex(4)}"
            make_directory(draft)
            descriptor = _locked(draft)  # None where another process takes it for one that was left
            if descriptor is not None and is_at(descriptor, draft):
                self._held.append(descriptor)
                self._own = draft
        return self._own

    def _open_tail(self) -> int:
        if self._tail is None:
            self._serial += 1
            path = self._directory() / f"{self._serial:012}.lines"
            self._tail = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._files.append((path, 0))
            sync_directory(path.parent)
        return self._tail

    def _drop_last_if_empty(self) -> None:
        path, lines = self._files[-1]
        if not lines:
            self._files.pop()
            with contextlib.suppress(OSError):
                path.unlink()

    def _end_tail(self) -> None:
        tail, self._tail, self._tail_size = self._tail, None, 0
        if tail is not None:
            os.close(tail)


def _age(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):  # another process has taken it over
        return path.stat().st_mtime
    return 0.0


def _locked(directory: Path) -> int | None:
    """Lock the directory of a process; None while that process lives."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        lock(descriptor, seconds=0)
    except TimeoutError:
        os.close(descriptor)
        return None
    return descriptor


def _frame(name: bytes, line: bytes) -> bytes:
    return b"".join((_FRAME.pack(len(line), len(name), zlib.crc32(line, zlib.crc32(name))), name, line))


def _frames(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Read what is whole; a torn end, or the zeros that a power loss leaves, was never reported as written."""
    at = 0
    while at + _FRAME.size <= len(content):
        size, name_size, checksum = _FRAME.unpack_from(content, at)
        middle = at + _FRAME.size + name_size
        name, line = content[at + _FRAME.size : middle], content[middle : middle + size]
        if not name or len(line) < size or zlib.crc32(line, zlib.crc32(name)) != checksum:
            return
        yield name.decode(), line
        at = middle + size
