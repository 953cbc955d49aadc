"""How lines lie in a file of the journal: each with its name and a checksum, so that a torn end is seen."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

__all__ = ["frames", "lines_in"]

_FRAME = struct.Struct("<IHI")  # bytes of the line, bytes of its name, checksum of both


def frames(lines: Iterable[tuple[str, bytes]]) -> bytes:
    """Return what stands for these lines."""
    return b"".join([_frame(name.encode(), line) for name, line in lines])


def lines_in(content: bytes) -> Iterator[tuple[str, bytes]]:
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


def _frame(name: bytes, line: bytes) -> bytes:
    return b"".join((_FRAME.pack(len(line), len(name), zlib.crc32(line, zlib.crc32(name))), name, line))
