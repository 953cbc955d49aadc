"""Remembers numbered records in a Redis from many processes at once: `URL PROCESSES CALLS RANGE SEED`."""

from __future__ import annotations

import asyncio
import os
import random
import sys

from kill_child import NAME, line

from tanuki_async._record.recorder import Recorder
from tanuki_async.storage.redis import RedisStorage


async def work(url: str, calls: int, numbers: int, seed: int) -> None:
    dice = random.Random(seed)
    storage = RedisStorage(url)
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


def main() -> None:
    url = sys.argv[1]
    processes, calls, numbers, seed = map(int, sys.argv[2:6])
    children: list[int] = []
    for number in range(processes):
        child = os.fork()
        if not child:
            asyncio.run(work(url, calls, numbers, seed + number))
            os._exit(0)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    sys.exit(f"{len(failed)} processes failed" if failed else 0)


if __name__ == "__main__":
    main()
