"""Sends thousands of calls at once through bad weather over real HTTP, cancels half of them, and looks at what is left.

`TANUKI_STORM_CALLS` says how many (default 400; 10,000 is the whole storm), `TANUKI_STORM_SPEED` how much faster than
real time the pool's clock runs (default 20: its minute is three seconds), `TANUKI_STORM_SEED` repeats a run.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest
from pydantic import TypeAdapter

from tanuki_async._errors import ProviderError
from tanuki_async._pool.http import Connections
from tanuki_async._pool.pool import Pool, Progress
from tanuki_async._records import AnswerSchema, Completion, Head, Limits, Request, Turn
from tanuki_async.abc import Http
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.testing import Fault, LoopbackServer

TypeAdapter(int)  # pydantic looks for its plugins on disk, once

CALLS = int(os.environ.get("TANUKI_STORM_CALLS", "400"))
SPEED = float(os.environ.get("TANUKI_STORM_SPEED", "20"))
SEED = int(os.environ.get("TANUKI_STORM_SEED", str(time.time_ns() % 1_000_000)))
PER_MINUTE = CALLS * 0.45
STEP = 0.002  # seconds of real time
SECONDS = 180 / SPEED  # about how long it lasts
FILES = Path("/proc/self/fd")
TIMEOUT = 360 / SPEED + 4
HEAD = Head(function="f", system="Answer.", answer=AnswerSchema(name="f", schema={"type": "object"}, strict=True))

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FILES.is_dir(), reason="looks at open files where Linux shows them"),
]


class FastClock:
    """Runs `SPEED` times as fast as real time, in steps of at most STEP.

    So a machine that is held up holds up this time too: what it does late is not late here, where a second is short.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._last = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        now = time.monotonic()
        self._now += min(now - self._last, STEP) * SPEED
        self._last = now
        self._timer = asyncio.get_running_loop().call_later(STEP / 4, self.__enter__)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._timer is not None
        self._timer.cancel()

    def monotonic(self) -> float:
        return self._now

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        until = self._now + seconds
        while (left := until - self._now) > 0:  # noqa: ASYNC110  # time here may be slower than it was to be
            await asyncio.sleep(left / SPEED)


class Weather:
    """What the server does: answers, refuses for a while, hangs, cuts, and dies."""

    def __init__(self, draw: random.Random, clock: FastClock) -> None:
        self.draw, self.clock = draw, clock
        self.refusing = False
        self.arrived: list[float] = []
        self.sent: Counter[str] = Counter()

    async def __call__(self, _: Any) -> object:
        self.arrived.append(self.clock.monotonic())
        kind = self._kind()
        self.sent[kind] += 1
        await asyncio.sleep(self.draw.random() * 0.05)
        return {
            "429": Fault.status(429, retry_after=self.draw.choice([1, 2, 5])),
            "429 soon": Fault.status(429, retry_after_ms=50),
            "hang": Fault.hang(),
            "disconnect": Fault.disconnect(),
            "cut": Fault.cut_midway(),
            "500": Fault.status(500),
            "503": Fault.status(503, retry_after_ms=300),
            "good": '{"value":"good"}',
        }[kind]

    def _kind(self) -> str:
        if self.refusing:
            return self.draw.choice(["429", "429 soon", "429", "good"])
        chance = self.draw.random()
        rare = ["hang", "disconnect", "cut", "500", "503"]
        return rare[int(chance * 100) % 5] if chance < 0.05 else "good"

    async def blow(self, server: LoopbackServer, until: asyncio.Event) -> None:
        """Refuse for a while, now and then; die and come back, four times."""
        deaths = 4
        while not until.is_set():
            await asyncio.sleep(SECONDS / (24 if self.refusing else 8))
            self.refusing = not self.refusing
            if deaths and not self.refusing:
                deaths -= 1
                await server.aclose()
                await asyncio.sleep(self.draw.random() * SECONDS / 60)
                await server.start()


@dataclass
class Log:
    """Who was sent when, as the pool let it go."""

    first: list[int] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


async def storm(pool: Pool, provider: OpenAICompatible, draw: random.Random, log: Log, clock: FastClock) -> None:
    """Make all calls at once; cancel half of them at random moments."""
    loop = asyncio.get_running_loop()

    async def call(number: int) -> None:
        known = False

        async def ask(request: Request, http: Http) -> Completion:
            nonlocal known
            log.moments.append(clock.monotonic())
            if not known:
                known = True
                log.first.append(number)
            return await provider.complete(request, http)

        request = Request(model=provider.model("m"), head=HEAD, turns=(Turn("user", f"{number}"),))
        async with asyncio.timeout(TIMEOUT):
            await pool.complete(provider, request, Progress(clock.monotonic() + TIMEOUT * SPEED), ask=ask)

    tasks = [asyncio.create_task(call(number), name=f"call {number}") for number in range(CALLS)]
    for task in draw.sample(tasks, CALLS // 2):
        loop.call_later(draw.random() ** 2 * SECONDS, task.cancel)
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        log.outcomes["answered" if result is None else type(result).__name__] += 1
        assert type(result) is not ProviderError, result  # which only bugs are
        assert result is None or isinstance(result, ProviderError | TimeoutError | asyncio.CancelledError), result


def most_in_a_minute(moments: list[float]) -> int:
    most = first = 0
    moments = sorted(moments)
    for last, moment in enumerate(moments):
        while moments[first] <= moment - 60:
            first += 1
        most = max(most, last - first + 1)
    return most


def open_files() -> int:
    return sum(1 for _ in FILES.iterdir())


def resident_kib() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


async def test_a_storm_leaves_nothing_behind_and_breaks_no_limit() -> None:
    with FastClock() as clock:
        await storm_thrice(clock)


async def storm_thrice(clock: FastClock) -> None:
    draw = random.Random(SEED)
    await asyncio.to_thread(lambda: None)  # the executor's thread stays
    files, tasks = open_files(), asyncio.all_tasks()
    weather, resident = Weather(draw, clock), list[int]()
    logs: list[Log] = []
    began = time.monotonic()
    async with LoopbackServer(weather, keep=1) as server:
        provider = OpenAICompatible(server.url, name="storm")
        limits = Limits(requests_per_minute=PER_MINUTE, tokens_per_minute=PER_MINUTE * 100, concurrency=1000)
        pool = Pool(Connections(), clock=clock, random=draw.random, limits={"storm": limits})
        for _ in range(3):
            logs.append(Log())
            over = asyncio.Event()
            blowing = asyncio.create_task(weather.blow(server, over))
            await storm(pool, provider, draw, logs[-1], clock)
            over.set()
            assert_at_rest(pool)
            await blowing
            resident.append(resident_kib())
        await assert_nothing_spent(pool, provider, clock)
        await pool.aclose()
        await asyncio.sleep(0.05)
        assert server.connections == 0
        assert server.in_flight == 0
    await asyncio.sleep(0.05)
    moments = [moment for log in logs for moment in log.moments]
    report(logs, weather, moments, resident, time.monotonic() - began)
    assert open_files() <= files
    assert asyncio.all_tasks() == tasks
    for log in logs:
        assert log.first == sorted(log.first)  # none was sent before one that came earlier
        assert log.outcomes["answered"] >= CALLS * 0.35
    assert most_in_a_minute(moments) <= PER_MINUTE
    assert most_in_a_minute(weather.arrived) <= PER_MINUTE + math.ceil(PER_MINUTE / 100)
    assert len(weather.arrived) <= len(moments)  # nothing was sent twice
    assert resident[2] - resident[1] < 8_000 + CALLS


def assert_at_rest(pool: Pool) -> None:
    statistics = pool.statistics()
    (account,) = statistics.accounts
    assert (statistics.in_flight, statistics.waiting, statistics.http.in_flight) == (0, 0, 0)
    assert [(lane.in_flight, lane.waiting) for lane in account.models] == [(0, 0)]
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not [name for name in names if name.startswith(("call", "tanuki_async: limits"))]


async def assert_nothing_spent(pool: Pool, provider: OpenAICompatible, clock: FastClock) -> None:
    """A minute after the last request, all requests and tokens are there again."""
    await clock.sleep(62)
    ((_, lane),) = pool._lanes.values()
    budget: Any = lane.turnstile.budget
    assert budget.wait(PER_MINUTE * 100) == 0
    assert abs(budget.requests.used) < 1e-6
    assert abs(budget.tokens.used) < 1e-3
    assert not budget.requests._slices


def report(logs: list[Log], weather: Weather, moments: list[float], resident: list[int], seconds: float) -> None:
    told = (
        f"\nseed {SEED}: 3 x {CALLS} calls in {seconds:.0f} s, a minute is {60 / SPEED:.1f} s\n"
        f"outcomes {[dict(log.outcomes) for log in logs]}; server {dict(weather.sent)}\n"
        f"sent {len(moments)}; most in a minute: sent {most_in_a_minute(moments)}, "
        f"arrived {most_in_a_minute(weather.arrived)}, allowed {PER_MINUTE:.0f}; resident KiB {resident}\n"
    )
    sys.stderr.write(told)
