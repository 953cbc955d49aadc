"""Each process has a directory of its own in a journal, and holds it locked while it lives."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from tanuki_async.storage._files import is_at, lock, make_directory, sync_directory

__all__ = ["Own"]


class Own:
    """The directory of this process, made when it is first needed. Several may exist, in one process too."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path: Path | None = None
        self._held: int | None = None  # the descriptor whose lock says that this process lives

    def path(self) -> Path:
        """Return the directory, and make it where there is none yet, or it was deleted."""
        if self._path is not None and not self._path.is_dir():
            self.let_go()
        while self._path is None:
            draft = self._root / f"{os.getpid()}-{secrets.token_hex(4)}"
            make_directory(draft)
            descriptor = _locked(draft)  # None where another process takes it for one that was left
            if descriptor is not None and is_at(descriptor, draft):
                self._held, self._path = descriptor, draft
        return self._path

    def left(self) -> Iterator[Path]:
        """Hand over the directories of processes that died, the oldest first, each locked meanwhile."""
        if not self._root.is_dir():
            return
        for left in sorted(self._root.iterdir(), key=_age):
            if left.is_dir() and left != self._path and (descriptor := _locked(left)) is not None:
                try:
                    yield left
                finally:
                    os.close(descriptor)

    def sync(self) -> None:
        """Make what was moved here outlive a power loss."""
        if self._path is not None:
            sync_directory(self._path)

    def let_go(self, *, empty: bool = False) -> None:
        """Leave the directory to the next process, or delete it where it is empty."""
        if empty and self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
        held, self._held, self._path = self._held, None, None
        if held is not None:
            os.close(held)


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
