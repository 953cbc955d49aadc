"""Many processes record in one real Redis; some are killed, a Cluster's or Sentinels' primary dies."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import _redis
import pytest

pytest.importorskip("redis.asyncio.sentinel")

from crowd_child import remembered
from kill_child import NAME, line
from test_kill import MORE_PER_CHILD, Tally, judge, lines_of, numbers_of, start

from tanuki_async._errors import StorageError
from tanuki_async._lines import example_key
from tanuki_async._record.recorder import Recorder
from tanuki_async.storage.redis import RedisStorage

SEED = int(os.environ.get("TANUKI_KILL_SEED", str(time.time_ns() % 1_000_000)))
CHILD = Path(__file__).with_name("crowd_child.py")
PROCESSES, CALLS, NUMBERS = 8, 2000, 6000

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(600)]


def test_eight_processes_record_every_distinct_example_once(subprocess_env: dict[str, str]) -> None:
    with _redis.server() as server:
        arguments = map(str, (server.url, PROCESSES, CALLS, NUMBERS, SEED))
        subprocess.run([sys.executable, str(CHILD), *arguments], env=subprocess_env, check=True)
        lines = asyncio.run(lines_of(server.url, NAME))
    assert len({example_key(each) for each in lines}) == len(lines)
    assert set(numbers_of(lines)) == remembered(PROCESSES, CALLS, NUMBERS, SEED)


def test_killed_processes_lose_no_more_than_promised(subprocess_env: dict[str, str]) -> None:
    dice, tally = random.Random(SEED), Tally()
    with _redis.server() as server:
        lives = [start(server.url, (n + 1) * MORE_PER_CHILD, SEED + n, subprocess_env) for n in range(PROCESSES)]
        assert all(life.ready.wait(60) for life in lives)
        time.sleep(0.5)
        for life in lives[:3]:
            time.sleep(dice.random() * 0.3)
            life.kill()
        time.sleep(0.5)  # the others go on
        for life in lives[3:]:
            life.kill()
        judge(server.url, lives, set(), tally)
    sys.stderr.write(
        f"\nseed {SEED}: {tally.remembered} remembered, {tally.kept} kept, {tally.in_window} lost in the last moments, "
        f"the oldest {max(tally.oldest) * 1000:.0f} ms before its kill\n"
    )
    assert tally.kept > 8


async def test_a_failover_loses_nothing_that_the_replica_has_and_goes_on() -> None:
    with _redis.sentinels() as (url, primary, replica):
        storage = RedisStorage(url)
        await storage.open()
        recorder = Recorder(storage, flush_interval=0.01, grace=30)
        recorder.start()
        for number in range(300):
            recorder.remember(NAME, line(number))
            if number == 150:
                await recorder.flush()
                while replica.ask("LLEN", f"tanuki:{{{NAME}}}:lines") != b":151\r\n":  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                primary.kill()
            await asyncio.sleep(0.002)
        await recorder.aclose()
        assert await _in_the_end(url) == [line(number) for number in range(300)]
        await storage.aclose()


async def _in_the_end(url: str) -> list[bytes]:
    """On a busy machine, Sentinels take a primary for dead now and then."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await lines_of(url, NAME)
            except StorageError:
                await asyncio.sleep(0.2)


async def test_in_the_second_layer_too_fewer_than_one_in_a_hundred_is_taken_for_another() -> None:
    with _redis.server() as server:
        storage = RedisStorage(server.url)
        await storage.open()
        for begin in range(0, 380_000, 4000):
            await storage.append(NAME, [line(number * 200) for number in range(begin, begin + 4000)])
        at = await storage.count(NAME)
        await storage.append(NAME, [line(number * 200) for number in range(380_000, 400_000)])
        assert await storage.count(NAME) - at >= 0.99 * 20_000
        assert at >= 0.995 * 380_000
        await storage.aclose()
