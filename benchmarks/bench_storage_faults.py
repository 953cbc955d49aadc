"""Do callers notice that storage fails? Their p99 while it fails over their p99 while it is well, from one run.

    python benchmarks/bench_storage_faults.py [--rate 200] [--seconds 20] [--fault 30] [--repeats 3] [--places redis,s3]

Callers come at an even rate, whether or not earlier ones have their answer; a server answers each after 5 ms. Storage
is well, then well again (which shows what the machine alone does to the figures), then it fails:

redis           the server is stopped (SIGSTOP); limits are kept by the process
redis-shared    the same, and the limits are shared through that server
redis-restart   limits are shared too; the server is killed, and started again with what it had appended to its file
redis-failover  the same with Sentinels: the primary is killed, its replica takes over; a record needs both (?wait=1)
s3              each request is answered 503, or its connection is cut before or after the work is done

Afterwards storage recovers, and what it holds is compared with what was called: nothing is missing, nothing twice, all
in order. Needs a Redis or Valkey server, and ministack for S3.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import _report
import _server

_report.import_from_here()

TEXT = "[5 ms] message {}: the parcel came two days late, but your support was kind and solved it within the hour"
PHASES = ("well", "well again", "failing")
Switch = Callable[[bool], None]
Found = dict[str, Any]


@contextlib.asynccontextmanager
async def redis() -> AsyncGenerator[tuple[str, Switch]]:
    from tests import _redis

    with _redis.server() as server:
        assert server.process is not None
        process = server.process
        yield server.url, lambda fails: os.kill(process.pid, signal.SIGSTOP if fails else signal.SIGCONT)


@contextlib.asynccontextmanager
async def redis_restart() -> AsyncGenerator[tuple[str, Switch]]:
    from tests import _redis

    with _redis.server("--appendonly", "yes") as server:
        yield server.url, lambda fails: switch_off(server) if fails else switch_on(server)


@contextlib.asynccontextmanager
async def redis_failover() -> AsyncGenerator[tuple[str, Switch]]:
    from tests import _redis

    with _redis.sentinels() as (url, *servers):

        def switch(fails: bool) -> None:
            if fails:
                switch_off(next(server for server in servers if b"role:master" in server.ask("INFO", "replication")))
            else:
                for server in servers:
                    switch_on(server)

        yield f"{url}?wait=1", switch


def switch_off(server: Any) -> None:
    server.kill()
    server.process = None


def switch_on(server: Any) -> None:
    if server.process is None:
        server.start()


@contextlib.asynccontextmanager
async def s3() -> AsyncGenerator[tuple[str, Switch]]:
    from tests import _s3
    from tests._s3_faults import Faults

    os.environ |= {"AWS_ACCESS_KEY_ID": _s3.KEYS[0], "AWS_SECRET_ACCESS_KEY": _s3.KEYS[1]}
    async with Faults(_s3.ministack()) as faults:
        yield _s3.place(faults.url), lambda fails: setattr(faults, "every", int(fails))


PLACES = {
    "redis": redis,
    "redis-shared": redis,
    "redis-restart": redis_restart,
    "redis-failover": redis_failover,
    "s3": s3,
}


async def measure(place: str, url: str, options: argparse.Namespace) -> Found:
    """Run the callers in a process of their own, and storage with its faults here."""
    context = get_context("spawn")
    async with PLACES[place]() as (storage, switch):
        ours, theirs = context.Pipe()
        shared = False if place in ("redis", "s3") else None
        process = context.Process(target=callers, args=(theirs, url, storage, shared, options))
        process.start()
        theirs.close()
        try:
            while isinstance(told := await asyncio.to_thread(ours.recv), bool):
                switch(told)
                ours.send(None)
        finally:
            switch(False)
            await asyncio.to_thread(process.join, 60)
            process.kill()
    return told


def callers(parent: Connection, url: str, storage: str, shared: bool | None, options: argparse.Namespace) -> None:
    parent.send(asyncio.run(calling(parent, url, storage, shared, options)))


async def calling(
    parent: Connection, url: str, storage: str, shared: bool | None, options: argparse.Namespace
) -> Found:
    from _clients.ours import judge
    from _clients.task import KEY, MODEL

    import tanuki_async as tanuki
    from tanuki_async.providers.openai import OpenAICompatible

    latencies: dict[str, list[list[float]]] = {phase: [] for phase in PHASES}
    finished: list[int] = []
    numbers = itertools.count()
    limits = tanuki.Limits(requests_per_minute=60_000, tokens_per_minute=1e9, concurrency=10_000)
    provider = OpenAICompatible(url, name="local", api_key=KEY, limits=limits)
    most_waiting: list[int] = []
    with tempfile.TemporaryDirectory() as journal:
        async with tanuki.Tanuki(
            storage=storage, providers=[provider], teacher_models=f"local:{MODEL}", journal=journal,
            shared_limits=shared, student_model=None,
        ) as library:  # fmt: skip
            await even(judge, numbers, finished, options.rate, 2)
            for _, phase in itertools.product(range(options.repeats), PHASES):
                await asyncio.to_thread(tell, parent, phase == "failing")
                seconds = options.fault if phase == "failing" else options.seconds
                latencies[phase].append(await even(judge, numbers, finished, options.rate, seconds))
                if phase == "failing":
                    recorded = library.statistics().recorder
                    most_waiting.append(recorded.queued + recorded.spilled)
                    await asyncio.to_thread(tell, parent, False)
                    await recovered(tanuki.flush)
            counted = library.statistics().recorder
        await asyncio.to_thread(tell, parent, False)
        there = await stored(storage)
    missing = len(set(finished) - set(there))  # where counted as a duplicate, the filter took it for another
    return {
        "latencies": latencies,
        "waited at the end of a fault": most_waiting,
        "calls": len(finished),
        "records": len(there),
        "missing": missing,
        "counted as duplicates": counted.deduplicated,
        "lost": max(missing - counted.deduplicated, 0),
        "twice": len(there) - len(set(there)),
        "out of order": out_of_order(finished, there),
    }


def tell(parent: Connection, fails: bool) -> None:
    parent.send(fails)
    parent.recv()


async def even(judge: Any, numbers: Any, finished: list[int], rate: float, seconds: float) -> list[float]:
    """Call at an even rate; a call's time counts from the moment when it was due."""
    taken: list[float] = []

    async def one(number: int, due: float) -> None:
        await judge(TEXT.format(number))
        finished.append(number)
        taken.append(time.perf_counter() - due)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for at in range(round(rate * seconds)):
            due = begin + at / rate
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            group.create_task(one(next(numbers), due))
    return taken


async def recovered(flush: Callable[[], Any]) -> None:
    from tanuki_async import TanukiError

    async with asyncio.timeout(120):
        while True:
            try:
                return await flush()
            except TanukiError:
                await asyncio.sleep(0.5)


async def stored(place: str) -> list[int]:
    """The numbers of the messages that storage holds, in its order."""
    from tanuki_async._places import open_place

    storage = open_place(place)
    await storage.open()
    names = [name for name in await storage.names() if name.endswith("/PATCHES")]
    lines = [line for name in names for line in [each async for page in storage.scan(name) for each in page]]
    await storage.aclose()
    return [int(json.loads(line)["args"][0].split()[3].rstrip(":")) for line in lines]


def out_of_order(finished: list[int], there: list[int]) -> int:
    """How many records stand behind one whose call finished later."""
    order = {number: at for at, number in enumerate(finished)}
    places = [order[number] for number in there]
    return sum(place < highest for place, highest in zip(places[1:], itertools.accumulate(places, max), strict=False))


def percentile(taken: list[float], share: float) -> float:
    return sorted(taken)[min(int(len(taken) * share), len(taken) - 1)]


def ratios(latencies: dict[str, list[list[float]]]) -> Found:
    """p50 and p99 over all calls of a kind of phase, and their ratios to those while storage was well."""
    found: Found = {}
    for phase, rounds in latencies.items():
        everything = list(itertools.chain(*rounds))
        found[phase] = {"calls": len(everything), "most ms": max(everything) * 1e3}
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            found[phase][f"{name} ms"] = percentile(everything, share) * 1e3
            found[phase][f"{name} of each round, ms"] = [percentile(taken, share) * 1e3 for taken in rounds]
    well = latencies["well"] + latencies["well again"]
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        base = percentile(list(itertools.chain(*well)), share) * 1e3
        found[f"{name} failing / well"] = found["failing"][f"{name} ms"] / base
        found[f"{name} well again / well"] = found["well again"][f"{name} ms"] / found["well"][f"{name} ms"]
        found[f"{name} failing / well, each round"] = [
            percentile(failing, share) / percentile(one + other, share)
            for one, other, failing in zip(*latencies.values(), strict=True)
        ]
    return found


def show(place: str, told: Found) -> None:
    rows = [
        [phase, *(f"{told[phase][name]:.2f}" for name in ("p50 ms", "p99 ms", "most ms")), str(told[phase]["calls"])]
        for phase in PHASES
    ]
    print(f"\n{place}\n" + _report.markdown(["storage is", "p50 ms", "p99 ms", "most ms", "calls"], rows))
    for name, value in told.items():
        if name not in PHASES:
            values = value if isinstance(value, list) else [value]
            print(f"{name:40} " + ", ".join(f"{each:.3f}".rstrip("0").rstrip(".") for each in values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=200, help="calls a second")
    parser.add_argument("--seconds", type=float, default=20, help="of each phase in which storage is well")
    parser.add_argument("--fault", type=float, default=30, help="seconds of each phase in which it fails")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--places", default=",".join(PLACES), help="of " + ", ".join(PLACES))
    parser.add_argument("--quick", action="store_true", help="one short round: proves that it runs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.fault, options.repeats = 0.5, 1.0, 1
    told, figures = _report.surroundings(), {}
    with _server.running() as url:
        for place in options.places.split(","):
            found = asyncio.run(measure(place, url, options))
            figures[place] = ratios(found.pop("latencies")) | found
            show(place, figures[place])
    _report.write(options.json, told, {"places": figures})
    if any(found["lost"] or found["twice"] or found["out of order"] for found in figures.values()):
        sys.exit("storage does not hold what was called")


if __name__ == "__main__":
    main()
