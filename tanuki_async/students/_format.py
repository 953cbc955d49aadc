"""A student's parameters as bytes: a JSON header, lists of names and raw arrays. Reading them runs no code."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from tanuki_async._errors import StorageError

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

MAGIC = b"TANUKI-STUDENT\n"
VERSION = 1
LARGEST = 20 * 10**6
"""Bytes of parameters at most."""
_SIZES = struct.Struct("<HIQI")  # version, bytes of the header, bytes of all that follows it, checksum of both
_TOGETHER = 4000
"""Names that are encoded at once: the encoder lets no other thread run meanwhile."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What parameters hold: small facts, long lists of names, and arrays of 32-bit floats."""

    header: Mapping[str, Any]
    names: Mapping[str, Sequence[str]]
    arrays: Mapping[str, NDArray[float32]]


def pack(contents: Contents) -> bytes:
    """Write contents as bytes; numbers are little-endian."""
    body: list[bytes] = []
    names: dict[str, list[int]] = {}
    for name, listed in contents.names.items():
        texts = [_encode(listed[start : start + _TOGETHER]) for start in range(0, len(listed), _TOGETHER)]
        names[name] = [len(text) for text in texts]
        body += texts
    shapes = {name: list(array.shape) for name, array in contents.arrays.items()}
    body += [array.astype("<f4").tobytes() for array in contents.arrays.values()]
    header = _encode({**contents.header, "names": names, "arrays": shapes})
    rest = b"".join(body)
    return MAGIC + _SIZES.pack(VERSION, len(header), len(rest), crc32(rest, crc32(header))) + header + rest


def unpack(parameters: bytes) -> Contents:
    """Read what `pack` wrote; StorageError where it is torn, foreign or from a newer release."""
    try:
        header, rest = _parts(parameters)
        names: dict[str, list[str]] = {}
        for name, lengths in header["names"].items():
            names[name] = [each for length in lengths for each in _decode(rest.take(length))]
        arrays = {name: _array(rest, shape) for name, shape in header["arrays"].items()}
        if rest.left:
            raise ValueError(f"{rest.left} bytes are left over")
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise StorageError(f"not the parameters of a student, or torn: {error}") from error
    return Contents(header, names, arrays)


class _Reader:
    """Takes bytes off the front, never more than there are."""

    def __init__(self, text: bytes) -> None:
        self._text, self._start = text, 0

    @property
    def left(self) -> int:
        return len(self._text) - self._start

    def take(self, length: int) -> bytes:
        if type(length) is not int or not 0 <= length <= self.left:
            raise ValueError(f"a length of {length!r} where {self.left} bytes are left")
        self._start += length
        return self._text[self._start - length : self._start]


def _parts(parameters: bytes) -> tuple[dict[str, Any], _Reader]:
    reader = _Reader(parameters)
    if reader.take(min(len(MAGIC), reader.left)) != MAGIC:
        raise ValueError("they begin with something else")
    version, header, rest, checksum = _SIZES.unpack(reader.take(_SIZES.size))
    if version != VERSION:
        raise StorageError(
            f"the parameters of a student have version {version}, this release reads {VERSION}: "
            "install a newer tanuki_async"
        )
    text = reader.take(header)
    if reader.left != rest or crc32(parameters[-rest:] if rest else b"", crc32(text)) != checksum:
        raise ValueError("length or checksum is wrong")
    return _decode(text), reader


def _array(reader: _Reader, shape: Sequence[int]) -> NDArray[float32]:
    import numpy as np

    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"a shape of {shape!r}")
    return np.frombuffer(reader.take(4 * math.prod(shape)), dtype="<f4").reshape(shape)


def _encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _decode(text: bytes) -> Any:
    return json.loads(text.decode("utf-8", "surrogatepass"))
