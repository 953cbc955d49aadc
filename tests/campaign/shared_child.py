"""Calls a server from processes that share limits: `URL PLACE PROCESSES LIMIT PERIOD SECONDS [RATE DIRECTORY]`.

Each process says in its requests which it is. They begin together, when all are ready: as fast as limits allow, or
each at an even rate, and then it writes down in the directory when each call was due and how long it took.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tanuki_async._errors import ProviderError
from tanuki_async._pool.http import Connections
from tanuki_async._pool.pool import Pool, Progress
from tanuki_async._pool.shared import SharedLimits
from tanuki_async._records import AnswerSchema, Head, Limits, Request, Turn
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.storage._redis_place import RedisPlace

HEAD = Head(function="f", system="Answer.", answer=AnswerSchema(name="f", schema={"type": "object"}, strict=True))


async def work(number: int, url: str, place: str, limit: float, period: float, begin: float, end: float) -> None:
    provider = OpenAICompatible(url, name="shared", limits=Limits(requests_per_minute=limit, concurrency=50))
    shared = SharedLimits(RedisPlace.parse(place), period=period)
    pool = Pool(Connections(), budget=shared.budget)
    await asyncio.sleep(begin - time.time())

    async def call() -> None:
        request = Request(model=provider.model("m"), head=HEAD, turns=(Turn("user", f"worker {number}"),))
        await pool.complete(provider, request, Progress())

    if len(sys.argv) > 7:
        write(number, await evenly(call, float(sys.argv[7]), begin, end))
    else:
        await rush(call, end)
    await pool.aclose()
    await shared.aclose()


async def rush(call: Callable[[], Awaitable[None]], end: float) -> None:
    async def calls() -> None:
        while True:
            await call()

    tasks = [asyncio.create_task(calls()) for _ in range(5)]
    await asyncio.sleep(end - time.time())
    for task in tasks:
        task.cancel()
    with contextlib.suppress(ProviderError):
        await asyncio.gather(*tasks, return_exceptions=True)


async def evenly(
    call: Callable[[], Awaitable[None]], rate: float, begin: float, end: float
) -> list[tuple[float, float]]:
    taken: list[tuple[float, float]] = []

    async def one(due: float) -> None:
        await call()
        taken.append((due, time.time() - due))

    async with asyncio.TaskGroup() as group:
        for at in range(round((end - begin) * rate)):
            due = begin + at / rate
            await asyncio.sleep(due - time.time())
            group.create_task(one(due))
    return taken


def write(number: int, taken: list[tuple[float, float]]) -> None:
    Path(sys.argv[8], str(number)).write_text(json.dumps(taken))


async def warm_up(url: str, place: str) -> None:
    """Load what the first call loads, so that no process is slow between leave to send and sending."""
    RedisPlace.parse(place)
    provider, pool = OpenAICompatible(url, name="warm"), Pool(Connections())
    await pool.complete(
        provider, Request(model=provider.model("m"), head=HEAD, turns=(Turn("user", "warm"),)), Progress()
    )
    await pool.aclose()


def main() -> None:
    url, place = sys.argv[1:3]
    asyncio.run(warm_up(url, place))
    processes, limit, period, seconds = int(sys.argv[3]), *map(float, sys.argv[4:7])
    begin = time.time() + 1 + processes / 20
    sys.stdout.write(f"{begin}\n")
    sys.stdout.flush()
    children: list[int] = []
    for number in range(processes):
        child = os.fork()
        if not child:
            asyncio.run(work(number, url, place, limit, period, begin, begin + seconds))
            os._exit(0)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    sys.exit(f"{len(failed)} processes failed" if failed else 0)


main()
