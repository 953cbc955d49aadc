"""A growing Bloom filter: have we seen this key before?

Layers, as in Almeida, Baquero, Preguiça and Hutchison, "Scalable Bloom Filters" (2007): when a layer is full, a larger
one is added, a key is seen if any layer has it, and the compound error is at most the sum of the layers' errors. There
each layer is a little larger and tighter than the one before. Here they grow so fast that 10 million keys need only
two, and from the third on they tighten, so the sum converges. The first 10,000 keys are kept beside their small layer,
16 bytes each, until it is full: then they move to the next layer, and the small one is gone.

Within a layer, keys set bits in machine words, not anywhere: Putze, Sanders and Singler, "Cache-, Hash- and
Space-Efficient Bloom Filters" (2007), with patterns from a table. A key picks two words of 64 bits and one pattern of
four bits, and sets the pattern in both. With λ = 2·64·n/bits keys per word, Poisson distributed, and
f = Σⱼ P(j; λ) · P(a pattern is covered by j others), a layer's error is f²: 0.39 % at 12.4 bits per key.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from functools import cache

import mmh3

__all__ = ["Bloom", "BloomError"]

VERSION = 1
_MAGIC = b"tanukibloom"
_PREFIX = struct.Struct("<11sB")  # magic, version: this part is the same in every version
_HEADER = struct.Struct("<QII")  # keys added, kept keys, layers
_LAYER = struct.Struct("<IQ")  # level, words
_CHECK = struct.Struct("<I")  # CRC-32 of everything before it
_FIELDS = struct.Struct("<III4x").unpack

_KEY = 16
_PATTERNS = 4096
_PATTERN_BITS = 4
_LEVELS = ((1 << 11, 12.4), (1 << 16, 12.4), (1 << 21, 12.4), (1 << 23, 20.0), (1 << 25, 24.0))
"""Words of each layer, and its bits per key when full: 10 thousand, 340 thousand, 10.8 million keys …"""


class BloomError(ValueError):
    """A saved filter cannot be used: torn, foreign or from a newer release. Build a new one from the data."""


class Bloom:
    """A set of 16-byte keys that says "seen" of fewer than 1 % of the unseen, and never "unseen" of a seen one.

    Made for 10 keys to 10 million and beyond, at 12.4 bits per key when a layer is full. Not safe for several threads
    at once. A key must be a good hash already; `add_record` makes one from bytes of any length.
    """

    __slots__ = ("_count", "_kept", "_layers", "_level", "_masks", "_room")

    def __init__(self) -> None:
        self._masks = _masks()
        self._layers: list[tuple[array[int], int]] = []  # words, and the bits of a hash that make an index
        self._level = -1  # of the last layer
        self._count = 0
        self._room = 0
        self._kept: bytearray | None = None  # the first layer's keys
        self._grow()

    def __len__(self) -> int:
        """Count the keys that were added, without those that seemed to be there already."""
        return self._count

    def __contains__(self, key: bytes) -> bool:
        a, b, c = _FIELDS(key)
        mask = self._masks[c & 4095]
        return any(words[a & top] & mask == mask and words[b & top] & mask == mask for words, top in self._layers)

    def add(self, key: bytes) -> bool:
        """Add a key of 16 bytes; False if it was there, or seemed to be."""
        a, b, c = _FIELDS(key)
        mask = self._masks[c & 4095]
        for words, top in self._layers:
            if words[a & top] & mask == mask and words[b & top] & mask == mask:
                return False
        words[a & top] |= mask
        words[b & top] |= mask
        self._count += 1
        self._room -= 1
        if self._kept is not None:
            self._kept += key
        if not self._room:
            self._grow()
        return True

    def add_record(self, record: bytes) -> bool:
        """Add what `record` hashes to; False if it was there, or seemed to be."""
        return self.add(mmh3.mmh3_x64_128_digest(record))

    def update(self, keys: Sequence[bytes]) -> list[bool]:
        """Add many keys, in order; tell of each whether it was new. Faster per key than `add`."""
        return [self.add(key) for key in keys]

    def update_records(self, records: Iterable[bytes]) -> list[bool]:
        """Add many records, in order; tell of each whether it was new."""
        return self.update(list(map(mmh3.mmh3_x64_128_digest, records)))

    @property
    def bits(self) -> int:
        """The size of all layers, without the first keys that are kept beside them."""
        return sum(len(words) * 64 for words, _ in self._layers)

    @property
    def capacity(self) -> int:
        """How many keys there are when the next layer is added."""
        return self._count + self._room

    def to_bytes(self) -> bytes:
        """Write the filter down, with a version and a checksum."""
        kept = bytes(self._kept or b"")
        parts: list[bytes | memoryview] = [_PREFIX.pack(_MAGIC, VERSION)]
        parts += [_HEADER.pack(self._count, len(kept) // _KEY, len(self._layers)), kept]
        first = self._level - len(self._layers) + 1
        for level, (words, _) in enumerate(self._layers, first):
            parts += [_LAYER.pack(level, len(words)), _little(words)]
        checksum = 0
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        return b"".join([*parts, _CHECK.pack(checksum)])

    @classmethod
    def from_bytes(cls, blob: bytes | memoryview) -> Bloom:
        """Read what `to_bytes` wrote; BloomError says what is wrong with anything else."""
        view = memoryview(blob)
        _verify(view)
        bloom = cls()
        try:
            bloom._read(view[_PREFIX.size : -_CHECK.size])
        except (struct.error, ValueError, IndexError) as error:
            raise BloomError(f"a saved filter has a wrong inside ({error}): rebuild it from the data") from error
        return bloom

    def _read(self, view: memoryview) -> None:
        self._count, kept, layers = _HEADER.unpack_from(view)
        at = _HEADER.size + kept * _KEY
        self._kept = bytearray(view[_HEADER.size : at])
        self._layers.clear()
        for _ in range(layers):
            self._level, size = _LAYER.unpack_from(view, at)
            at += _LAYER.size
            words = _native(view[at : at + size * 8])
            at += size * 8
            if len(words) != size or size != _size(self._level):
                raise ValueError(f"layer {self._level} has {size} words")
            self._layers.append((words, size - 1))
        if self._level > 0:
            self._kept = None
        self._room = max(sum(_room(self._level - back) for back in range(layers)) - self._count, 1)

    def _grow(self) -> None:
        kept, self._kept = self._kept, None if self._layers else bytearray()
        self._level += 1
        if kept:
            self._layers.clear()
            self._count = 0
        size = _size(self._level)
        self._layers.append((array("Q", bytes(size * 8)), size - 1))
        self._room = _room(self._level)
        if kept:
            self.update([bytes(kept[at : at + _KEY]) for at in range(0, len(kept), _KEY)])


def _size(level: int) -> int:
    words, _ = _LEVELS[min(level, len(_LEVELS) - 1)]
    return words << 2 * max(level - len(_LEVELS) + 1, 0)


def _room(level: int) -> int:
    return int(_size(level) * 64 / _LEVELS[min(level, len(_LEVELS) - 1)][1])


@cache
def _masks() -> list[int]:
    """Make the table of patterns. Part of the format: it must never change within a version."""
    masks: list[int] = []
    for index in range(_PATTERNS):
        bits: set[int] = set()
        for byte in mmh3.mmh3_x64_128_digest(index.to_bytes(4, "little")):
            if len(bits) < _PATTERN_BITS:
                bits.add(byte & 63)
        masks.append(sum(1 << bit for bit in bits))
    return masks


def _verify(view: memoryview) -> None:
    if len(view) < _PREFIX.size + _HEADER.size + _CHECK.size:
        raise BloomError(f"a saved filter is torn: only {len(view)} bytes. Rebuild it from the data")
    magic, version = _PREFIX.unpack_from(view)
    if magic != _MAGIC:
        raise BloomError(f"not a saved filter: it begins with {bytes(view[:11])!r}. Rebuild it from the data")
    if version != VERSION:
        raise BloomError(
            f"a saved filter has version {version}, this release reads {VERSION}: rebuild it from the data"
        )
    body, check = view[: -_CHECK.size], view[-_CHECK.size :]
    if _CHECK.unpack(check)[0] != zlib.crc32(body):
        raise BloomError("a saved filter is torn: its checksum does not fit. Rebuild it from the data")


def _little(words: array[int]) -> bytes | memoryview:
    if sys.byteorder == "little":
        return memoryview(words).cast("B")
    swapped = words[:]
    swapped.byteswap()
    return swapped.tobytes()


def _native(raw: memoryview) -> array[int]:
    words = array("Q")
    words.frombytes(raw)
    if sys.byteorder != "little":
        words.byteswap()
    return words
