"""Does as kill_child.py does, on a bucket whose every append takes a while, with a journal on this machine."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from kill_child import watched_journal, work

from tanuki_async._record.journal import Journal
from tanuki_async._record.recorder import Recorder
from tanuki_async.abc import Appended
from tanuki_async.storage.s3 import S3Storage


class Distant(S3Storage):
    """A bucket as far away as one of AWS may be."""

    patience = 0.1  # so that many appends fall into a short life
    seconds = 0.2

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        await asyncio.sleep(self.seconds * bool(lines))
        return await super().append(name, lines, latest=latest)


async def flush(recorder: Recorder, dice: random.Random) -> None:
    """Do as users do who want all to be in storage now."""
    while True:
        await asyncio.sleep(dice.random() * 0.4)
        await recorder.flush()


async def main(url: str, first: int, seed: int, journals: str) -> None:
    storage = Distant(url)
    journal = watched_journal(Journal(Path(journals), storage.place.address))
    recorder = Recorder(storage, journal=journal)
    flushing = asyncio.create_task(flush(recorder, random.Random(seed)))
    await work(storage, recorder, first, seed)
    flushing.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
