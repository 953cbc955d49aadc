"""Remembers numbered records in one storage from many processes at once: `PLACE PROCESSES CALLS RANGE SEED`."""

from __future__ import annotations

import asyncio
import os
import random
import sys

from kill_child import NAME, line

from tanuki_async._places import open_place
from tanuki_async._record.recorder import Recorder


async def work(place: str, calls: int, numbers: int, seed: int) -> None:
    dice = random.Random(seed)
    storage = open_place(place)
    await storage.open()
    recorder = Recorder(storage)
    recorder.start()
    for call in range(calls):
        recorder.remember(NAME, line(dice.randrange(numbers)))
        if not call % 20:
            await asyncio.sleep(dice.random() * 0.005)
    await recorder.aclose()
    await storage.aclose()
    assert recorder.statistics().failed == 0


def remembered(processes: int, calls: int, numbers: int, seed: int) -> set[int]:
    """Which numbers such a run remembers."""
    wanted: set[int] = set()
    for number in range(processes):
        dice = random.Random(seed + number)
        for call in range(calls):
            wanted.add(dice.randrange(numbers))
            if not call % 20:
                dice.random()
    return wanted


def main() -> None:
    place = sys.argv[1]
    processes, calls, numbers, seed = map(int, sys.argv[2:6])
    children: list[int] = []
    for number in range(processes):
        child = os.fork()
        if not child:
            asyncio.run(work(place, calls, numbers, seed + number))
            os._exit(0)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    sys.exit(f"{len(failed)} processes failed" if failed else 0)


if __name__ == "__main__":
    main()
