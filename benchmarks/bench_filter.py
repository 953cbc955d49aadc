"""The filter against rbloom and against the design of the filter in Tanuki.py: time of check-and-add, and error.

    python benchmarks/bench_filter.py [--items 100000] [--repeats 5] [--json PATH]

Wants `rbloom` and `bitarray` in the Python that runs it; leaves out what is missing. bench_recording.py has more about
our own filter: sizes, batches with numpy, saving and loading.

The design of Tanuki.py, src/tanuki/bloom_filter.py of github.com/Tanuki/tanuki.py at 6109085, written anew: one bit
array of a fixed size, for 10,000 items at 1 %; two digests, SHA-256 and MD5, as large integers; seven bits at
(first + n · second) modulo the size; a look-up, then an addition, each with digests of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _report
import mmh3

_report.import_from_here()

from tanuki_async._bloom import Bloom  # noqa: E402

BATCH = 4096
Work = Callable[[list[bytes]], int]
"""Adds all of them, each after a look; returns how many it took for known ones."""


def ours(items: list[bytes]) -> int:
    add = Bloom().add_record
    return sum(not add(each) for each in items)


def ours_in_batches(items: list[bytes]) -> int:
    bloom, known = Bloom(), 0
    for start in range(0, len(items), BATCH):
        known += sum(not new for new in bloom.update_records(items[start : start + BATCH]))
    return known


def rbloom_with_mmh3(items: list[bytes]) -> int:
    import rbloom

    seen, known = rbloom.Bloom(len(items), 0.01, lambda each: mmh3.hash128(each, 0, True, True)), 0
    for each in items:
        if each in seen:
            known += 1
        else:
            seen.add(each)
    return known


class FixedFilter:
    """See above. The text of a record is what Tanuki.py is given."""

    def __init__(self, expected: int = 10_000, error: float = 0.01) -> None:
        from bitarray import bitarray

        self.size = math.ceil(-expected * math.log(error) / math.log(2) ** 2)
        self.hashes = math.ceil(self.size / expected * math.log(2))
        self.bits: Any = bitarray(self.size)

    def places(self, text: str) -> list[int]:
        data = text.encode()
        first = int(hashlib.sha256(data).hexdigest(), 16)
        second = int(hashlib.md5(data).hexdigest(), 16)
        return [(first + turn * second) % self.size for turn in range(self.hashes)]

    def has(self, text: str) -> bool:
        bits = self.bits
        return all(bits[place] for place in self.places(text))

    def add(self, text: str) -> None:
        for place in self.places(text):
            self.bits[place] = 1


def fixed(items: list[bytes]) -> int:
    seen, known = FixedFilter(), 0
    for each in items:
        text = each.decode()
        if seen.has(text):
            known += 1
        else:
            seen.add(text)
    return known


def records(count: int) -> list[bytes]:
    """Distinct records of 16 to 400 bytes."""
    draw = random.Random(7)
    return [b"%012d %s" % (number, b"x" * draw.randint(3, 387)) for number in range(count)]


def measure(count: int, repeats: int) -> dict[str, list[float]]:
    rivals: dict[str, Work] = {"ours": ours, "ours, in batches": ours_in_batches}
    if find_spec("rbloom"):
        rivals["rbloom with mmh3"] = rbloom_with_mmh3
    if find_spec("bitarray"):
        rivals["the design of Tanuki.py"] = fixed
    items, figures = records(count), dict[str, list[float]]()
    costs: dict[str, list[float]] = {name: [] for name in rivals}
    names = list(costs)
    for repeat in range(repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            begin = time.process_time()
            known = rivals[name](items)
            costs[name].append((time.process_time() - begin) / count * 1e9)
            figures[f"{name}: new records of {count:,} taken for known, %"] = [known / count * 100]
    for name, values in costs.items():
        figures[f"{name}: check and add, of {count:,}, ns"] = values
    for name in names[1:]:
        figures[f"{name} / ours, of {count:,}"] = [a / b for a, b in zip(costs[name], costs["ours"], strict=True)]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    parser.add_argument("--json", type=Path, help="where to keep all figures")
    options = parser.parse_args()
    what = _report.surroundings()
    figures: dict[str, list[float]] = {}
    for count in (500,) if options.quick else (10_000, options.items):
        figures |= measure(count, 2 if options.quick else options.repeats)
    _report.show(figures)
    _report.write(options.json, what, {"figures": figures})


if __name__ == "__main__":
    main()
