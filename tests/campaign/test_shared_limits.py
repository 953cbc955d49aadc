"""Processes share one limit through a real Redis, also while it is away, and a server counts what arrives.

`TANUKI_SHARED_PERIOD` is how many seconds a minute takes (default 6; 60 is the real size), `TANUKI_SHARED_PERIODS` how
many there are where nothing fails, `TANUKI_SHARED_FAULT` how many periods Redis is away each time (default 1.5). The rate
is 50 a second in either case: 3,000 a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import _redis
import pytest

from tanuki_async.testing import LoopbackServer

PERIOD = float(os.environ.get("TANUKI_SHARED_PERIOD", "6"))
PERIODS = float(os.environ.get("TANUKI_SHARED_PERIODS", "5"))
FAULT = PERIOD * float(os.environ.get("TANUKI_SHARED_FAULT", "1.5"))
LIMIT = 50 * PERIOD
COUNTED = PERIOD if PERIOD >= 60 else PERIOD - 0.3
"""Seconds in which no more may arrive: how long requests travel on a busy machine does not shrink with the minute."""
WORKERS = 20
CHILD = Path(__file__).with_name("shared_child.py")

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]


def most_in_a_period(moments: list[float]) -> int:
    most = first = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - COUNTED:
            first += 1
        most = max(most, last - first + 1)
    return most


@contextlib.asynccontextmanager
async def counting(moments: list[float], who: list[str]) -> AsyncGenerator[LoopbackServer]:
    def answer(request: Any) -> str:
        if found := re.search(r"worker (\d+)", str(request)):
            moments.append(time.time())
            who.append(found[1])
        return '{"value":"good"}'

    async with LoopbackServer(answer, keep=1) as server:
        yield server


async def test_twenty_processes_share_a_limit_fairly(subprocess_env: dict[str, str]) -> None:
    pytest.importorskip("redis.asyncio.sentinel")
    moments: list[float] = []
    who: list[str] = []
    with _redis.server() as redis:
        async with counting(moments, who) as server:
            arguments = map(str, (server.url, redis.url, WORKERS, LIMIT, PERIOD, PERIOD * PERIODS))
            child = await asyncio.create_subprocess_exec(sys.executable, str(CHILD), *arguments, env=subprocess_env)
            assert await child.wait() == 0
    counts = Counter(who)
    fair = len(moments) / WORKERS
    least, highest = min(counts.values()) / fair, max(counts.values()) / fair
    sys.stderr.write(
        f"\n{len(moments)} arrived in {PERIODS:g} periods of {PERIOD:g} s, most in one {most_in_a_period(moments)} of "
        f"{LIMIT:g}; of a fair share a worker had {least:.2f} to {highest:.2f}\n"
    )
    assert most_in_a_period(moments) <= LIMIT * 1.01
    assert len(moments) >= 0.85 * LIMIT * PERIODS
    assert len(counts) == WORKERS
    assert least >= 0.8
    assert highest <= 1.2


async def run_with_faults(
    redis: _redis.Server, url: str, workers: int, more: tuple[object, ...], environment: dict[str, str]
) -> list[tuple[float, float]]:
    """Redis is paused, and later killed and started empty. Tells from when to when it was away."""
    assert redis.process is not None
    arguments = map(str, (url, redis.url, workers, LIMIT, PERIOD, 4 * PERIOD + 2 * FAULT, *more))
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), *arguments, env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    begin = float(await child.stdout.readline())
    faults = [begin + PERIOD, begin + 2.5 * PERIOD + FAULT]
    for number, away in enumerate(faults):
        await asyncio.sleep(away - time.time())
        redis.kill() if number else os.kill(redis.process.pid, signal.SIGSTOP)
        await asyncio.sleep(FAULT)
        await asyncio.to_thread(redis.start) if number else os.kill(redis.process.pid, signal.SIGCONT)
    assert await child.wait() == 0
    return [(away, away + FAULT) for away in faults]


async def test_the_limit_holds_while_redis_is_paused_and_after_it_came_back_empty(
    subprocess_env: dict[str, str],
) -> None:
    pytest.importorskip("redis.asyncio.sentinel")
    moments: list[float] = []
    with _redis.server() as redis:
        async with counting(moments, []) as server:
            faults = await run_with_faults(redis, server.url, 8, (), subprocess_env)
    seconds = 4 * PERIOD + 2 * FAULT
    sys.stderr.write(
        f"\n{len(moments)} arrived in {seconds:g} s, {len(moments) / (50 * seconds):.2f} of what was allowed, most in one "
        f"period {most_in_a_period(moments)} of {LIMIT:g}; while Redis was away "
        f"{[sum(away <= each < back for each in moments) for away, back in faults]}\n"
    )
    assert most_in_a_period(moments) <= LIMIT * 1.01
    assert len(moments) >= 0.6 * 50 * seconds


async def test_the_limit_holds_over_a_failover(subprocess_env: dict[str, str]) -> None:
    pytest.importorskip("redis.asyncio.sentinel")
    moments: list[float] = []
    with _redis.sentinels() as (url, primary, replica):
        async with counting(moments, []) as server:
            arguments = map(str, (server.url, url, 4, LIMIT, PERIOD, 5 * PERIOD))
            child = await asyncio.create_subprocess_exec(
                sys.executable, str(CHILD), *arguments, env=subprocess_env, stdout=asyncio.subprocess.PIPE
            )
            assert child.stdout is not None
            begin = float(await child.stdout.readline())
            await asyncio.sleep(begin + 1.5 * PERIOD - time.time())
            primary.kill()
            assert await child.wait() == 0
        assert b"role:master" in replica.ask("INFO", "replication")
        assert b"expires" in replica.ask("INFO", "keyspace")  # where limits are shared now
    late = sum(each > begin + 3.5 * PERIOD for each in moments)
    sys.stderr.write(
        f"\n{len(moments)} arrived, {late} of them in the last {1.5 * PERIOD:g} s, most in one period "
        f"{most_in_a_period(moments)} of {LIMIT:g}\n"
    )
    assert most_in_a_period(moments) <= LIMIT * 1.01
    assert late >= 0.6 * LIMIT


async def test_calls_far_from_the_limit_do_not_wait_for_a_redis_that_is_away(
    subprocess_env: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("redis.asyncio.sentinel")
    moments: list[float] = []
    with _redis.server() as redis:
        async with counting(moments, []) as server:
            faults = await run_with_faults(redis, server.url, 4, (2.5, tmp_path), subprocess_env)
    taken = [each for number in range(4) for each in json.loads((tmp_path / str(number)).read_bytes())]
    away: list[float] = []
    well: list[float] = []
    for due, seconds in taken:
        if due > faults[0][0] - PERIOD / 2:  # the first calls of a process load what they need
            (away if any(begin <= due < end + 1 for begin, end in faults) else well).append(seconds)
    high = [sorted(each)[len(each) * 99 // 100] for each in (well, away)]
    sys.stderr.write(
        f"\np99 {high[0] * 1e3:.1f} ms while Redis was well, {high[1] * 1e3:.1f} ms while it was away: {high[1] / high[0]:.2f} "
        f"of it; at most {max(well) * 1e3:.1f} and {max(away) * 1e3:.1f} ms; {len(taken)} calls\n"
    )
    assert len(taken) == 4 * round(2.5 * (4 * PERIOD + 2 * FAULT))
    assert max(away) < 0.5  # it held a share, and then its part
    assert most_in_a_period(moments) <= LIMIT * 1.01
