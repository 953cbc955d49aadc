"""A file that is read piece by piece, with the checksum of all that was read."""

from __future__ import annotations

import sys
import zlib
from array import array
from typing import Protocol

__all__ = ["Checked", "Source"]


class Source(Protocol):
    """What is read of a file."""

    def read(self, size: int, /) -> bytes: ...
    def readinto(self, place: memoryview, /) -> int: ...


class Checked:
    """Reads what must be there: EOFError where it is not."""

    def __init__(self, file: Source) -> None:
        self._file, self.checksum = file, 0

    def read(self, size: int) -> bytes:
        self._check(content := self._file.read(size), size)
        return content

    def read_into(self, words: array[int]) -> None:
        """Fill an array, whose numbers have their lowest byte first in the file; nothing is copied."""
        with memoryview(words).cast("B") as view:
            size = self._file.readinto(view)
            self._check(view[:size], len(view))
        if sys.byteorder != "little":
            words.byteswap()

    def _check(self, content: bytes | memoryview, size: int) -> None:
        if len(content) < size:
            raise EOFError(f"{size} bytes were expected, {len(content)} came")
        self.checksum = zlib.crc32(content, self.checksum)
