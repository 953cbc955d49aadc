"""How far an index has read a file of lines, and how such a file is read."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from tanuki_async.storage._files import translated
from tanuki_async.storage._seen import Index

_CHUNK = 1 << 20
ANCHOR = 512
"""Bytes by which a file is recognised."""


@dataclass(slots=True)
class Position:
    """How far an index has read. `anchor` is the end of what it read, to notice a file that was replaced."""

    index: Index
    offset: int = 0
    lines: int = 0
    anchor: bytes = b""

    def move(self, lines: int, size: int, tail: bytes) -> None:
        """Take note of lines that the index has, and of how they end."""
        self.offset += size
        self.lines += lines
        self.anchor = (self.anchor + tail)[-ANCHOR:]

    def follow(self, descriptor: int, end: int) -> None:
        """Read on from there, whole lines only."""
        for lines, size in read(descriptor, self.offset, end):
            self.index.feed(lines)
            self.move(len(lines), size, (b"\n".join(lines[-ANCHOR:]) + b"\n")[-ANCHOR:])

    def is_valid(self, descriptor: int) -> bool:
        """Tell whether what was read is still there, not cut off or replaced."""
        length = len(self.anchor)
        return os.pread(descriptor, length, self.offset - length) == self.anchor


def batches(path: Path, start: int) -> Generator[list[bytes]]:
    """Read the whole lines that the file has now, a megabyte at a time, leaving out the first `start`."""
    with translated("read", path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            for lines, _ in read(descriptor, 0, os.fstat(descriptor).st_size):
                if start < len(lines):
                    yield lines[start:]
                start = max(start - len(lines), 0)
        finally:
            os.close(descriptor)


def read(descriptor: int, offset: int, end: int) -> Iterator[tuple[list[bytes], int]]:
    """Read whole lines and how many bytes they took; stops before a line without its end."""
    rest: list[bytes] = []
    while offset < end and (chunk := os.pread(descriptor, min(_CHUNK, end - offset), offset)):
        offset += len(chunk)
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            rest.append(chunk)  # a line longer than a chunk
            continue
        whole = b"".join((*rest, chunk[:cut]))
        rest = [chunk[cut:]]
        yield whole[:-1].split(b"\n"), len(whole)
