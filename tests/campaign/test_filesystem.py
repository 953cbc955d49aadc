"""Many processes record in one directory; some are killed.

`TANUKI_FILES_CALLS` says how much each of the eight records (default 400; 2000 is the full size).
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crowd_child import remembered
from kill_child import NAME
from test_kill import MORE_PER_CHILD, Life, Tally, judge, lines_of, numbers_of, start, understand

from tanuki_async._lines import example_key

SEED = int(os.environ.get("TANUKI_KILL_SEED", str(time.time_ns() % 1_000_000)))
CALLS = int(os.environ.get("TANUKI_FILES_CALLS", "400"))
CHILD = Path(__file__).with_name("crowd_child.py")
PROCESSES, KILLED = 8, 3

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(600)]


def test_eight_processes_record_every_distinct_example_once(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    numbers = CALLS * 3
    arguments = map(str, (tmp_path, PROCESSES, CALLS, numbers, SEED))
    subprocess.run([sys.executable, str(CHILD), *arguments], env=subprocess_env, check=True)
    lines = asyncio.run(lines_of(tmp_path, NAME))
    wanted = remembered(PROCESSES, CALLS, numbers, SEED)
    sys.stderr.write(f"\nseed {SEED}: {PROCESSES * CALLS} calls, {len(wanted)} distinct, {len(lines)} lines\n")
    assert len({example_key(each) for each in lines}) == len(lines)
    assert set(numbers_of(lines)) == wanted


def test_killed_processes_lose_only_their_last_moments_and_the_others_nothing(
    tmp_path: Path, subprocess_env: dict[str, str]
) -> None:
    dice, tally = random.Random(SEED), Tally()
    lives = [
        start(tmp_path, (number + 1) * MORE_PER_CHILD, SEED + number, subprocess_env, str(CALLS))
        for number in range(PROCESSES)
    ]
    for life in lives[:KILLED]:
        wait_for(life, dice.randrange(CALLS // 10, CALLS * 8 // 10))
        life.kill()
    for life in lives[KILLED:]:
        assert life.process.wait(120) == 0
        life.reader.join()
    there = judge(tmp_path, lives[:KILLED], set(), tally)
    wanted = {number for life in lives[KILLED:] for number in understand(life).remembered}
    sys.stderr.write(
        f"\nseed {SEED}: {len(there)} lines; the killed remembered {tally.remembered}, of these {tally.in_window} lost, "
        f"the oldest {max(tally.oldest) * 1000:.0f} ms before its kill; of {len(wanted)} of the others "
        f"{len(wanted - there)} missing\n"
    )
    assert [life.process.returncode for life in lives] == [-9] * KILLED + [0] * (PROCESSES - KILLED)
    assert wanted <= there


def wait_for(life: Life, calls: int) -> None:
    """Until it has told that it remembered so many."""
    deadline = time.monotonic() + 60
    while sum(told.startswith(b"R") for told in life.report) < calls:
        assert time.monotonic() < deadline
        time.sleep(0.005)
