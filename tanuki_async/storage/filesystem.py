"""Examples in files under one directory, safe for many processes: the default storage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import mmh3

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._errors import StorageError, clip
from tanuki_async.abc import Appended, Finding, Lease, Storage, Versioned
from tanuki_async.storage._files import locked, make_directory, need_locks, replace, sync_directory, translated
from tanuki_async.storage._leases import Held
from tanuki_async.storage._mending import findings
from tanuki_async.storage._names import check
from tanuki_async.storage._position import batches
from tanuki_async.storage._segment import Segment

__all__ = ["FilesystemStorage"]

LAYOUT = 1
_THREADS = 4
_HELD = 128  # names, each with a descriptor and its filter
T = TypeVar("T")
logger = logging.getLogger("tanuki_async.storage")


class FilesystemStorage(Storage):
    """Keeps lines in `<path>/<name>.jsonl` and values in `<path>/<key>.json`, readable by their user only.

    What was appended is on the disk (fdatasync), whole, and once. Many processes, threads and event loops may share one
    directory on a local file system; on a network file system, only where it has working locks. Blocking work happens
    in threads of its own. Deleting files or the whole directory while it is in use is allowed: they are made again.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.path = Path(path).expanduser().absolute()
        self.address = f"file:{self.path}"
        self._clock = clock
        self._mutex = threading.Lock()
        self._process = os.getpid()
        self._understood = False  # whether this release may write here
        self._executor: ThreadPoolExecutor | None = None
        self._segments: dict[str, Segment] = {}

    def __repr__(self) -> str:
        return f"FilesystemStorage({str(self.path)!r})"

    async def open(self) -> None:
        await self._in_thread(self._prepare)

    async def aclose(self) -> None:
        await self._in_thread(self._save_and_release)
        with self._mutex:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        check(name, "name", lines)
        appended, segment = await self._in_thread(partial(self._append, name, lines, latest))
        if segment.wants_saving:
            self._submit(partial(self._save, segment))  # beside the next appends, not before them
        return appended

    async def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        check(name, "name")
        reading = batches(self._data(name), start)
        try:
            while (batch := await self._in_thread(lambda: next(reading, None))) is not None:
                yield batch
        finally:
            with contextlib.suppress(ValueError):  # cancelled while a thread reads: it ends with the generator
                reading.close()

    async def count(self, name: str) -> int:
        check(name, "name")
        return await self._in_thread(lambda: self._segment(name).count())

    async def names(self, prefix: str = "") -> list[str]:
        return await self._in_thread(partial(self._list, ".jsonl", prefix))

    async def keys(self, prefix: str = "") -> list[str]:
        return await self._in_thread(partial(self._list, ".json", prefix))

    async def get(self, key: str) -> Versioned | None:
        check(key, "key")
        return await self._in_thread(partial(_value, self.path / f"{key}.json"))

    async def put(self, key: str, value: bytes, *, version: str | None) -> str | None:
        check(key, "key")
        return await self._in_thread(partial(self._put, self.path / f"{key}.json", bytes(value), version))

    async def claim(self, key: str, owner: str, *, seconds: float) -> Lease | None:
        check(key, "key")
        return await self._in_thread(partial(self._claim, key, owner, seconds))

    async def release(self, lease: Lease) -> None:
        check(lease.key, "key")
        await self._in_thread(partial(self._release, lease))

    async def rewrite(self, name: str, change: Callable[[list[bytes]], list[bytes]]) -> int:
        check(name, "name")
        return await self._in_thread(lambda: self._segment(name).rewrite(change))

    async def remove(self, key: str) -> None:
        check(key, "key")
        await self._in_thread(partial(self._remove, self.path / f"{key}.json"))

    async def rebuild(self, name: str) -> int:
        check(name, "name")
        return await self._in_thread(lambda: self._segment(name).rebuild())

    async def inspect(self, *, repair: bool = False) -> list[Finding]:
        now = self._clock.now().timestamp()
        return await self._in_thread(lambda: findings(self.path, self._segment, now=now, repair=repair))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        future = self._submit(work)
        if future is None:
            return work()  # the interpreter is ending and starts no thread any more
        return await asyncio.wrap_future(future)

    def _submit(self, work: Callable[[], T]) -> Future[T] | None:
        with self._mutex:
            if self._process != os.getpid():
                self._forget()  # after a fork: threads are gone, and a shared descriptor would share its lock
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_THREADS, "tanuki_async-files")
            try:
                return self._executor.submit(work)
            except RuntimeError:
                return None

    def _forget(self) -> None:
        self._process = os.getpid()
        self._executor = None
        self._segments = {}

    def _segment(self, name: str) -> Segment:
        """Return what is known of a name. Only the names used last are held; two segments of one name do no harm."""
        with self._mutex:
            segment = self._segments.pop(name, None) or Segment(self._data(name))
            self._segments[name] = segment  # the dict's order is that of last use
            oldest = self._segments.pop(next(iter(self._segments))) if len(self._segments) > _HELD else None
        if oldest is not None:
            self._save(oldest)
            oldest.release()
        return segment

    def _data(self, name: str) -> Path:
        return self.path / f"{name}.jsonl"

    def _prepare(self) -> None:
        """Make the directory, and check that this release understands what is in it."""
        need_locks()
        mark = self.path / "format"
        self._understood = False
        with translated("use", self.path):
            make_directory(self.path)
            try:
                text = mark.read_bytes()
            except FileNotFoundError:
                text = json.dumps({"tanuki_async": LAYOUT}).encode() + b"\n"
                replace(mark, text)
        _check_layout(text, mark)
        self._understood = True

    def _prepare_if_needed(self) -> None:
        """Prepare where nobody did, as for a default Tanuki, or the directory was deleted while in use."""
        if not (self._understood and self.path.is_dir()):
            self._prepare()

    def _append(self, name: str, lines: Sequence[bytes], latest: bool) -> tuple[Appended, Segment]:
        self._prepare_if_needed()
        segment = self._segment(name)
        return segment.append(lines, latest=latest), segment

    def _save(self, segment: Segment) -> None:
        try:
            segment.save()
        except OSError as error:
            logger.warning("the filter of %s could not be saved (%s): it is rebuilt when needed", self.path, error)

    def _save_and_release(self) -> None:
        with self._mutex:
            segments = list(self._segments.values())
        for segment in segments:
            self._save(segment)
            segment.release()

    def _list(self, ending: str, prefix: str) -> list[str]:
        with translated("list", self.path):
            return sorted(name for name in _walk(self.path, ending) if name.startswith(prefix))

    @contextlib.contextmanager
    def _locked(self, doing: str, path: Path) -> Generator[None]:
        self._prepare_if_needed()
        with translated(doing, path), locked(self.path / "lock"):
            yield

    def _put(self, path: Path, value: bytes, version: str | None) -> str | None:
        with self._locked("write", path):
            held = _value(path)
            if version != (held.version if held else None):
                return None
            replace(path, value)
            return _version(value)

    def _remove(self, path: Path) -> None:
        with self._locked("delete", path):
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                sync_directory(path.parent)

    def _claim(self, key: str, owner: str, seconds: float) -> Lease | None:
        path = self.path / f"{key}.lease"
        with self._locked("write", path):
            held = Held.claim(_held(path), owner, self._clock.now().timestamp(), seconds)
            if held is None:
                return None
            replace(path, held.to_json())
            return Lease(key, owner, held.token)

    def _release(self, lease: Lease) -> None:
        path = self.path / f"{lease.key}.lease"
        with self._locked("write", path):
            held = _held(path)
            if held is not None and held.is_of(lease):
                replace(path, held.ended().to_json())


def _check_layout(text: bytes, mark: Path) -> None:
    try:
        layout = json.loads(text)["tanuki_async"]
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{str(mark)!r} was not written by tanuki_async: {clip(repr(text), 60)}") from None
    if not isinstance(layout, int) or layout > LAYOUT:
        raise StorageError(
            f"{str(mark.parent)!r} has layout {layout!r}, this release reads up to {LAYOUT}: upgrade tanuki_async"
        )


def _walk(root: Path, ending: str) -> Iterator[str]:
    for directory, _, files in os.walk(root):
        for file in files:
            path = Path(directory, file)
            if file.endswith(ending) and (ending != ".jsonl" or _has_content(path)):
                yield path.relative_to(root).as_posix().removesuffix(ending)


def _has_content(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
        return path.stat().st_size > 0
    return False


def _value(path: Path) -> Versioned | None:
    with translated("read", path):
        try:
            value = path.read_bytes()
        except FileNotFoundError:
            return None
    return Versioned(value, _version(value))


def _version(value: bytes) -> str:
    """Name a value by its content: whoever read the same bytes knows all there is to know."""
    return mmh3.mmh3_x64_128_digest(value).hex()


def _held(path: Path) -> Held | None:
    try:
        return Held.from_json(path.read_bytes())
    except FileNotFoundError:
        return None
