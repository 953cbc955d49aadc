"""Files that several processes share: locked, replaced whole, and with errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import itertools
import os
import time
from collections.abc import Generator
from pathlib import Path

from tanuki_async._errors import StorageError

__all__ = ["locked", "make_directory", "open_locked", "replace", "replacing", "translated"]

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "the file may not grow further: raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "the file system is read-only: set {setting} to a directory that can be written",
    errno.EACCES: "permission is missing: fix the rights, or set {setting} to another directory",
    errno.EPERM: "permission is missing: fix the rights, or set {setting} to another directory",
    errno.ETIMEDOUT: "another process holds its lock and does not go on: end that one",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOTDIR: "a file is where a directory should be: move it, or set {setting} to another directory",
    errno.EISDIR: "a directory is where a file should be: move it away",
    errno.ENAMETOOLONG: "the path is too long: set {setting} to a shorter one",
}
_DOWN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE})
"""What is so for all files of a disk, or of this process."""
_LOCK_SECONDS = 30.0
"""How long to wait for a lock: one that a stopped process holds must not keep this one from ending."""
_serial = itertools.count()


@contextlib.contextmanager
def translated(doing: str, path: Path, *, setting: str = "TANUKI_LOG_DIR") -> Generator[None]:
    """Turn an OSError into a StorageError that names the path and what to do; `setting` chooses the directory."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "").format(setting=setting) or error.strerror or repr(error)
        raise StorageError(
            f"could not {doing} {str(path)!r}: {advice} ({type(error).__name__} {error.errno})",
            down=error.errno in _DOWN,
        ) from error


def make_directory(path: Path) -> None:
    """Make a directory that only its user reads, and those above it, so that they outlive a power loss."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    sync_directory(path.parent)


def open_locked(path: Path) -> int:
    """Open a file for appending and lock it against other processes, creating it and its directory where missing.

    The descriptor is of the file that has this path now: one that was deleted while waiting for the lock is let go.
    """
    while True:
        descriptor, created = _open(path)
        try:
            lock(descriptor)
            if is_at(descriptor, path):
                if created:
                    sync_directory(path.parent)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def need_locks() -> None:
    """Raise StorageError on a system without the locks that the files need."""
    if importlib.util.find_spec("fcntl") is None:
        raise StorageError(
            "FilesystemStorage needs file locks as Unix has them; on Windows use MemoryStorage, Redis or S3, or WSL"
        )


def lock(descriptor: int, *, seconds: float = _LOCK_SECONDS) -> None:
    """Wait until no other process, thread or storage holds the lock of this open file. TimeoutError where one does."""
    import fcntl  # here, as Windows has none

    deadline, pause = time.monotonic() + seconds, 0.0005
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "the lock is held") from None
            time.sleep(pause)
            pause = min(2 * pause, 0.002)  # short, or a busy writer would always be first
        else:
            return


def unlock(descriptor: int) -> None:
    """Let others have the lock."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the lock that the file at `path` stands for."""
    descriptor = open_locked(path)
    try:
        yield
    finally:
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Tell whether the open file is still the one with this path."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def replace(path: Path, content: bytes) -> None:
    """Put `content` at `path`, whole and durable, or leave what was there."""
    with replacing(path) as descriptor:
        write_all(descriptor, content)


@contextlib.contextmanager
def replacing(path: Path) -> Generator[int]:
    """Give a descriptor to write to; what was written stands at `path`, whole and durable, or what was there before."""
    make_directory(path.parent)
    draft = path.with_name(f"{path.name}.{os.getpid()}-{next(_serial)}.tmp")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write everything; an OSError may leave a part."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_data(descriptor: int) -> None:
    """Make what was written outlive a power loss."""
    getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS has no fdatasync


def sync_directory(path: Path) -> None:
    """Make what was created or renamed in a directory outlive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
    while True:
        try:
            return os.open(path, flags), False
        except FileNotFoundError:
            make_directory(path.parent)
        try:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
        except (FileExistsError, FileNotFoundError):
            continue  # another process was faster, or somebody removes the directory: look again
