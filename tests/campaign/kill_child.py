"""Remembers numbered records until it is killed, and tells on standard output what it did and when.

With a fourth argument it remembers so many, closes, and ends.

R number moment          remembered
K number moment          kept: durable, as `keep` returned
A begin end              one append, to storage or its journal, took so long; end is 0 when it begins
T moment                 the loop lives
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import sys
import time
from collections.abc import Iterable, Sequence

from tanuki_async._lines import encode_line
from tanuki_async._places import open_place
from tanuki_async._record.journal import Journal
from tanuki_async._record.recorder import Recorder
from tanuki_async.abc import Appended, Storage

NAME, ALIGNED = "f/PATCHES", "f/SYMBOLIC_ALIGNMENTS"


def line(number: int, source: str = "call") -> bytes:
    text = b'["question %d %s"]' % (number, b"x" * (number % 200))
    return encode_line(
        args=text, kwargs=b"{}", output=b'{"n":%d}' % number, source=source, repaired=False, model=None, at=""
    )


def tell(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def watched_journal(journal: Journal) -> Journal:
    """Make it tell when it works, so that a slow disk is not taken for a slow recorder."""
    add = journal.add

    def and_tell(lines: Iterable[tuple[str, bytes]]) -> None:
        begin = time.monotonic()
        tell("A", begin, 0)
        try:
            add(lines)
        finally:
            tell("A", begin, time.monotonic())

    journal.add = and_tell  # type: ignore[method-assign]
    return journal


def watched(storage: Storage) -> Storage:
    """Do the same for a storage whose appends are what makes lines durable."""
    append = storage.append

    async def and_tell(name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        begin = time.monotonic()
        tell("A", begin, 0)
        try:
            return await append(name, lines, latest=latest)
        finally:
            tell("A", begin, time.monotonic())

    storage.append = and_tell  # type: ignore[method-assign]
    return storage


async def tick() -> None:
    while True:
        tell("T", time.monotonic())
        await asyncio.sleep(0.002)


async def keep(recorder: Recorder, number: int, dice: random.Random) -> None:
    while True:
        number += 1
        await recorder.keep(ALIGNED, [line(number, "align"), line(number, "align")])
        tell("K", number, time.monotonic())
        await asyncio.sleep(dice.random() * 0.05)


async def main(root: str, first: int, seed: int, calls: float = math.inf) -> None:
    storage = watched(open_place(root))
    await work(storage, Recorder(storage), first, seed, calls)


async def work(storage: Storage, recorder: Recorder, first: int, seed: int, calls: float = math.inf) -> None:
    dice = random.Random(seed)
    await storage.open()
    recorder.start()
    await storage.append(NAME, [])  # reads what is there
    tell("T", time.monotonic())
    aside = [asyncio.create_task(tick()), asyncio.create_task(keep(recorder, first, dice))]
    number = first
    while number - first < calls:
        for _ in range(int(min(dice.randrange(1, 10), first + calls - number))):
            number += 1
            told = dice.choice((number, number, number, number, dice.randrange(first, number + 1), dice.randrange(50)))
            recorder.remember(NAME, line(told))
            tell("R", told, time.monotonic())
        await asyncio.sleep(dice.random() * 0.006)
    for task in aside:
        task.cancel()
    await asyncio.gather(*aside, return_exceptions=True)
    await recorder.aclose()
    await storage.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
