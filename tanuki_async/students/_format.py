"""A student's parameters as bytes: a JSON header and raw arrays, each checked. Reading them runs no code."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tanuki_async._errors import StorageError
from tanuki_async._records import JsonValue

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

MAGIC = b"TANUKI-STUDENT\n"
VERSION = 1
LARGEST = 20 * 10**6
"""Bytes of parameters at most."""
_SIZES = struct.Struct("<HIII")  # version, bytes of the header, bytes of the arrays, checksum of both


def pack(header: Mapping[str, JsonValue], arrays: Mapping[str, NDArray[float32]]) -> bytes:
    """Write a header and named arrays of 32-bit floats, little-endian."""
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    text = json.dumps({**header, "arrays": shapes}, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
    raw = b"".join(array.astype("<f4").tobytes() for array in arrays.values())
    return MAGIC + _SIZES.pack(VERSION, len(text), len(raw), zlib.crc32(raw, zlib.crc32(text))) + text + raw


def unpack(parameters: bytes) -> tuple[dict[str, Any], dict[str, NDArray[float32]]]:
    """Read what `pack` wrote; StorageError where it is torn, foreign or from a newer release."""
    import numpy as np

    try:
        text, raw = _parts(parameters)
        header: dict[str, Any] = json.loads(text.decode("utf-8", "surrogatepass"))
        arrays: dict[str, NDArray[float32]] = {}
        start = 0
        for name, shape in header["arrays"].items():
            length = 4
            for size in shape:
                if type(size) is not int or size < 0:
                    raise ValueError(f"a shape of {shape!r}")
                length *= size
            arrays[name] = np.frombuffer(raw[start : start + length], dtype="<f4").reshape(shape)
            start += length
        if start != len(raw):
            raise ValueError("the arrays have another length than their shapes say")
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise StorageError(f"not the parameters of a student, or torn: {error}") from error
    return header, arrays


def _parts(parameters: bytes) -> tuple[bytes, bytes]:
    if not parameters.startswith(MAGIC):
        raise ValueError("they begin with something else")
    version, header, arrays, checksum = _SIZES.unpack_from(parameters, len(MAGIC))
    if version != VERSION:
        raise StorageError(
            f"the parameters of a student have version {version}, this release reads {VERSION}: "
            "install a newer tanuki_async"
        )
    start = len(MAGIC) + _SIZES.size
    text, raw = parameters[start : start + header], parameters[start + header :]
    if len(raw) != arrays or zlib.crc32(raw, zlib.crc32(text)) != checksum:
        raise ValueError("length or checksum is wrong")
    return text, raw
