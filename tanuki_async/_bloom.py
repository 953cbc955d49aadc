"""A growing Bloom filter: have we seen this key before?

Layers, as in Almeida, Baquero, Preguiça and Hutchison, "Scalable Bloom Filters" (2007): when a layer is full, a larger
one is added, a key is seen if any layer has it, and the compound error is at most the sum of the layers' errors. There
each layer is a little larger and tighter than the one before. Here they grow so fast that 10 million keys need only
two, and from the third on they tighten, so the sum converges. The first 10,000 keys are a plain set, never wrong; they
move to the first layer when it is made.

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
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any, Literal

import mmh3

__all__ = ["Bloom", "BloomError"]

VERSION = 1
_MAGIC = b"tanukibloom"
_PREFIX = struct.Struct("<11sB")  # magic, version: this part is the same in every version
_HEADER = struct.Struct("<QII")  # keys added, exact keys, layers
_LAYER = struct.Struct("<Q")  # words
_CHECK = struct.Struct("<I")  # CRC-32 of everything before it
_FIELDS: Callable[[bytes], tuple[int, int, int]] = struct.Struct("<III4x").unpack

_KEY = 16
_PATTERNS = 4096
_PATTERN_BITS = 4
_WORTH_ARRAYS = 64
_EXACT = 10_000
_LEVELS = ((1 << 16, 12.4), (1 << 21, 12.4), (1 << 23, 20.0), (1 << 25, 24.0))
"""Words of each layer, and its bits per key when full: 340 thousand keys, 10.8 million, 26.8 million …"""


class BloomError(ValueError):
    """A saved filter cannot be used: torn, foreign or from a newer release. Build a new one from the data."""


class Bloom:
    """A set of 16-byte keys that says "seen" of fewer than 1 % of the unseen, and never "unseen" of a seen one.

    Made for 10 keys to 10 million and beyond, at 12.4 bits per key when a layer is full. Not safe for several threads
    at once. A key must be a good hash already; `add_record` makes one from bytes of any length.
    """

    __slots__ = ("_capacity", "_exact", "_full", "_masks", "_room", "_top", "_words")

    def __init__(self) -> None:
        self._exact: set[bytes] | None = set()  # until there are layers
        self._masks = _masks()
        self._full: tuple[tuple[array[int], int], ...] = ()  # the layers before the newest
        self._words: array[int] = array("Q")  # the newest layer
        self._top = 0  # the bits of a hash that make an index there
        self._capacity = self._room = 0  # of all layers, and how much of it is left

    def __len__(self) -> int:
        """Count the keys that were added, without those that seemed to be there already."""
        return self._capacity - self._room if self._exact is None else len(self._exact)

    def __contains__(self, key: bytes) -> bool:
        if self._exact is not None:
            return key in self._exact
        a, b, c = _FIELDS(key)
        mask = self._masks[c & 4095]
        if self._words[a & self._top] & mask == mask and self._words[b & self._top] & mask == mask:
            return True
        return bool(self._full) and _has(self._full, a, b, mask)

    def add(self, key: bytes) -> bool:
        """Add a key of 16 bytes; False if it was there, or seemed to be."""
        if self._exact is not None:
            return self._add_exact(key)
        a, b, c = _FIELDS(key)
        mask = self._masks[c & 4095]
        words, top = self._words, self._top
        index = a & top
        word = words[index]
        if word & mask == mask and words[b & top] & mask == mask:
            return False
        if self._full and _has(self._full, a, b, mask):
            return False
        words[index] = word | mask
        words[b & top] |= mask
        self._room -= 1
        if not self._room:
            self._grow()
        return True

    def add_record(self, record: bytes) -> bool:
        """Add what `record` hashes to; False if it was there, or seemed to be."""
        return self.add(mmh3.mmh3_x64_128_digest(record))

    def update(self, keys: Sequence[bytes]) -> list[bool]:
        """Add many keys, in order; tell of each whether it was new.

        Much faster per key than `add` where the program has loaded numpy, and faster without it.
        """
        numpy = sys.modules.get("numpy")  # never loaded for this alone
        if numpy is not None and len(keys) >= _WORTH_ARRAYS and sys.byteorder == "little":
            work: Callable[[Sequence[bytes]], list[bool]] = partial(self._add_arrays, numpy)
        else:
            work = self._add_many
        new: list[bool] = []
        while len(new) < len(keys):  # one layer at a time
            done = len(new)
            if self._exact is not None:
                new += map(self._add_exact, keys[done : done + _EXACT - len(self._exact)])
            else:
                new += work(keys[done : done + self._room])
                if not self._room:
                    self._grow()
        return new

    def update_records(self, records: Iterable[bytes]) -> list[bool]:
        """Add many records, in order; tell of each whether it was new."""
        return self.update(list(map(mmh3.mmh3_x64_128_digest, records)))

    def _add_exact(self, key: bytes) -> bool:
        assert self._exact is not None
        if key in self._exact:
            return False
        self._exact.add(key)
        if len(self._exact) == _EXACT:
            exact, self._exact = self._exact, None
            self._grow()
            self.update(list(exact))
        return True

    def _add_many(self, keys: Sequence[bytes]) -> list[bool]:
        masks, words, top, full = self._masks, self._words, self._top, self._full
        new: list[bool] = []
        fields = _native("I", b"".join(keys))
        for a, b, c in zip(fields[0::4], fields[1::4], fields[2::4], strict=True):
            mask = masks[c & 4095]
            index = a & top
            word = words[index]
            if (word & mask == mask and words[b & top] & mask == mask) or (full and _has(full, a, b, mask)):
                new.append(False)
            else:
                words[index] = word | mask
                words[b & top] |= mask
                new.append(True)
        self._room -= sum(new)
        return new

    def _add_arrays(self, np: Any, keys: Sequence[bytes]) -> list[bool]:
        fields = np.frombuffer(b"".join(keys), dtype="<u4").reshape(-1, 4)
        masks = _mask_array(np)[fields[:, 2] & 4095]
        a, b = fields[:, 0], fields[:, 1]
        fresh = np.ones(len(keys), dtype=bool)
        for words, top in self._layers():
            layer = np.frombuffer(words, dtype="<u8")
            fresh &= (layer[a & top] & layer[b & top] & masks) != masks
        if len(set(keys)) < len(keys):
            backwards = {key: len(keys) - 1 - index for index, key in enumerate(reversed(keys))}
            first = np.zeros(len(keys), dtype=bool)
            first[list(backwards.values())] = True
            fresh &= first
        last, masks = np.frombuffer(self._words, dtype="<u8"), masks[fresh]
        np.bitwise_or.at(last, a[fresh] & self._top, masks)
        np.bitwise_or.at(last, b[fresh] & self._top, masks)
        self._room -= int(fresh.sum())
        new: list[bool] = fresh.tolist()
        return new

    @property
    def bits(self) -> int:
        """The size of all layers, or of the keys while there are none."""
        return sum(len(words) * 64 for words, _ in self._layers()) + len(self._exact or ()) * _KEY * 8

    @property
    def capacity(self) -> int:
        """How many keys there are when the next layer is added."""
        return self._capacity if self._exact is None else _EXACT

    def _layers(self) -> tuple[tuple[array[int], int], ...]:
        return (*self._full, (self._words, self._top)) if self._words else ()

    def to_bytes(self) -> bytes:
        """Write the filter down, with a version and a checksum."""
        exact, layers = b"".join(sorted(self._exact or ())), self._layers()
        parts: list[bytes | memoryview] = [_PREFIX.pack(_MAGIC, VERSION)]
        parts += [_HEADER.pack(len(self), len(exact) // _KEY, len(layers)), exact]
        for words, _ in layers:
            parts += [_LAYER.pack(len(words)), _little(words)]
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
        count, exact, layers = _HEADER.unpack_from(view)
        at, end = _HEADER.size, _HEADER.size + exact * _KEY
        if not layers:
            self._exact = {bytes(view[begin : begin + _KEY]) for begin in range(at, end, _KEY)}
            return
        self._exact = None
        for level in range(layers):
            (size,) = _LAYER.unpack_from(view, end)
            at, end = end + _LAYER.size, end + _LAYER.size + size * 8
            if size != _size(level):
                raise ValueError(f"layer {level} has {size} words")
            self._full = self._layers()
            self._words, self._top = _native("Q", view[at:end]), size - 1
            self._capacity += _room(level)
        self._room = self._capacity - count

    def _grow(self) -> None:
        self._full = self._layers()
        level = len(self._full)
        self._words, self._top = array("Q", bytes(_size(level) * 8)), _size(level) - 1
        self._capacity += _room(level)
        self._room += _room(level)


def _has(layers: tuple[tuple[array[int], int], ...], a: int, b: int, mask: int) -> bool:
    for words, top in layers:  # noqa: SIM110 — a generator would cost more than the work
        if words[a & top] & mask == mask and words[b & top] & mask == mask:
            return True
    return False


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


@cache
def _mask_array(np: Any) -> Any:
    return np.array(_masks(), dtype="<u8")


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


def _native(kind: Literal["I", "Q"], raw: bytes | memoryview) -> array[int]:
    numbers: array[int] = array(kind)
    numbers.frombytes(raw)
    if sys.byteorder != "little":
        numbers.byteswap()
    return numbers
