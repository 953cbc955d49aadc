"""Many processes write to one place in S3, some are killed: every example is there exactly once, none is lost."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from test_kill import MORE_PER_CHILD, ROUNDS, SEED, Tally, judge, start

from tanuki_async._record.journal import Journal
from tanuki_async._record.recorder import Recorder
from tanuki_async.storage.s3 import S3Storage
from tests import _s3

CHILD = Path(__file__).with_name("s3_child.py")
KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}


PROCESSES, KILLED = 8, 3
CALLS = int(os.environ.get("TANUKI_S3_CALLS", "60"))  # of each; 2000 take 12 s


@pytest.mark.campaign
@pytest.mark.timeout(600)
async def test_every_example_is_there_once_though_processes_were_killed(
    tmp_path: Path, subprocess_env: dict[str, str]
) -> None:
    url = _s3.place(_s3.ministack())

    async def child(number: int) -> int:
        """Run one process, or kill it half way. Returns how many of its lines it said are durable."""
        arguments = [sys.executable, str(CHILD), url, str(tmp_path), f"p{number}", str(CALLS)]
        process = await asyncio.create_subprocess_exec(
            *arguments, env={**subprocess_env, **KEYS}, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        durable = 0
        async for said in process.stdout:
            durable = CALLS if said.strip() == b"closed" else int(said)
            if number < KILLED and durable >= CALLS // 2:
                process.kill()
                break
        await process.wait()
        assert (process.returncode == 0) == (number >= KILLED)
        return durable

    durable = await asyncio.gather(*(child(number) for number in range(PROCESSES)))
    await adopt(url, tmp_path)
    storage = S3Storage(url, session=_s3.session())
    await storage.merge("f/PATCHES")
    found = Counter([line async for batch in storage.scan("f/PATCHES") for line in batch])
    assert await storage.count("f/PATCHES") == found.total() == len(found)
    assert durable[KILLED:] == [CALLS] * (PROCESSES - KILLED)
    missing = [b"p%d-%d" % (p, n) for p, count in enumerate(durable) for n in range(count)] + [
        b"shared-%d" % n for n in range(CALLS)
    ]
    assert [line for line in missing if line not in found] == []
    for p in range(PROCESSES):
        own = [line for line in found if line.startswith(b"p%d-" % p)]
        assert own == [b"p%d-%d" % (p, n) for n in range(len(own))]
    await storage.aclose()


async def adopt(url: str, journals: Path) -> None:
    """Do as the next process does: write what those that were killed left in their journals."""
    storage = S3Storage(url, session=_s3.session())
    recorder = Recorder(storage, journal=Journal(journals, storage.place.address))
    recorder.start()
    while not recorder._spill.adopted:  # noqa: ASYNC110 — a thread makes it true
        await asyncio.sleep(0.005)
    await recorder.flush()
    assert recorder.statistics().spilled == 0
    await recorder.aclose()
    await storage.aclose()


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_killed_processes_lose_no_more_than_promised_however_long_the_bucket_takes(
    tmp_path: Path,
    subprocess_env: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    dice, tally, kills, before = random.Random(SEED), Tally(), 0, set[int]()
    url, child = _s3.place(_s3.ministack()), CHILD.with_name("kill_s3_child.py")
    while kills < ROUNDS:
        lives = [
            start(
                url,
                (kills + n + 1) * MORE_PER_CHILD,
                dice.randrange(1 << 30),
                {**subprocess_env, **KEYS},
                str(tmp_path),
                child=child,
            )
            for n in range(dice.choice((1, 1, 2)))
        ]
        assert all(life.ready.wait(60) for life in lives)
        for life in lives:
            time.sleep(0.3 + dice.random())
            life.kill()
        kills += len(lives)
        asyncio.run(adopt(url, tmp_path))
        before = judge(url, lives, before, tally)
    with capsys.disabled():
        print(f"\nTANUKI_KILL_SEED={SEED}: {tally}")  # noqa: T201
