"""Remembers lines in S3 as fast as it can, some of them shared with others, and says which are durable."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tanuki_async._record.journal import Journal
from tanuki_async._record.recorder import Recorder
from tanuki_async.storage.s3 import S3Storage


async def main(url: str, journal: str, name: str, count: int) -> None:
    storage = S3Storage(url)
    storage.patience = 0.3
    recorder = Recorder(storage, journal=Journal(Path(journal), storage.place.address))
    recorder.start()
    for n in range(count):
        recorder.remember("f/PATCHES", b"%s-%d" % (name.encode(), n))
        recorder.remember("f/PATCHES", b"shared-%d" % n)
        if n % 20 == 19:
            while recorder.statistics().queued:  # noqa: ASYNC110 — the recorder is not to know
                await asyncio.sleep(0.005)
            print(n + 1, flush=True)  # noqa: T201
    await recorder.aclose()
    await storage.aclose()
    print("closed", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
