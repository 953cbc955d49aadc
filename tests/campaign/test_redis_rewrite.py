"""A million lines in Redis are rewritten, beside another client; a process that rewrites is killed."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import _redis
import pytest

pytest.importorskip("redis.asyncio.sentinel")

from kill_child import NAME, line

from tanuki_async.abc import Appended
from tanuki_async.storage.redis import RedisStorage

MILLION = 1_000_000
PING = Path(__file__).with_name("ping_child.py")

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(600)]


@contextlib.asynccontextmanager
async def pinged(server: _redis.Server, env: dict[str, str], waits: list[float]) -> AsyncIterator[None]:
    """Let another process measure how long the server keeps it waiting."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PING), _redis.HOST, str(server.port), env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield
    finally:
        waits.append(float((await process.communicate(b""))[0]))


def odd(lines: list[bytes]) -> list[bytes]:
    return [each for number, each in enumerate(lines) if number % 2]


async def test_a_million_lines_are_rewritten_and_nobody_waits_long(subprocess_env: dict[str, str]) -> None:
    with _redis.server() as server:
        storage = RedisStorage(server.url)
        await storage.open()
        waits: list[float] = []
        begin = time.perf_counter()
        async with pinged(server, subprocess_env, waits):
            for start in range(0, MILLION, 10_000):
                await storage.append(NAME, [line(200 * number) for number in range(start, start + 10_000)])
        appending = time.perf_counter() - begin
        count, begin = await storage.count(NAME), time.perf_counter()
        async with pinged(server, subprocess_env, waits):
            gone = await storage.rewrite(NAME, odd)
        rewriting = time.perf_counter() - begin
        kept = [each async for page in storage.scan(NAME) for each in page]
        sys.stderr.write(
            f"\nappending {count} lines took {appending:.1f} s, another's PING at most {waits[0]:.0f} ms; rewriting them "
            f"{rewriting:.1f} s, {waits[1]:.0f} ms\n"
        )
        assert len(kept) + gone == count
        assert (await storage.append(NAME, kept[:1000])).written == 0
        assert waits[1] < 1000  # a few ms on a quiet machine
        await storage.aclose()


KILLED = """
import asyncio, os, signal, sys
from tanuki_async.storage.redis import RedisStorage

def change(lines):
    global left
    left -= len(lines)
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return lines[1:]

left = int(sys.argv[3])
asyncio.run(RedisStorage(sys.argv[1]).rewrite(sys.argv[2], change))
"""


async def test_a_process_that_is_killed_while_it_rewrites_changes_nothing(
    subprocess_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with _redis.server() as server:
        storage = RedisStorage(server.url)
        await storage.append(NAME, [line(number) for number in range(20_000)])
        before = [each async for page in storage.scan(NAME) for each in page]
        for left in (0, 5000, 15_000):
            command = [sys.executable, "-c", KILLED, server.url, NAME, str(left)]
            process = await asyncio.create_subprocess_exec(*command, env=subprocess_env)
            assert await process.wait() == -9
            assert [each async for page in storage.scan(NAME) for each in page] == before
            server.ask("PEXPIRE", f"tanuki:{{{NAME}}}:draft-about", "1")  # rather than wait for a minute
        assert await storage.append(NAME, before[-100:]) == Appended(0, 100)
        assert await storage.rewrite(NAME, lambda lines: [each for each in lines if each != before[0]]) == 1
        assert await storage.count(NAME) == len(before) - 1
        await storage.aclose()
