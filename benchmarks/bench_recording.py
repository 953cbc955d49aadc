"""Recording: what `remember` costs its caller, how fast lines reach the disk, what the filter costs beside rbloom.

    python benchmarks/bench_recording.py [--items 200000] [--full] [--repeats 5] [--json PATH]
    python benchmarks/bench_recording.py --storage redis [--url redis://HOST] [--items 200000]

All rivals run interleaved; each figure is the median of the repeats with the least and the most. `--full` adds ten
million keys: save, load, error rate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mmh3

from tanuki_async._bloom import Bloom
from tanuki_async._lines import encode_line
from tanuki_async._record.recorder import Recorder
from tanuki_async.storage.filesystem import FilesystemStorage

try:
    import numpy as NUMPY  # noqa: N812
except ImportError:
    NUMPY = None

Figures = dict[str, list[float]]
BATCH = 4096


def record(number: int) -> bytes:
    return encode_line(
        args=b'["what customer %d wrote: %s"]' % (number, b"some text " * (number % 30)),
        kwargs=b"{}",
        output=b'"good"',
        source="call",
        repaired=False,
        model="openai:gpt",
        at="2026-11-23T00:00:00.000Z",
    )


def nanoseconds(work: Callable[[], object], count: int) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) / count * 1e9


def one_by_one(records: list[bytes]) -> None:
    add = Bloom().add_record
    for each in records:
        add(each)


def in_batches(records: list[bytes]) -> None:
    bloom = Bloom()
    for start in range(0, len(records), BATCH):
        bloom.update_records(records[start : start + BATCH])


def rival(records: list[bytes]) -> None:
    import rbloom

    seen = rbloom.Bloom(len(records), 0.01, lambda each: mmh3.hash128(each, 0, True, True))
    for each in records:
        if each not in seen:
            seen.add(each)


def filters(items: int, repeats: int) -> Figures:
    """CPU nanoseconds per distinct record: check and add, hashing included."""
    figures: Figures = {}
    for count in sorted({5_000, items}):
        records = [b"what customer %d wrote: %s" % (n, b"some text " * (n % 30)) for n in range(count)]
        rivals = {"one by one": one_by_one, "batch": in_batches}
        try:
            import rbloom as _
        except ImportError:
            print("rbloom is not installed: no comparison")
        else:
            rivals["rbloom"] = rival
        for _ in range(repeats):
            for name, work in rivals.items():
                for numpy in (False, True) if name == "batch" else (False,):
                    with_numpy(numpy)
                    label = f"filter {name}{' with numpy' if numpy else ''}, {count} items, ns"
                    figures.setdefault(label, []).append(nanoseconds(lambda w=work, r=records: w(r), count))
        one, fast = (
            figures[f"filter one by one, {count} items, ns"],
            figures[f"filter batch with numpy, {count} items, ns"],
        )
        if "rbloom" in rivals:
            other = figures[f"filter rbloom, {count} items, ns"]
            figures[f"filter one by one / rbloom, {count} items"] = [a / b for a, b in zip(one, other, strict=True)]
        figures[f"filter one by one / batch with numpy, {count} items"] = [
            a / b for a, b in zip(one, fast, strict=True)
        ]
    return figures


def with_numpy(wanted: bool) -> None:
    """Be a program that has loaded numpy, or one that has not."""
    if not wanted:
        sys.modules.pop("numpy", None)
    elif NUMPY is not None:
        sys.modules["numpy"] = NUMPY


def filter_size(path: Path, count: int) -> Figures:
    bloom, lost, figures = Bloom(), 0, Figures()
    with_numpy(True)
    for start in range(0, count, 50_000):
        new = bloom.update_records([b"record %d" % n for n in range(start, min(start + 50_000, count))])
        lost += len(new) - sum(new)
    strangers = [mmh3.mmh3_x64_128_digest(b"stranger %d" % n) for n in range(300_000)]
    figures[f"filter error at {count}, %"] = [100 * sum(key in bloom for key in strangers) / len(strangers)]
    figures[f"filter distinct taken for others up to {count}, %"] = [100 * lost / count]
    figures["filter bits per item at capacity"] = [bloom.bits / bloom.capacity]
    for _ in range(5):
        start = time.perf_counter()
        with path.open("wb") as file:
            file.writelines(bloom.dump())
        middle = time.perf_counter()
        with path.open("rb") as file:
            Bloom.load(file)
        figures.setdefault(f"filter save {count}, s", []).append(middle - start)
        figures.setdefault(f"filter load {count}, s", []).append(time.perf_counter() - middle)
    return figures


async def remembering(directory: Path, items: int) -> Figures:
    """Remember as a busy program does, a few per turn of the loop, while the disk works behind it."""
    storage = FilesystemStorage(directory)
    await storage.open()
    recorder = Recorder(storage, queue_bytes=1 << 30)
    recorder.start()
    lines, costs = [record(n) for n in range(items)], []
    clock = time.perf_counter
    for at, line in enumerate(lines):
        start = clock()
        recorder.remember("f/PATCHES", line)
        costs.append(clock() - start)
        if not at % 50:
            await asyncio.sleep(0.001)
    await recorder.aclose()
    await storage.aclose()
    costs.sort()
    return {
        "remember median, µs": [costs[len(costs) // 2] * 1e6],
        "remember p99.9, µs": [costs[int(len(costs) * 0.999)] * 1e6],
    }


async def sustained(directory: Path, items: int) -> Figures:
    storage = FilesystemStorage(directory)
    await storage.open()
    recorder = Recorder(storage, queue_bytes=1 << 30)
    recorder.start()
    lines = [record(n) for n in range(items)]
    start = time.perf_counter()
    for at, line in enumerate(lines):
        recorder.remember("f/PATCHES", line)
        if not at % 1000:
            await asyncio.sleep(0)
    await recorder.flush()
    seconds = time.perf_counter() - start
    await recorder.aclose()
    await storage.aclose()
    return {"sustained distinct records/s to disk": [items / seconds]}


@contextlib.contextmanager
def redis(url: str | None) -> Iterator[str]:
    """Use a server that is there, or run one for a while."""
    if url is not None:
        yield url
        return
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests import _redis

    with _redis.server() as server:
        yield server.url


async def at_redis(url: str, items: int) -> Figures:
    """Remember and append distinct records, with the client's and the server's CPU time for each."""
    import redis.asyncio

    from tanuki_async.storage.redis import RedisStorage

    storage, server = RedisStorage(f"{url}?prefix=bench-{time.time_ns()}"), redis.asyncio.Redis.from_url(url)
    await storage.open()
    recorder = Recorder(storage, queue_bytes=1 << 30)
    recorder.start()
    lines = [record(n) for n in range(items)]
    before, start, cpu = await server.info("cpu"), time.perf_counter(), time.process_time()
    for at, line in enumerate(lines):
        recorder.remember("f/PATCHES", line)
        if not at % 1000:
            await asyncio.sleep(0)
    await recorder.flush()
    seconds, cpu, after = time.perf_counter() - start, time.process_time() - cpu, await server.info("cpu")
    figures = {
        "sustained distinct records/s to Redis": [items / seconds],
        "client CPU per record, remember to acknowledged, µs": [cpu / items * 1e6],
        "server CPU per record, µs": [(after["used_cpu_user"] - before["used_cpu_user"]) / items * 1e6],
        "distinct taken for others, %": [100 * (items - await storage.count("f/PATCHES")) / items],
    }
    cpu = time.process_time()
    for batch in range(0, items, BATCH):
        await storage.append("f/PATCHES", lines[batch : batch + BATCH])
    figures["client CPU per duplicate, append alone, µs"] = [(time.process_time() - cpu) / items * 1e6]
    start = time.perf_counter()
    read = [len(page) async for page in storage.scan("f/PATCHES")]
    figures["scan, records/s"] = [sum(read) / (time.perf_counter() - start)]
    start = time.perf_counter()
    await storage.rewrite("f/PATCHES", lambda found: found[1:])
    figures["rewrite, records/s"] = [sum(read) / (time.perf_counter() - start)]
    await recorder.aclose()
    for key in [key async for key in server.scan_iter(f"{storage.place.prefix}:*")]:
        await server.delete(key)
    await server.aclose()
    await storage.aclose()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="ten million keys; minutes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--storage", choices=("file", "redis"), default="file")
    parser.add_argument(
        "--url", help="of the Redis to use, whose data stays; by default one is started on this machine"
    )
    options = parser.parse_args()
    figures: Figures = {}
    if options.storage == "redis":
        with redis(options.url) as url:
            for _ in range(options.repeats):
                for key, values in asyncio.run(at_redis(url, options.items)).items():
                    figures.setdefault(key, []).extend(values)
        report(figures, options)
        return
    with_numpy(False)  # which a base install does not have
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(options.repeats):
            for name, work in (("remember", remembering), ("sustained", sustained)):
                count = options.items if name == "sustained" else min(options.items, 20_000)
                for key, values in asyncio.run(work(Path(scratch, f"{name}-{repeat}"), count)).items():
                    figures.setdefault(key, []).extend(values)
        figures |= filters(options.items, options.repeats)
        figures |= filter_size(Path(scratch, "filter"), 10_000_000 if options.full else options.items)
    report(figures, options)


def report(figures: Figures, options: argparse.Namespace) -> None:
    for name, values in figures.items():
        print(f"{name:60} {statistics.median(values):12,.3f}   ({min(values):,.3f} … {max(values):,.3f})")
    if options.json:
        machine = {"python": sys.version.split()[0], "machine": platform.platform(), "cores": os.cpu_count()}
        command = " ".join(["python", *sys.argv])
        options.json.write_text(json.dumps({**machine, "command": command, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
