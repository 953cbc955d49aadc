"""Lives through a day of an application on a clock that jumps, and looks now and then at whether anything has grown.

`TANUKI_SOAK_HOURS` says how long it lasts (default 1.5; 24 and more is the whole campaign), `TANUKI_SOAK_CALLS` how many
times an hour of the day calls are made on average (default 240), `TANUKI_SOAK_SEED` repeats a run. Beginning shortly
before midnight, it sees a day's budget come back.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from _application import A_DAY, FUNCTIONS, HAM, SPAM, Weather, cached, rationed, shared, sorted_out, streamed
from _jumping import JumpingLoop, LoopClock, TimelessStorage

import tanuki_async as tanuki
from tanuki_async import BudgetExceededError, Limits, Model, Tanuki, TanukiError
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.testing import LoopbackServer
from tanuki_async.testing._http import _parse_head

HOURS = float(os.environ.get("TANUKI_SOAK_HOURS", "1.5"))
CALLS = float(os.environ.get("TANUKI_SOAK_CALLS", "240"))
SEED = int(os.environ.get("TANUKI_SOAK_SEED", str(time.time_ns() % 1_000_000)))
START = datetime(2026, 3, 1, 23, 20, tzinfo=UTC)
FILES = Path("/proc/self/fd")
STEP = 0.5 if HOURS < 6 else 1.0  # hours between two looks
WARM = 1 if HOURS < 6 else 3  # the look after which nothing grows any more
pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(3_600),
    pytest.mark.skipif(not FILES.is_dir(), reason="looks at open files where Linux shows them"),
]


@dataclass
class Sample:
    """What there is while nothing is on its way."""

    at: str
    sizes: dict[str, int]
    objects: Counter[str]
    resident: int

    @classmethod
    def take(cls, loop: JumpingLoop, opened: Tanuki, server: LoopbackServer, clock: LoopClock) -> Sample:
        _parse_head.cache_clear()  # the server's, which has a bound
        gc.collect()
        pool: Any = opened._pool
        lanes = [lane for _, lane in pool._lanes.values()]
        budgets = [lane.turnstile.budget for lane in lanes] + [lane.told for lane in lanes]
        windows = [window for each in budgets if each for window in (each.requests, each.tokens) if window]
        desks = list(opened._desks.values())
        library: Any = opened._library
        sizes = {
            "tasks": len(asyncio.all_tasks()), "timers": loop.timers(), "files": sum(1 for _ in FILES.iterdir()),
            "connections": server.connections, "lanes": len(lanes), "pauses": len(pool._pauses),
            "queues": sum(len(lane._queue) for lane in lanes), "slices": sum(len(each._slices) for each in windows),
            "deadlines": sum(len(desk.deadlines.running) for desk in desks), "background": len(opened._tasks),
            "flights": sum(map(len, opened._flights.values())), "kept": sum(map(len, opened._answers.values())),
            "days": sum(len(each._here) + len(each._elsewhere) for each in library.ledger._accounts.values()),
            "tallies": len(library.ledger._tallies), "desks": len(desks), "open": opened.statistics().pool.in_flight,
            "waiting": opened.statistics().pool.waiting, "queued": opened.statistics().recorder.queued,
        }  # fmt: skip
        objects = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(f"{clock.now():%d %H:%M}", sizes, objects, pages * os.sysconf("SC_PAGESIZE") // 1024)


@dataclass
class Day:
    """What happened."""

    draw: Random
    clock: LoopClock
    ends: Counter[str] = field(default_factory=Counter)
    rations: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    calls: set[asyncio.Task[None]] = field(default_factory=set)
    number: int = 0

    async def live(self, hours: float) -> None:
        """Make calls, more by day than by night, and wait until all have ended."""
        until = self.clock.monotonic() + hours * 3600
        while self.clock.monotonic() < until:
            hour = self.clock.now().hour + self.clock.now().minute / 60
            an_hour = CALLS * (1 + 0.8 * math.sin((hour - 9) / 24 * 2 * math.pi))
            await self.clock.sleep(self.draw.expovariate(an_hour / 3600))
            for _ in range(self.draw.choice([1, 1, 1, 1, 6])):
                self.number += 1
                self.calls.add(task := asyncio.create_task(self.call()))
                task.add_done_callback(self.calls.discard)
        while self.calls:
            await asyncio.wait(set(self.calls))

    async def call(self) -> None:
        draw = self.draw
        function = draw.choices(list(FUNCTIONS), list(FUNCTIONS.values()))[0]
        text = f"{' '.join(draw.choices(draw.choice([SPAM, HAM]), k=5))} {self.number}"
        if function is shared:
            text = f"the same for six: {self.number // 6}"
        if function is cached:
            text = f"one of a hundred: {draw.randrange(100)}"
        today = f"{self.clock.now():%d}"
        try:
            if function is streamed:
                _ = [each async for each in await function(text)]
            else:
                await function(text)
        except BudgetExceededError:
            self.refused[today] += 1
        except TanukiError as error:
            self.ends[type(error).__name__] += 1
        else:
            self.ends[function.__name__] += 1
            self.rations[today] += function is rationed


class Lines(logging.Handler):
    """Counts what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.counted: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.counted[f"{record.levelname} {record.msg}"] += 1


def test_a_day_leaves_nothing_behind_but_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = JumpingLoop()
    monkeypatch.setattr(time, "monotonic", loop.time)  # by which connections age
    logger, lines = logging.getLogger("tanuki_async"), Lines()
    logger.addHandler(lines)
    monkeypatch.setattr(logger, "level", logging.INFO)
    began = time.perf_counter()
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            day, samples, weather = runner.run(soak(loop, tmp_path))
    finally:
        logger.removeHandler(lines)
    report(day, samples, weather, lines, time.perf_counter() - began)
    assert_flat(samples)
    assert samples[-1].sizes["student"] > 0 or HOURS < 6  # by then it has proved itself
    assert any(day.rations[today] for today in day.rations if today != f"{START:%d}")  # it came back
    assert sum(lines.counted.values()) < 60 + 3 * (sum(weather.sent.values()) - weather.sent["good"])
    assert lines.counted["WARNING %s"] <= 1  # the model that retires
    for today in day.refused:
        assert day.rations[today] <= A_DAY + 2  # asked before midnight, answered after it


async def soak(loop: JumpingLoop, path: Path) -> Any:
    day, weather = Day(Random(SEED), LoopClock(loop, START)), Weather(Random(SEED + 1))
    samples: list[Sample] = []
    async with LoopbackServer(weather, keep=1) as server:
        old = Model(provider="soak", name="old", retires="2026-04-01", successor="soak:new")
        provider = OpenAICompatible(server.url, name="soak", models={"old": old})
        opened = Tanuki(
            storage=TimelessStorage(path / "data", clock=day.clock), clock=day.clock, providers=[provider],
            teacher_models="soak:small", embedding_model="soak:embed",
            limits={"soak": Limits(requests_per_minute=120, tokens_per_minute=60_000, concurrency=8)},
        )  # fmt: skip
        async with opened:
            for _ in range(round(HOURS / STEP)):
                await day.live(STEP)
                await day.clock.sleep(150)  # pauses, windows and what connections may be idle have passed
                await tanuki.flush()
                samples.append(Sample.take(loop, opened, server, day.clock))
            samples[-1].sizes["student"] = (await tanuki.status(sorted_out)).answered_by_student
    return day, samples, weather


SPARE = {
    "connections": 8,
    "files": 16,
    "kept": 100,
    "tasks": 1,
    "timers": 2,
    "lanes": 0,
    "tallies": 0,
    "desks": 0,
    "days": 0,
}
"""What may be more at one hour than at another."""


def assert_flat(samples: list[Sample]) -> None:
    first, last = samples[WARM], samples[-1]
    for name in ("open", "waiting", "queued", "pauses", "queues", "deadlines", "flights", "background"):
        assert last.sizes[name] == 0, name
    for name, more in SPARE.items():
        assert last.sizes[name] <= first.sizes[name] + more, name
    assert last.sizes["slices"] <= 240 * 2 * last.sizes["lanes"]
    more = {name: count for name, count in last.objects.items() if count > 1.05 * first.objects[name] + 50}
    assert not more
    assert last.resident - first.resident < 20_000


def report(day: Day, samples: list[Sample], weather: Weather, lines: Lines, seconds: float) -> None:
    grown = samples[-1].objects.copy()
    grown.subtract(samples[WARM].objects)
    sys.stderr.write(f"\nseed {SEED}: {HOURS:g} hours, {day.number} calls in {seconds:.0f} s: {dict(day.ends)}\n")
    sys.stderr.write(f"rationed {dict(day.rations)}, refused {dict(day.refused)}; server {dict(weather.sent)}\n")
    for sample in samples:
        total, mebibytes = sum(sample.objects.values()), sample.resident // 1024
        sys.stderr.write(f"{sample.at}: {mebibytes} MiB, {total} objects, {sample.sizes}\n")
    sys.stderr.write(f"grown most: {grown.most_common(12)}\n")
    sys.stderr.write("".join(f"{count} x {line}\n" for line, count in lines.counted.most_common(20)))
