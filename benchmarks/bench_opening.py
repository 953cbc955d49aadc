"""How long does a store of ten million examples keep a new process waiting?

    python benchmarks/bench_opening.py [--lines 10000000] [--repeats 3] [--places file,redis,s3] [--json PATH]

Per kind of storage: it is filled through `append`; then fresh processes open it and make the first append durable,
and ask for the status of the function. Imports are timed apart. Needs a Redis or Valkey server, ministack, and for ten
million lines about 3 GB of disk, or of memory for the two servers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import _report

_report.import_from_here()

Figures = dict[str, list[float]]
BATCH = 20_000


@contextlib.contextmanager
def file() -> Generator[str]:
    with tempfile.TemporaryDirectory() as directory:
        yield f"file:{directory}/data"


@contextlib.contextmanager
def redis() -> Generator[str]:
    from tests import _redis

    with _redis.server() as server:
        yield server.url


@contextlib.contextmanager
def s3() -> Generator[str]:
    from tests import _s3

    os.environ |= {"AWS_ACCESS_KEY_ID": _s3.KEYS[0], "AWS_SECRET_ACCESS_KEY": _s3.KEYS[1]}
    yield _s3.place(_s3.ministack())


PLACES = {"file": file, "redis": redis, "s3": s3}


async def fill(place: str, lines: int) -> Figures:
    """Let the function answer once, so that its data has a name; then append under that name."""
    from bench_recording import record

    from tanuki_async._places import open_place

    await visit(place, -1)
    storage = open_place(place)
    await storage.open()
    name = next(name for name in await storage.names() if name.endswith("/PATCHES"))
    start, lost = time.perf_counter(), 0
    for first in range(0, lines, BATCH):
        batch = [record(number) for number in range(first, min(first + BATCH, lines))]
        lost += (await storage.append(name, batch)).duplicates
    seconds = time.perf_counter() - start
    await storage.aclose()
    return {"filled, records/s": [lines / seconds], "distinct taken for others, %": [100 * lost / lines]}


async def visit(place: str, number: int) -> dict[str, float]:
    """Be a new process: open, make one new example durable, count, and ask for the status."""
    begin = time.perf_counter()
    import tanuki_async as tanuki
    from tanuki_async._places import open_place
    from tanuki_async.testing import FakeProvider

    @tanuki.patch(student_model=None)
    async def judge(text: str) -> str:  # type: ignore[empty-body]
        """Judge what a customer wrote."""

    told: dict[str, float] = {}

    def lap(what: str) -> None:
        nonlocal begin
        told[what], begin = time.perf_counter() - begin, time.perf_counter()

    storage = open_place(place)
    lap("imports, s")
    await storage.open()
    lap("open, s")
    with tempfile.TemporaryDirectory() as journal:
        async with tanuki.Tanuki(
            storage=storage, providers=[FakeProvider("good")], teacher_models="fake:teacher", journal=journal
        ):
            await judge(f"visitor {number}")
            await tanuki.flush()
            lap("first call, durable, s")
            status = await tanuki.status(judge)
            lap("status, s")
            if sum(status.datasets.values()) < number:
                raise SystemExit(f"{status.datasets} are there, not {number}")
            await tanuki.status(judge)
            lap("status again, s")
    await storage.aclose()
    told["open and first append, s"] = told["open, s"] + told["first call, durable, s"]
    return told


def in_a_new_process(place: str, number: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--visit", place, "--lines", str(number)]
    told: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return told


def measure(place: str, options: argparse.Namespace) -> Figures:
    with PLACES[place]() as url:
        figures = asyncio.run(fill(url, options.lines))
        for repeat in range(options.repeats):
            number = options.lines * 98 // 100 + repeat  # what the filter takes for known is not there
            for what, seconds in in_a_new_process(url, number).items():
                figures.setdefault(what, []).append(seconds)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--places", default=",".join(PLACES), help="of file, redis, s3")
    parser.add_argument("--quick", action="store_true", help="a thousand lines: proves that it runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--visit", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.visit:
        print(json.dumps(asyncio.run(visit(options.visit, options.lines))))
        return
    if options.quick:
        options.lines, options.repeats = 1_000, 1
    told, figures = _report.surroundings(), dict[str, Any]()
    for place in options.places.split(","):
        figures[place] = measure(place, options)
        print(f"\n{place}, {options.lines:,} lines")
        _report.show(figures[place])
    _report.write(options.json, told, {"lines": options.lines, "places": figures})


if __name__ == "__main__":
    main()
