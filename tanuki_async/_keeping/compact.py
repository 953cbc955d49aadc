"""Fewer lines that say the same: repeated examples and answers that a later one replaced are dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tanuki_async._errors import StorageError
from tanuki_async._lines import arguments_key, key_of
from tanuki_async._record import dataset
from tanuki_async.abc import Storage

__all__ = ["compact", "superseded"]

_ANSWERED = (dataset.PATCHES, dataset.SYMBOLIC_ALIGNMENTS)


async def compact(storage: Storage, *, dry_run: bool = False) -> dict[str, int]:
    """Rewrite every data set that has lines to spare; return how many went, by name. Holds a few bytes per input."""
    gone: dict[str, int] = {}
    for name in await storage.names():
        each = name.rpartition("/")[2]
        if each not in dataset.DATASETS:
            continue
        question = input_of if each in _ANSWERED else key_of
        later = await superseded(storage, name, question)
        if later:
            gone[name] = later.total() if dry_run else await storage.rewrite(name, _newest(later, question))
    return gone


async def superseded(storage: Storage, name: str, question: Callable[[bytes], bytes]) -> Counter[bytes]:
    """Count, for each input with several lines, how many of these come before its last."""
    seen: set[bytes] = set()
    again: Counter[bytes] = Counter()
    async for lines in storage.scan(name):
        for key in map(question, lines):
            if key in seen:
                again[key] += 1
            else:
                seen.add(key)
    return again


def input_of(line: bytes) -> bytes:
    """Return what a line is about: its arguments, or for one that cannot be read, the line itself."""
    try:
        return arguments_key(line)
    except (StorageError, ValueError):
        return key_of(line)


def _newest(later: Counter[bytes], question: Callable[[bytes], bytes]) -> Callable[[list[bytes]], list[bytes]]:
    """Leave out as many lines of each input as were counted, from the first on. What came since stays."""
    left = later.copy()

    def change(lines: list[bytes]) -> list[bytes]:
        kept: list[bytes] = []
        for line in lines:
            key = question(line)
            if left[key] > 0:
                left[key] -= 1
            else:
                kept.append(line)
        return kept

    return change
