"""Many calls: what `amap` costs, whether memory stays flat, what a waiting call takes, how cost grows with the number.

    python benchmarks/bench_map.py [--calls 100000] [--repeats 5] [--parts rate,flat,held,growth] [--json PATH]

`--calls` is for the part `flat`; 1,000,000 takes some minutes. All parts talk to the loopback server, each in processes
of its own, with everything on: limits, validation, recording to disk, the filter.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import _environments
import _report
import _server
from _worker import TEXT, memory
from bench_call import Client

_report.import_from_here()

CONCURRENCY = 256
Figures = dict[str, list[float]]


def in_a_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a fresh process and return what it returns."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(work, *arguments).result()


@asynccontextmanager
async def opened(url: str) -> Any:
    from _clients import ours

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        async with ours.opened(url, Path(scratch)) as judge:
            await judge("the first message")
            yield judge


def rates(url: str, calls: int, turn: int) -> dict[str, float]:
    """Calls per second and CPU of the same calls, with `amap` and by as many callers without it."""

    async def main() -> dict[str, float]:
        from tanuki_async import amap

        async with opened(url) as judge:

            async def plainly(texts: list[str]) -> None:
                left = iter(texts)

                async def caller() -> None:
                    for text in left:
                        await judge(text)

                await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))

            async def mapped(texts: list[str], *, ordered: bool) -> None:
                async for _ in amap(judge, texts, concurrency=CONCURRENCY, ordered=ordered):
                    pass

            ways: dict[str, Callable[[list[str]], Any]] = {
                "callers without amap": plainly,
                "amap": lambda texts: mapped(texts, ordered=True),
                "amap, unordered": lambda texts: mapped(texts, ordered=False),
            }
            found: dict[str, float] = {}
            await plainly([TEXT.format(-number) for number in range(4 * CONCURRENCY)])
            names = list(ways)
            for at, name in enumerate(names[turn:] + names[:turn]):
                texts = [TEXT.format(at * calls + number) for number in range(calls)]
                begin, cpu = time.perf_counter(), time.process_time()
                await ways[name](texts)
                found[f"{name}, calls/s"] = calls / (time.perf_counter() - begin)
                found[f"{name}, CPU ms per call"] = (time.process_time() - cpu) / calls * 1e3
            return found

    return asyncio.run(main())


def rate(repeats: int, calls: int) -> Figures:
    figures: Figures = {}
    with _server.running() as url:
        for repeat in range(repeats):
            for name, value in in_a_process(rates, url, calls, repeat % 3).items():
                figures.setdefault(name, []).append(value)
    plain = figures["callers without amap, calls/s"]
    for name in ("amap", "amap, unordered"):
        pairs = zip(figures[f"{name}, calls/s"], plain, strict=True)
        figures[f"rate of {name} / without it"] = [a / b for a, b in pairs]
    return figures


def resident(url: str, calls: int, every: int) -> list[float]:
    """Megabytes after each `every` calls through `amap`."""

    async def main() -> list[float]:
        from tanuki_async import amap

        samples: list[float] = []
        async with opened(url) as judge:
            texts = (TEXT.format(number) for number in range(calls))
            done = 0
            async for _ in amap(judge, texts, concurrency=CONCURRENCY):
                done += 1
                if not done % every:
                    samples.append(memory("VmRSS") or 0.0)
        return samples

    return asyncio.run(main())


def flat(calls: int) -> Figures:
    with _server.running() as url:
        samples = in_a_process(resident, url, calls, max(1, min(10_000, calls // 10)))
    return {
        f"RSS over {calls:,} calls, after the first tenth or 10,000, MB": samples,
        "RSS at the end above RSS after the first 10,000, MB": [samples[-1] - samples[0]],
    }


def held(repeats: int, count: int) -> Figures:
    """Memory of one call that waits for its answer, `count` at the same time; ours and the bare transport."""
    figures: Figures = {}
    for _ in range(repeats):
        for name in ("bare", "ours"):
            told = _ask(name, {"held": count, "rest": 6.0 if count > 1_000 else 1.0})
            if told.get("held") != count:
                print(f"{name}: only {told.get('held')} of {count} were waiting", file=sys.stderr)
            figures.setdefault(f"{name}: KiB per waiting call, {count:,} at once", []).append(told["kib_per_call"])
            figures.setdefault(f"{name}: RSS with {count:,} waiting, MB", []).append(told["rss_mb"])
    of_ours, of_bare = (figures[f"{name}: KiB per waiting call, {count:,} at once"] for name in ("ours", "bare"))
    figures["a waiting call above our transport alone, KiB"] = [a - b for a, b in zip(of_ours, of_bare, strict=True)]
    return figures


def growth(repeats: int, most: int) -> Figures:
    """CPU of one call at 32 and at `most` in flight, connections made."""
    figures: Figures = {}
    many_at_once = {"seconds": 2.0, "waves": 2, "patience": 60.0}
    for _ in range(repeats):
        for name in ("bare", "ours"):
            few, many = _ask(name, {"in_flight": 32, "seconds": 1.0}, {**many_at_once, "in_flight": most}, all=True)
            figures.setdefault(f"{name}: CPU ms at 32 in flight", []).append(few["cpu_ms"])
            figures.setdefault(f"{name}: CPU ms at {most:,} in flight", []).append(many["cpu_ms"])
            ratio = many["cpu_ms"] / few["cpu_ms"]
            figures.setdefault(f"{name}: CPU at {most:,} in flight / at 32", []).append(ratio)
    return figures


def _ask(name: str, *phases: dict[str, Any], all: bool = False) -> Any:  # noqa: A002
    """Have a fresh worker measure something."""
    with _server.running() as url, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        client = Client(name, _environments.here("ours"), url, Path(scratch))
        try:
            told = [client.measure(phase) for phase in phases]
        finally:
            client.close()
    if errors := [each["error"] for each in told if "error" in each]:
        raise SystemExit(f"{name}: {errors[0]}")
    return told if all else told[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=100_000, help="of the part flat; 100,000")
    parser.add_argument("--held", type=int, default=10_000, help="calls at once in the parts held and growth; 10,000")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", default="rate,flat,held,growth")
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    parser.add_argument("--json", type=Path, help="where to keep all figures")
    options = parser.parse_args()
    if options.quick:
        options.calls, options.held, options.repeats, options.parts = 500, 50, 1, "rate,flat,growth"
    parts: dict[str, Callable[[], Figures]] = {
        "rate": lambda: rate(options.repeats, 500 if options.quick else 10_000),
        "flat": lambda: flat(options.calls),
        "held": lambda: held(options.repeats, options.held),
        "growth": lambda: growth(options.repeats, options.held),
    }
    what = _report.surroundings()
    figures: Figures = {}
    for part in options.parts.split(","):
        found = parts[part]()
        _report.show(found)
        figures |= found
    _report.write(options.json, what, {"figures": figures})


if __name__ == "__main__":
    main()
