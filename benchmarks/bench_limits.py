"""The pool's decision to let a request through: what it costs, and whether it keeps the order.

    python benchmarks/bench_limits.py [--calls 20000] [--repeats 5] [--json PATH]

A provider that answers at once, in this process, stands behind the pool, so that only the pool is measured: without
limits, with limits that never bind, with a queue at the gate, and with a limit per minute on a clock that jumps.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import _report

_report.import_from_here()

from tanuki_async import Limits, Usage  # noqa: E402
from tanuki_async._pool.http import Connections  # noqa: E402
from tanuki_async._pool.pool import Pool, Progress  # noqa: E402
from tanuki_async._records import AnswerSchema, Completion, Head, Model, Request, Turn  # noqa: E402
from tanuki_async.abc import Http, Provider  # noqa: E402
from tanuki_async.testing import FakeClock  # noqa: E402

MODEL = Model(provider="ready", name="model")
HEAD = Head(function="f", system="Answer.", answer=AnswerSchema(name="f", schema={"type": "object"}, strict=True))
GENEROUS = Limits(requests_per_minute=1e9, tokens_per_minute=1e12, concurrency=10_000)
Figures = dict[str, list[float]]


class Ready(Provider):
    """Answers at once; remembers who came when."""

    name = "ready"

    def __init__(self, limits: Limits, *, yields: bool = False) -> None:
        self.limits = limits
        self.order: list[str] = []
        self._yields = yields

    async def complete(self, request: Request, http: Http) -> Completion:
        self.order.append(request.turns[0].text)
        if self._yields:
            await asyncio.sleep(0)
        return Completion(text="{}", usage=Usage(requests=1, input_tokens=100, output_tokens=10))


def question(text: str) -> Request:
    return Request(model=MODEL, head=HEAD, turns=(Turn("user", text),))


async def alone(calls: int) -> float:
    """The provider without a pool; what is measured here is taken off the others."""
    provider, http, request = Ready(Limits()), Connections(), question("x")
    begin = time.process_time()
    for _ in range(calls):
        await provider.complete(request, http)
    return (time.process_time() - begin) / calls * 1e6


async def one_after_the_other(limits: Limits, calls: int) -> float:
    pool, provider, request = Pool(Connections()), Ready(limits), question("x")
    await pool.complete(provider, request, Progress())
    begin = time.process_time()
    for _ in range(calls):
        await pool.complete(provider, request, Progress())
    cpu = time.process_time() - begin
    await pool.aclose()
    return cpu / calls * 1e6


async def crowd(limits: Limits, at_once: int, calls: int) -> float:
    """Many callers, of which most wait for a place."""
    pool, provider, request = Pool(Connections()), Ready(limits, yields=True), question("x")
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await pool.complete(provider, request, Progress())

    begin = time.process_time()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    cpu = time.process_time() - begin
    await pool.aclose()
    return cpu / calls * 1e6


async def semaphores(at_once: int, places: int, calls: int) -> float:
    """The same crowd before an asyncio.Semaphore, for comparison."""
    gate, provider, request, http = (
        asyncio.Semaphore(places),
        Ready(Limits(), yields=True),
        question("x"),
        Connections(),
    )
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            async with gate:
                await provider.complete(request, http)

    begin = time.process_time()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return (time.process_time() - begin) / calls * 1e6


async def rationed(calls: int) -> tuple[float, list[str], float]:
    """All come at once, every tenth of them large, and a minute lets a tenth of all through."""
    limits = Limits(requests_per_minute=max(10, calls // 10), tokens_per_minute=calls * 20, concurrency=1_000)
    clock = FakeClock(autojump=0)
    pool, provider = Pool(Connections(), clock=clock), Ready(limits)
    texts = [f"{number} " + "word " * (800 if number % 10 == 9 else 8) for number in range(calls)]
    begin = time.process_time()
    await asyncio.gather(*(pool.complete(provider, question(text), Progress()) for text in texts))
    cpu = time.process_time() - begin
    await pool.aclose()
    return cpu / calls * 1e6, [text.split()[0] for text in provider.order], clock.monotonic() / 60


def overtaken(order: list[str]) -> float:
    """By how many later ones the unluckiest was overtaken."""
    numbers = [int(each) for each in order]
    return max((sum(1 for other in numbers[:at] if other > number) for at, number in enumerate(numbers)), default=0)


async def measure(calls: int, repeats: int) -> Figures:
    parts: dict[str, Callable[[], Awaitable[float]]] = {
        "the provider alone": lambda: alone(calls),
        "through the pool, no limits": lambda: one_after_the_other(Limits(), calls),
        "through the pool, limits that never bind": lambda: one_after_the_other(GENEROUS, calls),
        "1,000 callers, 10 places": lambda: crowd(Limits(concurrency=10), 1_000, calls),
        "10,000 callers, 10 places": lambda: crowd(Limits(concurrency=10), 10_000, max(calls, 20_000)),
        "1,000 callers, an asyncio.Semaphore of 10": lambda: semaphores(1_000, 10, calls),
    }
    figures: Figures = {}
    names = list(parts)
    for repeat in range(repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            figures.setdefault(f"CPU per call, {name}, µs", []).append(await parts[name]())
        cpu, order, minutes = await rationed(min(calls, 2_000))
        figures.setdefault("CPU per call, limits per minute that bind, µs", []).append(cpu)
        figures.setdefault("largest number of later calls that overtook one", []).append(overtaken(order))
        figures.setdefault("minutes that ten minutes' worth of calls took", []).append(minutes)
    plain = figures["CPU per call, through the pool, no limits, µs"]
    bound = figures["CPU per call, through the pool, limits that never bind, µs"]
    figures["one decision about limits, µs"] = [a - b for a, b in zip(bound, plain, strict=True)]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    parser.add_argument("--json", type=Path, help="where to keep all figures")
    options = parser.parse_args()
    what = _report.surroundings()
    calls, repeats = (200, 2) if options.quick else (options.calls, options.repeats)
    figures = asyncio.run(measure(calls, repeats))
    _report.show(figures)
    _report.write(options.json, what, {"figures": figures})


if __name__ == "__main__":
    main()
