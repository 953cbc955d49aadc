"""Recording in S3: how many distinct records a second reach a bucket, and in objects of which size.

    python benchmarks/bench_s3.py [--items 200000] [--rate 0] [--repeats 5] [--url s3://BUCKET/PREFIX] [--json PATH]

Lines take the way that they take in a program: queue, local journal, bucket. Without `--url`, ministack is started on
this machine, in a process of its own; with one, keys come from the usual AWS chain, and what is written there stays.
`--rate` is how many records a second are remembered; 0 is as many as the queue takes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from bench_recording import Figures, record, report

from tanuki_async._record.journal import Journal
from tanuki_async._record.recorder import Recorder
from tanuki_async.storage.s3 import S3Storage

NAME = "f/PATCHES"
MIB = 1 << 20


async def sustained(url: str, items: int, rate: int) -> Figures:
    """Remember distinct records, and look at the segments in which they ended."""
    storage = S3Storage(url)
    await storage.open()
    lines = [record(n) for n in range(items)]
    size = sum(map(len, lines)) + items
    with tempfile.TemporaryDirectory() as scratch:
        recorder = Recorder(storage, queue_bytes=1 << 30, journal=Journal(Path(scratch), storage.place.address))
        recorder.start()
        start, cpu = time.perf_counter(), time.process_time()
        for at, line in enumerate(lines):
            recorder.remember(NAME, line)
            if not at % 500:
                await asyncio.sleep(max(0, at / rate - (time.perf_counter() - start)) if rate else 0)
        await recorder.flush()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        await recorder.aclose()
    head, _ = await storage._do(  # noqa: SLF001 — nothing else tells how lines are laid out
        lambda ready: ready.log(NAME).objects.head()
    )
    sizes = [each.size for each in head.segments]
    count = await storage.count(NAME)
    await storage.aclose()
    return {
        "sustained distinct records/s to S3": [items / seconds],
        "sustained MiB/s to S3": [size / seconds / MIB],
        "client CPU per record, remember to acknowledged, µs": [cpu / items * 1e6],
        "segments": [len(sizes)],
        "size of a segment, MiB": [each / MIB for each in sizes],
        "bytes in segments of 1 MiB or more, %": [100 * sum(each for each in sizes if each >= MIB) / sum(sizes)],
        "distinct taken for others, %": [100 * (items - count) / items],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rate", type=int, default=0, help="records a second")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--url", help="a place in a bucket; without it, ministack is started")
    options = parser.parse_args()
    figures: Figures = {}
    for repeat in range(options.repeats):
        where, _, how = (options.url or _ministack()).partition("?")
        url = f"{where.rstrip('/')}/bench-{time.time_ns()}-{repeat}?{how}"
        for key, values in asyncio.run(sustained(url, options.items, options.rate)).items():
            figures.setdefault(key, []).extend(values)
    report(figures, options)


def _ministack() -> str:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests import _s3

    os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = _s3.KEYS
    return f"s3://data/?endpoint={_s3.ministack()}&region=us-east-1"


if __name__ == "__main__":
    main()
