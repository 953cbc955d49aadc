"""A local journal: lines that wait on this machine's disk until storage takes them, also over a crash."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import mmh3

from tanuki_async._record.frames import frames, lines_in
from tanuki_async._record.own import Own
from tanuki_async._record.refused import FILE, SETTING, set_aside
from tanuki_async.storage._files import replace, sync_data, sync_directory, translated, write_all

__all__ = ["Journal", "Part", "journal_for"]

_FULL = 4 << 20
"""Bytes of one file: about as much is read, and written to storage, at once."""
logger = logging.getLogger("tanuki_async.record")


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
    if told := os.environ.get(SETTING):
        return Path(told)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "tanuki_async" / "journal"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "tanuki_async" / "journal"


@dataclass(slots=True, eq=False)
class _File:
    """One file, with the number of its lines by name."""

    path: Path
    names: Counter[str]
    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """What was read of the journal: lines to write, by name, and those of other names, which stay."""

    files: Sequence[_File]
    lines: Mapping[str, list[bytes]]
    others: Mapping[str, list[bytes]]


_journals: weakref.WeakSet[Journal] = weakref.WeakSet()
"""A child inherits the open descriptors of a fork, and their locks would say that the parent lives as long as it."""


class Journal:
    """First in, first out for each name, for one storage. Blocking; safe for several threads. Raises StorageErrors.

    Each process writes into a directory of its own, which it holds locked. What a process that died has left there is
    taken over by the next that opens a journal for the same storage. A file is replaced by what is left of it, or
    deleted, when its lines are written, so a crash may write some twice, which storage leaves out.
    """

    def __init__(self, root: Path, address: str) -> None:
        self.path = root.expanduser().absolute() / mmh3.mmh3_x64_128_digest(address.encode()).hex()
        self._own = Own(self.path)
        self._mutex = threading.RLock()
        self.lost = 0  # lines whose files somebody deleted
        self._begin()
        _journals.add(self)

    def _begin(self) -> None:
        self._files: list[_File] = []  # the oldest first
        self._tail: int | None = None  # the open file, which is the last of these
        self._tail_size = 0
        self._first = self._last = 10**11  # numbers of files, with room before them
        self._names: dict[str, int] = {}
        self.lines = 0  # how many wait

    @property
    def names(self) -> AbstractSet[str]:
        """The names of which lines wait."""
        return set(self._names)

    def has(self, name: str) -> bool:
        """Tell whether lines of a name wait."""
        return name in self._names

    def adopt(self) -> int:
        """Take over what processes that died have left. Returns how many lines that is."""
        with self._mutex, self._translated("read"):
            before = self.lines
            for left in self._own.left():
                self._take_over(left)
            return self.lines - before

    def _take_over(self, left: Path) -> None:
        contents = [(path, path.read_bytes()) for path in sorted(left.glob("*.lines"))]
        for path, content in contents:
            if names := Counter(name for name, _ in lines_in(content)):
                self._last += 1
                moved = self._own.path() / f"{self._last:012}.lines"
                path.replace(moved)
                self._files.append(_File(moved, Counter(), len(content)))
                self._count(self._files[-1], names)
                self._end_tail()
        self._own.sync()
        shutil.rmtree(left, ignore_errors=True)

    def add(self, lines: Iterable[tuple[str, bytes]]) -> None:
        """Add lines, each under a name; they are on the disk when this returns. Where that fails, none is."""
        lines = list(lines)
        content = frames(lines)
        with self._mutex, self._translated("write to"):
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
            self._files[-1].size = self._tail_size
            self._count(self._files[-1], self._files[-1].names + Counter(name for name, _ in lines))
            if self._tail_size >= _FULL:
                self._end_tail()

    def add_before(self, lines: Sequence[tuple[str, bytes]]) -> None:
        """Add lines that are older than all of their names that wait here."""
        content = frames(lines)
        with self._mutex, self._translated("write to"):
            path = self._own.path() / f"{self._first:012}.lines"
            replace(path, content)
            self._first -= 1
            self._files.insert(0, _File(path, Counter(), len(content)))
            self._count(self._files[0], Counter(name for name, _ in lines))

    def read(self, blocked: AbstractSet[str] = frozenset()) -> Part | None:
        """Return the oldest lines of names that are not blocked; None at the end. Give it to `done` afterwards.

        Small files are read together, also with what others left before them, so that they become one.
        """
        with self._mutex, self._translated("read"):
            files = self._choose(blocked)
            if self._files and self._files[-1] in files:
                self._end_tail()
            lines: dict[str, list[bytes]] = {}
            others: dict[str, list[bytes]] = {}
            for file in tuple(files):
                for name, line in self._lines_of(file):
                    (others if name in blocked else lines).setdefault(name, []).append(line)
            files = [file for file in files if file.names]
            return Part(files, lines, others) if files else None

    def _choose(self, blocked: AbstractSet[str]) -> list[_File]:
        start = next((at for at, file in enumerate(self._files) if not file.names.keys() <= blocked), None)
        if start is None:
            return []
        end, size = start + 1, self._files[start].size
        while end < len(self._files) and size < _FULL // 2:
            size += self._files[end].size
            end += 1
        while start and self._files[start - 1].size <= size and size < _FULL // 2:
            start -= 1
            size += self._files[start].size
        return self._files[start:end]

    def done(self, part: Part, left: Mapping[str, Sequence[bytes]]) -> None:
        """Keep of what was read only what is left, and the lines of blocked names."""
        kept = [(name, line) for of in (part.others, left) for name, lines in of.items() for line in lines]
        with self._mutex, self._translated("write to"):
            if len(part.files) > 1 or len(kept) != part.files[0].names.total():
                self._replace(part.files, kept)

    def take_out(self, meant: Callable[[str, bytes], bool]) -> dict[str, int]:
        """Take out the lines that are meant; return how many those are, by name."""
        gone: Counter[str] = Counter()
        with self._mutex, self._translated("rewrite"):
            self._end_tail()
            for file in tuple(self._files):
                lines = self._lines_of(file)
                kept = [(name, line) for name, line in lines if not meant(name, line)]
                if len(kept) < len(lines):
                    gone += file.names - Counter(name for name, _ in kept)
                    self._replace([file], kept)
        return dict(gone)

    def _lines_of(self, file: _File) -> list[tuple[str, bytes]]:
        """Read a file; where somebody deleted it, its lines wait no longer."""
        try:
            return list(lines_in(file.path.read_bytes()))
        except FileNotFoundError:
            lost = file.names.total()
            logger.error("%d examples are lost, as somebody deleted %s", lost, file.path)
            self.lost += lost
            self._count(file, Counter())
            self._files.remove(file)
            return []

    def _replace(self, files: Sequence[_File], kept: Sequence[tuple[str, bytes]]) -> None:
        """Put these lines in the place of files that follow one another."""
        if kept:
            first, *files = files
            content = frames(kept)
            replace(first.path, content)
            first.size = len(content)
            self._count(first, Counter(name for name, _ in kept))
        for file in files:
            file.path.unlink(missing_ok=True)
            self._count(file, Counter())
            self._files.remove(file)

    def set_aside(self, name: str, line: bytes, why: object) -> Path:
        """Keep a line that storage refuses, where a person finds it."""
        path = self.path / FILE
        set_aside(path, name, line, why)
        return path

    def close(self) -> None:
        """Let go. What still waits is taken over by the next process, or by the next journal of this one."""
        with self._mutex:
            self._let_go(empty=not self._files)

    def leave_to_parent(self) -> None:
        """Have nothing to do with the journal, in the child of a fork; it is still the parent's."""
        self._mutex = threading.RLock()  # a thread that is not here may hold it
        self._let_go(empty=False)

    def _let_go(self, *, empty: bool) -> None:
        self._end_tail()
        self._own.let_go(empty=empty)
        self._begin()

    def _count(self, file: _File, names: Counter[str]) -> None:
        """Note which lines a file has now."""
        for name, more in ((name, names[name] - file.names[name]) for name in {*names, *file.names}):
            self.lines += more
            self._names[name] = self._names.get(name, 0) + more
            if not self._names[name]:
                del self._names[name]
        file.names = names

    def _translated(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return translated(f"{doing} the journal", self.path, setting=SETTING)

    def _open_tail(self) -> int:
        if self._tail is not None and not self._files[-1].path.exists():
            self._end_tail()  # somebody deleted it
        if self._tail is None:
            self._last += 1
            path = self._own.path() / f"{self._last:012}.lines"
            self._tail = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._files.append(_File(path, Counter(), 0))
            sync_directory(path.parent)
        return self._tail

    def _drop_last_if_empty(self) -> None:
        last = self._files[-1]
        if not last.names:
            self._files.pop()
            with contextlib.suppress(OSError):
                last.path.unlink()

    def _end_tail(self) -> None:
        tail, self._tail, self._tail_size = self._tail, None, 0
        if tail is not None:
            os.close(tail)


def _after_fork() -> None:
    for journal in _journals:
        journal.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
