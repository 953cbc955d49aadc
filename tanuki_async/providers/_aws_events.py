"""AWS's binary event stream: frames with headers, a payload and two checksums. Pure: no await, no I/O."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

LARGEST_FRAME = 2**24
_PRELUDE = struct.Struct("!III")  # length of all, length of the headers, checksum of these two
_CHECKSUM = struct.Struct("!I")
_LENGTH = struct.Struct("!H")
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type: true, false, integers, a time, a UUID. We need none of them."""


class BrokenFrameError(ValueError):
    """The bytes are no frame; the message says why."""


@dataclass(frozen=True, slots=True)
class Event:
    """One frame. `headers` holds those whose value is a text."""

    headers: dict[str, str]
    payload: bytes


class Frames:
    """Feed it bytes, however they are cut; it gives each frame that they complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def whole(self) -> bool:
        """Whether nothing of an unfinished frame is left."""
        return not self._buffer

    def feed(self, piece: bytes) -> list[Event]:
        """Take the next piece of the body. BrokenFrameError where it is not what it should be."""
        self._buffer += piece
        found: list[Event] = []
        while len(self._buffer) >= _PRELUDE.size:
            length, headers, checksum = _PRELUDE.unpack_from(self._buffer)
            if zlib.crc32(self._buffer[:8]) != checksum:
                raise BrokenFrameError("the checksum of a frame's beginning is wrong")
            if not _PRELUDE.size + headers + 4 <= length <= LARGEST_FRAME:
                raise BrokenFrameError(f"a frame says that it has {length} bytes")
            if len(self._buffer) < length:
                break
            found.append(_read(bytes(self._buffer[:length]), headers))
            del self._buffer[:length]
        return found


def _read(frame: bytes, headers: int) -> Event:
    if zlib.crc32(frame[:-4]) != _CHECKSUM.unpack_from(frame, len(frame) - 4)[0]:
        raise BrokenFrameError("the checksum of a frame is wrong")
    end = _PRELUDE.size + headers
    try:
        return Event(_headers(frame[_PRELUDE.size : end]), frame[end:-4])
    except (IndexError, struct.error, KeyError) as error:
        raise BrokenFrameError("the headers of a frame cannot be read") from error


def _headers(raw: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    place = 0
    while place < len(raw):
        start = place + 1
        end = start + raw[place]
        name, kind = raw[start:end].decode("utf-8", "replace"), raw[end]
        place = end + 1
        if kind in (6, 7):  # bytes, a text
            (length,) = _LENGTH.unpack_from(raw, place)
            place += _LENGTH.size
            if kind == 7:
                found[name] = raw[place : place + length].decode("utf-8", "replace")
        else:
            length = _FIXED[kind]
        place += length
    return found


def write(headers: dict[str, str], payload: bytes) -> bytes:
    """Write one frame; for servers."""
    fields = b"".join([_header(name.encode(), value.encode()) for name, value in headers.items()])
    sizes = struct.pack("!II", _PRELUDE.size + len(fields) + len(payload) + 4, len(fields))
    frame = sizes + _CHECKSUM.pack(zlib.crc32(sizes)) + fields + payload
    return frame + _CHECKSUM.pack(zlib.crc32(frame))


def _header(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + b"\x07" + _LENGTH.pack(len(value)) + value
