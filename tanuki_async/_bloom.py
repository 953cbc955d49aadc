"""A growing Bloom filter: have we seen this key before?

Layers, as in Almeida, Baquero, Preguiça and Hutchison, "Scalable Bloom Filters" (2007): when a layer is full, a larger
one is added, a key is seen if any layer has it, and the compound error is at most the sum of the layers' errors. There
each layer is a little larger and tighter than the one before. Here they grow so fast that 10 million keys need only
two, and from the third on they tighten, so the sum converges. The first 10,000 keys are a plain set, never wrong; they
move to the first layer when it is made.

Within a layer, keys set bits in machine words, not anywhere: Putze, Sanders and Singler, "Cache-, Hash- and
Space-Efficient Bloom Filters" (2007), with patterns from a table. A key picks two words of 32 bits and one pattern of
three bits, and sets the pattern in both. With λ = 2·32·n/bits keys per word, Poisson distributed, and
f = Σⱼ P(j; λ) · P(a pattern is covered by j others), a layer's error is f²: 0.49 % at 12.5 bits per key. Words of 64
bits would err less (0.41 %), but Python works faster with numbers of 32.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import combinations
from typing import Any

from mmh3 import mmh3_x64_128_digest as digest
from mmh3 import mmh3_x64_128_utupledigest as halves_of

from tanuki_async._checked import Checked, Source
from tanuki_async._turns import in_turns

__all__ = ["EXACT", "Bloom", "BloomError", "layer", "stamped"]

VERSION = 2
_MAGIC = b"tanukibloom"
_PREFIX = struct.Struct("<11sB")  # magic, version: this part is the same in every version
_HEADER = struct.Struct("<QII")  # keys added, exact keys, layers
_LAYER = struct.Struct("<Q")  # words
_CHECK = struct.Struct("<I")  # CRC-32 of everything before it
_HALVES: Callable[[bytes], tuple[int, int]] = struct.Struct("<QQ").unpack

_KEY = 16
_PATTERNS = 4096
_TO_PATTERN = 52  # the upper 12 bits of a key's first half pick its pattern, the lower ones of each half a word
_WORD = 4  # bytes
_WORTH_ARRAYS = 64
EXACT = 10_000
"""Keys that are a plain set before there are layers."""
_LEVELS = ((1 << 17, 12.49), (1 << 22, 12.49), (1 << 24, 20.0), (1 << 26, 24.0))
"""Words of each layer, and its bits per key when full: 335 thousand keys, 10.7 million, 26.8 million …"""


class BloomError(ValueError):
    """A saved filter cannot be used: torn, foreign or from another release. Build a new one from the data."""


class Bloom:
    """A set of 16-byte keys that says "seen" of fewer than 1 % of the unseen, and never "unseen" of a seen one.

    Made for 10 keys to 10 million, at 12.5 bits per key when a layer is full; beyond, it errs hardly more. Not safe for
    several threads at once. A key must be a good hash already; `add_record` makes one from bytes of any length.
    """

    __slots__ = ("_capacity", "_exact", "_full", "_masks", "_room", "_top", "_words")

    def __init__(self) -> None:
        self._exact: set[bytes] | None = set()  # until there are layers
        self._masks = _masks()
        self._full: tuple[tuple[array[int], int], ...] = ()  # the layers before the newest
        self._words: array[int] = array("I")  # the newest layer
        self._top = 0  # the bits of a half that make an index there
        self._capacity = self._room = 0  # of all layers, and how much of it is left

    def __len__(self) -> int:
        """Count the keys that were added, without those that seemed to be there already."""
        return self._capacity - self._room if self._exact is None else len(self._exact)

    def __contains__(self, key: bytes) -> bool:
        if self._exact is not None:
            return key in self._exact
        a, b = _HALVES(key)
        mask = self._masks[a >> _TO_PATTERN]
        words, top = self._words, self._top
        if words[a & top] & mask == mask and words[b & top] & mask == mask:
            return True
        return bool(self._full) and _has(self._full, a, b, mask)

    def add_record(self, record: bytes) -> bool:
        """Add the key that `record` hashes to; False if it was there, or seemed to be."""
        if self._exact is not None:
            return self._add_exact(digest(record))
        a, b = halves_of(record)
        words, top, mask = self._words, self._top, self._masks[a >> _TO_PATTERN]
        i, j = a & top, b & top
        one, two = words[i], words[j]
        new_one, new_two = one | mask, two | mask
        if (new_one == one and new_two == two) or (self._full and _has(self._full, a, b, mask)):
            return False
        words[i] = new_one
        words[j] = new_two
        self._room = room = self._room - 1
        if not room:
            self._grow()
        return True

    def update_records(self, records: Iterable[bytes]) -> list[bool]:
        """Add what many records hash to, in order; tell of each whether it was new."""
        return self.update(list(map(digest, records)))

    def update(self, keys: Sequence[bytes]) -> list[bool]:
        """Add many keys, in order; tell of each whether it was new.

        Faster per key than one at a time; three times as fast where the program has loaded numpy.
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
                new += map(self._add_exact, keys[done : done + EXACT - len(self._exact)])
            else:
                new += work(keys[done : done + self._room])
                if not self._room:
                    self._grow()
        return new

    def _add_exact(self, key: bytes) -> bool:
        exact = self._exact
        assert exact is not None
        if key in exact:
            return False
        exact.add(key)
        if len(exact) == EXACT:
            self._exact = None
            self._grow()
            for keys in in_turns(list(exact)):
                self.update(keys)
        return True

    def _add_many(self, keys: Sequence[bytes]) -> list[bool]:
        masks, words, top, full = self._masks, self._words, self._top, self._full
        new: list[bool] = []
        halves = array("Q", b"".join(keys))
        if sys.byteorder != "little":
            halves.byteswap()
        for a, b in zip(halves[0::2], halves[1::2], strict=True):
            mask = masks[a >> _TO_PATTERN]
            i, j = a & top, b & top
            one, two = words[i], words[j]
            new_one, new_two = one | mask, two | mask
            if (new_one == one and new_two == two) or (full and _has(full, a, b, mask)):
                new.append(False)
            else:
                words[i] = new_one
                words[j] = new_two
                new.append(True)
        self._room -= sum(new)
        return new

    def _add_arrays(self, np: Any, keys: Sequence[bytes]) -> list[bool]:
        joined = b"".join(keys)
        quarters = np.frombuffer(joined, dtype="<u4").reshape(-1, 4)
        masks = _mask_array(np)[quarters[:, 1] >> (_TO_PATTERN - 32)]
        a, b = quarters[:, 0], quarters[:, 2]
        fresh = np.ones(len(keys), dtype=bool)
        for words, top in self._layers():
            layer = np.frombuffer(words, dtype="<u4")
            fresh &= (layer[a & top] & layer[b & top] & masks) != masks
        ordered = np.sort(np.frombuffer(joined, dtype="<u8")[0::2])
        if (ordered[1:] == ordered[:-1]).any():  # maybe a key that comes twice
            backwards = {key: len(keys) - 1 - index for index, key in enumerate(reversed(keys))}
            first = np.zeros(len(keys), dtype=bool)
            first[list(backwards.values())] = True
            fresh &= first
        last, masks = np.frombuffer(self._words, dtype="<u4"), masks[fresh]
        np.bitwise_or.at(last, a[fresh] & self._top, masks)
        np.bitwise_or.at(last, b[fresh] & self._top, masks)
        self._room -= int(fresh.sum())
        new: list[bool] = fresh.tolist()
        return new

    @property
    def bits(self) -> int:
        """The size of all layers, or of the keys while there are none."""
        return sum(len(words) * _WORD * 8 for words, _ in self._layers()) + len(self._exact or ()) * _KEY * 8

    @property
    def capacity(self) -> int:
        """How many keys there are when the next layer is added."""
        return self._capacity if self._exact is None else EXACT

    def _layers(self) -> tuple[tuple[array[int], int], ...]:
        return (*self._full, (self._words, self._top)) if self._words else ()

    def dump(self) -> Iterator[bytes | memoryview]:
        """Give the saved form in parts. Layers are not copied: add nothing meanwhile."""
        exact, layers = b"".join(sorted(self._exact or ())), self._layers()
        parts: list[bytes | memoryview] = [_PREFIX.pack(_MAGIC, VERSION)]
        parts += [_HEADER.pack(len(self), len(exact) // _KEY, len(layers)), exact]
        for words, _ in layers:
            parts += [_LAYER.pack(len(words)), _little(words)]
        checksum = 0
        for part in parts:
            checksum = zlib.crc32(part, checksum)
            yield part
        yield _CHECK.pack(checksum)

    @classmethod
    def load(cls, file: Source) -> Bloom:
        """Read what `dump` gave, to the end of the file; BloomError says what is wrong with anything else."""
        bloom, source = cls(), Checked(file)
        try:
            bloom._read(source)
        except EOFError:
            raise _unusable("is torn, as its end is missing") from None
        if file.read(_CHECK.size + 1) != _CHECK.pack(source.checksum):
            raise _unusable("is torn, as its checksum does not fit")
        return bloom

    def _read(self, source: Checked) -> None:
        magic, version = _PREFIX.unpack(source.read(_PREFIX.size))
        if magic != _MAGIC:
            raise _unusable(f"begins with {magic!r}")
        if version != VERSION:
            raise _unusable(f"has version {version}, this release reads {VERSION}")
        count, exact, layers = _HEADER.unpack(source.read(_HEADER.size))
        if exact > EXACT:
            raise _unusable(f"has {exact} exact keys")
        keys = source.read(exact * _KEY)
        if not layers:
            self._exact = {keys[begin : begin + _KEY] for begin in range(0, len(keys), _KEY)}
            return
        self._exact = None
        for level in range(layers):
            (size,) = _LAYER.unpack(source.read(_LAYER.size))
            if size != _shape(level)[0]:
                raise _unusable(f"has a layer of {size} words")
            self._grow()
            source.read_into(self._words)
        self._room = self._capacity - count

    def _grow(self) -> None:
        self._full = self._layers()
        words, room = _shape(len(self._full))
        self._words, self._top = array("I", [0]) * words, words - 1
        self._capacity += room
        self._room += room


def _unusable(why: str) -> BloomError:
    return BloomError(f"a saved filter {why}: rebuild it from the data")


def layer(level: int) -> tuple[int, int]:
    """Tell a layer's words of 32 bits and how many keys it takes, for a filter that is kept elsewhere."""
    return _shape(level)


def stamped(keys: Iterable[bytes]) -> list[bytes]:
    """Put behind each key the pattern that it sets, 4 bytes, little-endian, for a filter that is kept elsewhere."""
    patterns = _packed()
    return [key + patterns[key[6] >> 4 | key[7] << 4] for key in keys]


def _has(layers: tuple[tuple[array[int], int], ...], a: int, b: int, mask: int) -> bool:
    for words, top in layers:  # noqa: SIM110 — a generator would cost more than the work
        if words[a & top] & mask == mask and words[b & top] & mask == mask:
            return True
    return False


def _shape(level: int) -> tuple[int, int]:
    """How many words a layer has, and how many keys it takes."""
    last = len(_LEVELS) - 1
    words, bits = _LEVELS[min(level, last)]
    words <<= 2 * max(level - last, 0)
    return words, int(words * _WORD * 8 / bits)


@cache
def _masks() -> list[int]:
    """Make the table of patterns. Part of the format: it must never change within a version."""
    every = [1 << a | 1 << b | 1 << c for a, b, c in combinations(range(_WORD * 8), 3)]
    return [every[index * len(every) // _PATTERNS] for index in range(_PATTERNS)]


@cache
def _packed() -> list[bytes]:
    return [mask.to_bytes(_WORD, "little") for mask in _masks()]


@cache
def _mask_array(np: Any) -> Any:
    return np.array(_masks(), dtype="<u4")


def _little(words: array[int]) -> bytes | memoryview:
    if sys.byteorder == "little":
        return memoryview(words).cast("B")
    swapped = words[:]
    swapped.byteswap()
    return swapped.tobytes()
