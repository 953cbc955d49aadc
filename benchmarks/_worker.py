"""One client in a process of its own: reads phases to measure, one JSON object a line, and answers each with figures.

Started by the scripts beside it with the Python of the client's own environment; needs nothing but that client.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

TEXT = "message {}: the parcel came two days late, but your support was kind and solved it within the hour"
LONG_WARM_UP = 3.0  # seconds after which a warm-up is not repeated, but counts
LONGEST = 30.0  # seconds after which a phase ends; what was answered by then counts


async def main(name: str, url: str, scratch: Path) -> None:
    module = importlib.import_module(f"_clients.{name}")
    async with module.opened(url, scratch) as call:
        await call("the first message")
        say({"rss_mb": memory("VmRSS"), "cpu_s": time.process_time()})
        numbers = itertools.count()
        while line := await asyncio.to_thread(sys.stdin.readline):
            told = json.loads(line)
            measure = hold if "held" in told else phase
            say(await measure(call, numbers, **told))


def say(figures: dict[str, Any]) -> None:
    print(json.dumps(figures), flush=True)


async def phase(
    call: Callable[[str], Awaitable[Any]],
    numbers: Iterator[int],
    *,
    in_flight: int,
    seconds: float,
    waves: int = 1,
    late: bool = False,
    warm: bool = True,
    most: int = 50_000,
    patience: float = LONG_WARM_UP,
) -> dict[str, Any]:
    """Measure as many calls as take about `seconds`, at least `waves` times as many as there are in flight."""
    text = ("[200 ms] " if late else "") + TEXT
    count = max(in_flight, 20)
    while (first := await burst(call, text, numbers, in_flight, count))["seconds"] < 0.1 and count < most:
        count *= 3
    if not warm or first["seconds"] > patience:
        return first
    count = min(most, max(waves * in_flight, 20, round(count * seconds / first["seconds"])))
    return await burst(call, text, numbers, in_flight, count)


async def hold(
    call: Callable[[str], Awaitable[Any]], numbers: Iterator[int], *, held: int, rest: float
) -> dict[str, Any]:
    """Have `held` calls wait for their answers at the same time; what that takes of memory, a call."""
    texts = [("[8 s] " + TEXT).format(next(numbers)) for _ in range(held)]
    gc.collect()
    before = memory("VmRSS")
    callers = [asyncio.create_task(_once(call, text)) for text in texts]
    await asyncio.sleep(rest)
    gc.collect()
    during, waiting = memory("VmRSS"), sum(not task.done() for task in callers)
    await asyncio.gather(*callers)
    kib = None if before is None or during is None else (during - before) * 1024 / held
    return {"held": waiting, "kib_per_call": kib, "rss_mb": during}


async def _once(call: Callable[[str], Awaitable[Any]], text: str) -> None:
    await call(text)


async def burst(
    call: Callable[[str], Awaitable[Any]], text: str, numbers: Iterator[int], in_flight: int, count: int
) -> dict[str, Any]:
    """Make `count` calls, `in_flight` at a time, beside a ticker that sleeps 1 ms again and again."""
    texts = iter([text.format(next(numbers)) for _ in range(count)])
    took: list[float] = []
    clock = time.perf_counter

    async def caller() -> None:
        for each in texts:
            begin = clock()
            await call(each)
            took.append(clock() - begin)

    gaps: list[float] = []
    ticker = asyncio.create_task(tick(gaps))
    await asyncio.sleep(0)
    cpu, begin = time.process_time(), clock()
    callers = [asyncio.create_task(caller()) for _ in range(in_flight)]
    _, unfinished = await asyncio.wait(callers, timeout=LONGEST, return_when=asyncio.FIRST_EXCEPTION)
    seconds, cpu = clock() - begin, time.process_time() - cpu
    await asyncio.sleep(0)
    for task in (ticker, *unfinished):
        task.cancel()
    await asyncio.wait(callers)
    for task in callers:
        if not task.cancelled():
            task.result()
    took.sort()
    count = max(len(took), 1)
    return {
        "calls": len(took),
        "seconds": seconds,
        "cpu_ms": cpu / count * 1e3,
        "per_second": count / seconds,
        "median_ms": took[len(took) // 2] * 1e3 if took else None,
        "p99_ms": took[int(len(took) * 0.99)] * 1e3 if took else None,
        "gap_ms": max(gaps, default=seconds) * 1e3,
        "peak_mb": memory("VmHWM"),
    }


async def tick(gaps: list[float]) -> None:
    last = time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
    finally:
        gaps.append(time.perf_counter() - last)


def memory(field: str) -> float | None:
    """Megabytes of this process (not of whoever started it, as getrusage counts them), where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
