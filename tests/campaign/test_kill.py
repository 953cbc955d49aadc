"""Kills recording processes at random moments and looks at what is left.

`TANUKI_KILL_ROUNDS` says how often (default 5), `TANUKI_KILL_SEED` repeats a run. A record may be missing only if it
was remembered less than `flush_interval` before the kill, not counting time in which the machine gave the process no
turn or the disk no answer: the child reports ticks of its loop and every append, so such time is measured, not guessed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from tanuki_async._bloom import Bloom
from tanuki_async._lines import encode_line, example_key
from tanuki_async._places import open_place
from tanuki_async.storage.filesystem import FilesystemStorage

INTERVAL = 0.05
TICK = 0.004  # what a tick of 2 ms may take on a quiet machine
DISK = 0.015  # what the interval leaves for each of two appends, after 0.4 of it went to grouping
CHILD = Path(__file__).with_name("kill_child.py")
NAME, ALIGNED = "f/PATCHES", "f/SYMBOLIC_ALIGNMENTS"
ROUNDS = int(os.environ.get("TANUKI_KILL_ROUNDS", "5"))
SEED = int(os.environ.get("TANUKI_KILL_SEED", str(time.time_ns() % 1_000_000)))
MORE_PER_CHILD = 1_000_000
CLEAN_EVERY = 12  # rounds on one directory, so that files stay small


@dataclass
class Life:
    """One child: what it reported, and when it was killed."""

    process: subprocess.Popen[bytes]
    reader: threading.Thread
    report: list[bytes]
    ready: threading.Event
    killed: float = 0.0

    def kill(self) -> None:
        self.killed = time.monotonic()
        self.process.kill()
        self.process.wait()
        self.reader.join()


@dataclass
class Report:
    remembered: dict[int, float] = field(default_factory=dict)  # first told
    kept: set[int] = field(default_factory=set)
    stall: float = 0.0  # of loop and disk, shortly before the end


@dataclass
class Tally:
    remembered: int = 0
    kept: int = 0
    by_filter: int = 0
    in_window: int = 0
    oldest: list[float] = field(default_factory=list)
    needed_slack: int = 0

    def __str__(self) -> str:
        ages = sorted(self.oldest)
        return (
            f"{len(ages)} kills, {self.remembered} records, {self.kept} aligns kept, 0 lost of these; {self.in_window} lost "
            f"in the last {INTERVAL * 1000:g} ms, oldest at a kill: median {ages[len(ages) // 2] * 1000:.0f} ms, most "
            f"{ages[-1] * 1000:.0f} ms; {self.needed_slack} kills in a stall of the machine; {self.by_filter} taken for "
            f"others by the filter ({self.by_filter / self.remembered:.3%})"
        )


def start(root: Path | str, first: int, seed: int, env: dict[str, str], *more: str, child: Path = CHILD) -> Life:
    command = [sys.executable, str(child), str(root), str(first), str(seed), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
    report: list[bytes] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as out:
            for line in out:
                report.append(line)
                if line.startswith(b"T"):
                    ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    return Life(process, reader, report, ready)


def understand(life: Life) -> Report:
    report, ticks, appends = Report(), [life.killed], {}
    for words in (line.split() for line in life.report if line.endswith(b"\n")):
        if words[0] == b"R":
            report.remembered.setdefault(int(words[1]), float(words[2]))
        elif words[0] == b"K":
            report.kept.add(int(words[1]))
        elif words[0] == b"T":
            ticks.append(float(words[1]))
        else:
            appends[float(words[1])] = float(words[2]) or life.killed
    recent = sorted(tick for tick in ticks if tick > life.killed - 1)
    loop = max((b - a - TICK for a, b in pairwise(recent)), default=0.0)
    slow = sorted((end - begin - DISK for begin, end in appends.items() if end > life.killed - 1), reverse=True)
    report.stall = max(loop, 0.0) + sum(max(excess, 0.0) for excess in slow[:2])
    return report


async def lines_of(root: Path | str, name: str) -> list[bytes]:
    storage = open_place(root)
    lines = [line async for batch in storage.scan(name) for line in batch]
    await storage.aclose()
    return lines


def numbers_of(lines: list[bytes]) -> dict[int, bytes]:
    return {json.loads(line)["output"]["n"]: line for line in lines}


def judge(root: Path | str, lives: list[Life], before: set[int], tally: Tally) -> set[int]:
    """Check one directory after its processes were killed; return the numbers that are there."""
    lines = asyncio.run(lines_of(root, NAME))
    there, aligned = numbers_of(lines), numbers_of(asyncio.run(lines_of(root, ALIGNED)))
    assert len({example_key(line) for line in lines}) == len(lines), "a record was written twice"
    assert before <= set(there), "what was written before is gone"
    seen = Bloom()
    seen.update([example_key(line) for line in lines])
    for life in lives:
        report = understand(life)
        assert report.kept <= set(aligned), "an acknowledged align record is lost"
        tally.kept += len(report.kept)
        tally.remembered += len(report.remembered)
        ages = []
        for number, moment in report.remembered.items():
            if number in there:
                continue
            if life.killed - moment > INTERVAL and example_key(record(number)) in seen:
                tally.by_filter += 1
                continue
            ages.append(life.killed - moment)
        tally.in_window += len(ages)
        oldest = max(ages, default=0.0)
        tally.oldest.append(oldest)
        tally.needed_slack += oldest > INTERVAL
        assert oldest <= INTERVAL + report.stall, f"{oldest=} {report.stall=}"
    return set(there)


def record(number: int) -> bytes:
    text = b'["question %d %s"]' % (number, b"x" * (number % 200))
    return encode_line(
        args=text, kwargs=b"{}", output=b'{"n":%d}' % number, source="call", repaired=False, model=None, at=""
    )


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_killed_processes_lose_no_more_than_promised(
    tmp_path: Path, subprocess_env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    dice, tally, kills, before = random.Random(SEED), Tally(), 0, set[int]()
    with capsys.disabled():
        print(f"\nkill campaign: {ROUNDS} kills, TANUKI_KILL_SEED={SEED}")  # noqa: T201
    while kills < ROUNDS:
        root = tmp_path / f"data-{kills // CLEAN_EVERY}"
        if not root.exists():
            before = set()
        crowd = dice.choice((1, 1, 1, 2, 3))
        lives = [
            start(root, (kills + n + 1) * MORE_PER_CHILD, dice.randrange(1 << 30), subprocess_env) for n in range(crowd)
        ]
        assert all(life.ready.wait(60) for life in lives)
        for life in dice.sample(lives, len(lives)):
            time.sleep(dice.random() * 0.5)
            life.kill()
        kills += crowd
        before = judge(root, lives, before, tally)
    with capsys.disabled():
        print(tally)  # noqa: T201
    assert tally.by_filter < 0.01 * tally.remembered
    for directory in tmp_path.glob("data-*"):  # the next process repairs a torn end, and goes on
        asyncio.run(append_one(directory))
        for file in directory.rglob("*.jsonl"):
            content = file.read_bytes()
            assert content.endswith(b"\n")
            assert all(json.loads(line)["v"] == 1 for line in content.splitlines())


async def append_one(root: Path) -> None:
    storage = FilesystemStorage(root)
    for name in await storage.names():
        assert (await storage.append(name, [record(-7)])).written == 1
    await storage.aclose()
