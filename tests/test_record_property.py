"""Whatever storage does: no line is lost or counted twice, each name keeps its order, and only bad lines are set aside."""

from __future__ import annotations

import asyncio
import json
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tanuki_async._errors import StorageError
from tanuki_async._record.journal import Journal
from tanuki_async._record.recorder import Recorder
from tanuki_async.abc import Appended
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import FakeClock

NAMES = ("a", "b", "c", "d")


def displaced(written: Sequence[bytes], given: Sequence[bytes]) -> int:
    """Return how many of the lines, which must all be there once, have to move to be in order."""
    assert sorted(written) == sorted(given)
    place = {line: at for at, line in enumerate(given)}
    ends: list[int] = []  # the least end of an ascending row of each length
    for at in map(place.__getitem__, written):
        ends[bisect_left(ends, at) : bisect_left(ends, at) + 1] = [at]
    return len(given) - len(ends)


class Scripted(MemoryStorage):
    """Memory that fails at random, by name, by line, for all, or in the middle of a batch; and may be slow."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice
        self.chance = self.tearing = 0.0
        self.bad_names: set[str] = set()
        self.bad_lines: set[bytes] = set()
        self.up = True
        self.free = asyncio.Event()
        self.free.set()

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        await self.free.wait()
        await asyncio.sleep(0)
        if not self.up or name in self.bad_names or self.dice.random() < self.chance:
            if self.dice.random() < self.tearing:
                good = [line for line in lines if line not in self.bad_lines]
                await super().append(name, good[: self.dice.randrange(len(good) + 1)])
            raise StorageError(f"{name}: not now")
        if not self.bad_lines.isdisjoint(lines):
            raise StorageError(f"{name}: not this line")
        return await super().append(name, lines, latest=latest)

    def heal(self) -> None:
        self.chance = self.tearing = 0.0
        self.bad_names.clear()
        self.up = True
        self.free.set()


class Run:
    """A recorder, what it was given, and a storage that a script moves."""

    def __init__(self, seed: int, path: Path | None) -> None:
        self.dice, self.clock = random.Random(seed), FakeClock()
        self.storage = Scripted(random.Random(seed + 1))
        self.path = path
        self.recorder = self._new()
        self.given: dict[str, list[bytes]] = {name: [] for name in NAMES}

    def _new(self) -> Recorder:
        journal = Journal(self.path, "somewhere") if self.path else None
        recorder = Recorder(self.storage, clock=self.clock, queue_bytes=60_000, grace=0.02, journal=journal)
        recorder.start()
        return recorder

    def remember(self, count: int, bad: float = 0.0) -> None:
        for _ in range(count):
            name = self.dice.choice(NAMES)
            line = b"%s %d " % (name.encode(), len(self.given[name])) + b"x" * self.dice.randrange(40)
            self.given[name].append(line)
            if self.dice.random() < bad:
                self.storage.bad_lines.add(line)
            self.recorder.remember(name, line)

    async def pass_time(self, seconds: float, step: float = 0.5) -> None:
        for _ in range(int(seconds / step)):
            await self.clock.advance(step)
            await self.quiet()

    async def happen(self, what: int) -> None:
        storage, dice = self.storage, self.dice
        match what:
            case 0:
                storage.bad_names = set(dice.sample(NAMES, dice.randrange(len(NAMES))))
            case 1:
                storage.chance, storage.tearing = dice.choice((0.0, 0.3)), dice.random()
            case 2:
                storage.up = dice.random() < 0.5
            case 3:
                storage.heal()
            case 4:
                storage.free.clear() if dice.random() < 0.7 else storage.free.set()
            case 5:
                flushing = asyncio.create_task(self.recorder.flush())
                await asyncio.sleep(dice.random() * 0.002)
                flushing.cancel()
                await asyncio.wait({flushing})
            case _:
                self.remember(dice.randrange(1, 100))
        await self.pass_time(dice.choice((0.05, 1.0, 30.0)), step=dice.choice((0.05, 1.0)))

    async def quiet(self) -> None:
        for _ in range(4):
            while self.recorder._spill._turn.locked():  # noqa: ASYNC110 — a thread unlocks it
                await asyncio.sleep(0.0002)
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Have storage take everything, but bad lines."""
        self.storage.heal()
        for _ in range(40):
            await self.pass_time(35, step=5)
            if not self.recorder._writer.lines:
                return

    def check_numbers(self) -> None:
        numbers = self.recorder.statistics()
        total = numbers.queued + numbers.written + numbers.deduplicated + numbers.spilled + numbers.failed
        assert total == sum(map(len, self.given.values())), numbers

    async def written(self, name: str) -> list[bytes]:
        return [line async for batch in self.storage.scan(name) for line in batch]

    def refused(self) -> list[bytes]:
        assert self.path is not None
        files = list(self.path.glob("*/refused.jsonl"))
        return [json.loads(text)["line"].encode() for file in files for text in file.read_text().splitlines()]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("journal", [True, False], ids=["journal", "memory"])
async def test_whatever_storage_does_nothing_is_lost_or_counted_twice(seed: int, journal: bool, tmp_path: Path) -> None:
    run = Run(seed, tmp_path if journal else None)
    for _ in range(25):
        await run.happen(run.dice.randrange(8))
        run.check_numbers()
    await run.settle()
    assert run.recorder.statistics().failed == 0
    for name in NAMES:
        assert displaced(await run.written(name), run.given[name]) <= 3  # an outage that ends within a try may move one
    await run.recorder.aclose()
    run.check_numbers()


@pytest.mark.parametrize("seed", range(12))
async def test_each_name_keeps_its_order_where_storage_fails_at_once(seed: int, tmp_path: Path) -> None:
    run = Run(seed, tmp_path)
    for _ in range(25):
        await run.happen(run.dice.choice((0, 2, 3, 5, 6, 7)))
    await run.settle()
    for name in NAMES:
        assert await run.written(name) == run.given[name]
    await run.recorder.aclose()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chance", [0.3, 0.8])
async def test_storage_that_fails_at_random_has_nothing_set_aside(seed: int, chance: float, tmp_path: Path) -> None:
    run = Run(seed, tmp_path)
    run.storage.chance, run.storage.tearing = chance, 0.3
    for _ in range(60):
        run.remember(run.dice.randrange(1, 8))
        await run.pass_time(30, step=3)
    assert run.recorder.statistics().failed == 0
    await run.settle()
    for name in NAMES:
        assert Counter(await run.written(name)) == Counter(run.given[name])
    run.check_numbers()
    await run.recorder.aclose()


@pytest.mark.parametrize("seed", range(3))
async def test_bad_lines_alone_are_set_aside_and_the_others_of_their_names_are_written(
    seed: int, tmp_path: Path
) -> None:
    run = Run(seed, tmp_path)
    for _ in range(80):
        run.remember(run.dice.randrange(1, 10), bad=0.01)
        await run.pass_time(30, step=3)
        run.check_numbers()
    for _ in range(60):
        run.remember(2)
        await run.pass_time(40, step=4)
    await run.settle()
    run.check_numbers()
    assert sorted(run.refused()) == sorted(run.storage.bad_lines)
    for name in NAMES:
        assert await run.written(name) == [line for line in run.given[name] if line not in run.storage.bad_lines]
    await run.recorder.aclose()
