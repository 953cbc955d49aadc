"""Tiny pictures, drawn here."""

from __future__ import annotations

import struct
import zlib

from tanuki_async import Image


def png_bytes(shade: int = 0, width: int = 2, height: int = 2, *, padding: int = 0) -> bytes:
    """A grey PNG; `padding` bytes of a chunk that viewers ignore make it as large as a test wants it."""
    pixels = zlib.compress((b"\0" + bytes([shade]) * width) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    if padding:
        chunks.insert(1, (b"tEXt", b"x\0" + b"y" * padding))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(shade: int = 0, *, padding: int = 0) -> Image:
    """An image that differs from one of another shade."""
    return Image(png_bytes(shade, padding=padding))
