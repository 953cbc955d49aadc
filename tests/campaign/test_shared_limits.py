"""Twenty processes share one limit through a real Redis, and a server counts what arrives.

`TANUKI_SHARED_PERIOD` is how many seconds a minute takes (default 6; 60 is the real size), `TANUKI_SHARED_PERIODS` how
many there are. The rate is 50 a second in either case: 3,000 a minute.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import _redis
import pytest

from tanuki_async.testing import LoopbackServer

PERIOD = float(os.environ.get("TANUKI_SHARED_PERIOD", "6"))
PERIODS = float(os.environ.get("TANUKI_SHARED_PERIODS", "5"))
LIMIT = 50 * PERIOD
WORKERS = 20
CHILD = Path(__file__).with_name("shared_child.py")

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]


def most_in_a_period(moments: list[float]) -> int:
    most = first = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - PERIOD:
            first += 1
        most = max(most, last - first + 1)
    return most


async def test_twenty_processes_share_a_limit_fairly(subprocess_env: dict[str, str]) -> None:
    pytest.importorskip("redis.asyncio.sentinel")
    moments: list[float] = []
    who: list[str] = []

    def answer(request: Any) -> str:
        if found := re.search(r"worker (\d+)", str(request)):
            moments.append(time.monotonic())
            who.append(found[1])
        return '{"value":"good"}'

    with _redis.server() as redis:
        async with LoopbackServer(answer, keep=1) as server:
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
