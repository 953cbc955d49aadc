"""What an embedded call costs beside one request with all texts, and how many requests many calls become.

    python benchmarks/bench_embed.py [--calls 1000] [--repeats 5] [--json PATH]

Texts become vectors of 1,536 dimensions, packed as OpenAI packs them, by a server in a process of its own. `bare` is
the provider with the whole list in one request: parsing its answer is most of what that costs. `array` and `list` are
that many patched calls at once, so the difference is the call itself: binding, gathering, handing out, counting.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import _report

_report.import_from_here()

import numpy as np  # noqa: E402

import tanuki_async as tanuki  # noqa: E402
from tanuki_async import Embedding, Tanuki  # noqa: E402
from tanuki_async._pool.http import Connections  # noqa: E402
from tanuki_async._records import Reply  # noqa: E402
from tanuki_async.providers.openai import OpenAI  # noqa: E402
from tanuki_async.storage.memory import MemoryStorage  # noqa: E402
from tanuki_async.testing import EmbeddingRequest, LoopbackServer  # noqa: E402

DIMENSIONS = 1_536


@tanuki.patch
async def listed(text: str) -> Embedding[list[float]]:
    """Embed a text, as plain floats."""


@tanuki.patch
async def packed(text: str) -> Embedding[np.ndarray]:
    """Embed a text, as an array."""


@lru_cache
def reply(count: int) -> Reply:
    packed = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *[1 / DIMENSIONS] * DIMENSIONS)).decode()
    data = [{"object": "embedding", "index": index, "embedding": packed} for index in range(count)]
    body = json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": count, "total_tokens": count}})
    return Reply(status=200, headers={"content-type": "application/json"}, body=body.encode())


def answer(request: EmbeddingRequest) -> Reply:
    return reply(len(request.texts))


async def serve() -> None:
    async with LoopbackServer(embedding=answer, keep=1) as server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextmanager
def running() -> Generator[str]:
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(timeout=10)


async def bare(url: str, texts: list[str]) -> float:
    """CPU microseconds per text of one request for all."""
    provider, http = OpenAI("sk-none", url), Connections()
    try:
        await provider.embed(provider.model("text-embedding-3-small"), texts, http)
        begin = time.process_time()
        await provider.embed(provider.model("text-embedding-3-small"), texts, http)
        return (time.process_time() - begin) / len(texts) * 1e6
    finally:
        await http.aclose()


async def longest_gap(stop: asyncio.Event) -> float:
    """Milliseconds for which a task that sleeps 1 ms again and again did not get its turn."""
    longest = 0.0
    while not stop.is_set():
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - begin - 0.001)
    return longest * 1e3


async def ours(url: str, function: Callable[[str], Awaitable[Any]], texts: list[str]) -> dict[str, float]:
    """The same for a call per text, all at once; and how many requests that was."""
    async with Tanuki(storage=MemoryStorage(), providers=[OpenAI("sk-none", url)]) as opened:
        await asyncio.gather(*map(function, texts))
        sent, stop = opened.statistics().pool.accounts[0].requests, asyncio.Event()
        gap = asyncio.create_task(longest_gap(stop))
        begin, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*map(function, texts))
        cpu, wall = time.process_time() - begin, time.perf_counter() - wall
        stop.set()
        return {
            "CPU us per call": cpu / len(texts) * 1e6,
            "ms for all": wall * 1e3,
            "longest gap in ms": await gap,
            "requests": opened.statistics().pool.accounts[0].requests - sent,
        }


async def alone(url: str, calls: int) -> float:
    """Milliseconds of a call that has no company, the median."""
    async with Tanuki(storage=MemoryStorage(), providers=[OpenAI("sk-none", url)]):
        taken: list[float] = []
        for number in range(calls + 1):
            begin = time.perf_counter()
            await packed(f"text {number}")
            taken.append((time.perf_counter() - begin) * 1e3)
        return sorted(taken[1:])[calls // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    calls, repeats = (50, 1) if options.quick else (options.calls, options.repeats)
    told: dict[str, Any] = _report.surroundings()
    texts = [f"text number {number} of many" for number in range(calls)]
    figures: dict[str, list[float]] = {}
    with running() as url:
        for _ in range(repeats):
            figures.setdefault("bare: CPU us per text", []).append(asyncio.run(bare(url, texts)))
            for title, function in (("array", packed), ("list", listed)):
                for name, figure in asyncio.run(ours(url, function, texts)).items():
                    figures.setdefault(f"{title}: {name}", []).append(figure)
            figures.setdefault("array: ms of a call alone", []).append(
                asyncio.run(alone(url, 20 if options.quick else 200))
            )
    _report.show(figures)
    _report.write(options.json, told, {"figures": figures})


if __name__ == "__main__":
    main()
