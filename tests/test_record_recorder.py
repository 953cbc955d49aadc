"""The recorder: never in the caller's way, nothing lost that need not be, whatever storage and the loop do."""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import anyio
import pytest

from tanuki_async._errors import NotOpenError, StorageError
from tanuki_async._lines import encode_line
from tanuki_async._record.recorder import Recorder, RecorderStatistics
from tanuki_async.abc import Appended
from tanuki_async.storage.filesystem import FilesystemStorage
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import FakeClock

NAME = "0123abcd/PATCHES"


def line(text: object) -> bytes:
    return encode_line(
        args=b'["%s"]' % str(text).encode(),
        kwargs=b"{}",
        output=b'"good"',
        source="call",
        repaired=False,
        model=None,
        at="",
    )


class Moody(MemoryStorage):
    """Memory that fails or hangs as told, and notes each append that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []
        self.error: BaseException | None = None
        self.free = asyncio.Event()
        self.free.set()
        self.called = asyncio.Event()

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        self.asked.append((name, len(lines)))
        self.called.set()
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return await super().append(name, lines, latest=latest)

    async def all(self, name: str = NAME) -> list[bytes]:
        return [line async for batch in self.scan(name) for line in batch]


@pytest.fixture
async def storage() -> Moody:
    return Moody()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def recorder(storage: Moody, clock: FakeClock) -> AsyncIterator[Recorder]:
    recorder = Recorder(storage, clock=clock, grace=0.05)
    recorder.start()
    yield recorder
    storage.free.set()
    await recorder.aclose()


def counts(recorder: Recorder) -> tuple[int, int, int, int]:
    numbers = recorder.statistics()
    return numbers.queued, numbers.written, numbers.deduplicated, numbers.failed


async def test_what_is_remembered_is_written_within_the_interval(
    recorder: Recorder, storage: Moody, clock: FakeClock
) -> None:
    recorder.remember(NAME, line(1))
    assert counts(recorder) == (1, 0, 0, 0)
    await clock.advance(0.05)
    assert await storage.all() == [line(1)]
    assert counts(recorder) == (0, 1, 0, 0)


async def test_lines_are_grouped_by_name_and_keep_their_order(
    recorder: Recorder, storage: Moody, clock: FakeClock
) -> None:
    for n in range(100):
        recorder.remember(f"f{n % 2}/PATCHES", line(n))
    await clock.advance(0.05)
    assert sorted(storage.asked) == [("f0/PATCHES", 50), ("f1/PATCHES", 50)]
    assert await storage.all("f1/PATCHES") == [line(n) for n in range(1, 100, 2)]


async def test_lines_that_come_while_storage_works_follow(recorder: Recorder, storage: Moody, clock: FakeClock) -> None:
    storage.free.clear()
    recorder.remember(NAME, line(1))
    await clock.advance(0.05)
    recorder.remember(NAME, line(2))
    assert counts(recorder) == (2, 0, 0, 0)
    storage.free.set()
    await clock.advance(0.05)
    assert await storage.all() == [line(1), line(2)]


async def test_duplicates_are_counted(recorder: Recorder, storage: Moody) -> None:
    for _ in range(3):
        recorder.remember(NAME, line(1))
    await recorder.flush()
    assert recorder.statistics() == RecorderStatistics(queued=0, written=1, deduplicated=2, spilled=0, failed=0)


async def test_flush_waits_for_what_is_being_written(recorder: Recorder, storage: Moody, clock: FakeClock) -> None:
    storage.free.clear()
    recorder.remember(NAME, line(1))
    await clock.advance(0.05)
    flushing = asyncio.create_task(recorder.flush())
    await asyncio.sleep(0.01)
    assert not flushing.done()
    storage.free.set()
    await flushing
    assert await storage.all() == [line(1)]


async def test_flush_does_not_wait_for_what_comes_later(storage: Moody) -> None:
    recorder = Recorder(storage, on_written=lambda name, _: recorder.remember(name, line(time.perf_counter_ns())))
    recorder.start()
    recorder.remember(NAME, line(1))
    async with asyncio.timeout(1):
        await recorder.flush()
    recorder._delivery._on_written = None
    await recorder.aclose()


async def test_flush_says_that_storage_fails_and_loses_nothing(
    recorder: Recorder, storage: Moody, clock: FakeClock
) -> None:
    storage.error = StorageError("no disk")
    recorder.remember(NAME, line(1))
    recorder.remember(NAME, line(2))
    with pytest.raises(StorageError, match="no disk"):
        await recorder.flush()
    assert counts(recorder) == (2, 0, 0, 0)
    storage.error = None
    await recorder.flush()
    assert await storage.all() == [line(1), line(2)]


async def test_failing_storage_is_tried_again_after_growing_pauses(
    recorder: Recorder, storage: Moody, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage.error = OSError("a plug-in's own error")
    recorder.remember(NAME, line(1))
    await clock.advance(600)
    assert 15 < len(storage.asked) < 40
    recorder.remember(NAME, line(2))
    storage.error = None
    await clock.advance(31)
    assert await storage.all() == [line(1), line(2)]
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


class Picky(MemoryStorage):
    """Memory that refuses one name."""

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        if name == "bad":
            raise StorageError("not this one")
        return await super().append(name, lines, latest=latest)


async def test_one_name_that_fails_does_not_hold_up_another(clock: FakeClock) -> None:
    picky = Picky()
    recorder = Recorder(picky, clock=clock, grace=0.01)
    recorder.start()
    recorder.remember("bad", line(1))
    recorder.remember("good", line(2))
    with pytest.raises(StorageError, match="not this one"):
        await recorder.flush()
    assert await picky.count("good") == 1
    assert recorder.statistics().queued == 1
    await recorder.aclose()


async def test_a_name_that_fails_for_ever_does_not_slow_another_down(clock: FakeClock) -> None:
    picky = Picky()
    recorder = Recorder(picky, clock=clock, grace=0.01)
    recorder.start()
    for number in range(600):
        recorder.remember("bad", line(number))
        recorder.remember("good", line(number))
        await clock.advance(0.1)
    assert await picky.count("good") > 580
    assert recorder.statistics().failed == 0
    await recorder.aclose()


async def test_an_outage_that_begins_between_two_names_loses_neither(clock: FakeClock) -> None:
    class Ending(MemoryStorage):
        left = 0  # appends until it is down

        async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
            if name == "unlucky" or not self.left:
                raise StorageError("going down")
            self.left -= 1
            return await super().append(name, lines, latest=latest)

    storage = Ending()
    recorder = Recorder(storage, clock=clock, grace=0.01)
    recorder.start()
    storage.left = 1
    recorder.remember("unlucky", line(1))
    recorder.remember("lucky", line(2))
    await clock.advance(3600)
    assert await storage.count("lucky") == 1
    assert (recorder.statistics().queued, recorder.statistics().failed) == (1, 0)
    await recorder.aclose()


async def test_a_storage_that_cancels_what_it_was_asked_for_ends_no_recorder(
    recorder: Recorder, storage: Moody, clock: FakeClock
) -> None:
    storage.error = asyncio.CancelledError()
    recorder.remember(NAME, line(1))
    await clock.advance(1)
    storage.error = None
    await clock.advance(1)
    assert await storage.all() == [line(1)]


async def test_above_its_bound_the_queue_drops_what_is_new_and_says_so_once(
    storage: Moody, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(storage, clock=clock, queue_bytes=5000, grace=0.05)
    recorder.start()
    for n in range(1000):
        recorder.remember(NAME, line(n))
    queued, _, _, failed = counts(recorder)
    assert 10 < queued < 50
    assert failed == 1000 - queued
    assert len(caplog.records) == 1
    await recorder.flush()
    recorder.remember(NAME, line("room again"))
    await recorder.aclose()
    assert counts(recorder) == (0, queued + 1, 0, failed)


async def test_memory_of_lines_in_flight_counts_too(storage: Moody, clock: FakeClock) -> None:
    recorder = Recorder(storage, clock=clock, queue_bytes=5000, grace=0.05)
    recorder.start()
    storage.free.clear()
    recorder.remember(NAME, b"x" * 4000)
    await clock.advance(0.05)
    recorder.remember(NAME, b"y" * 4000)
    assert counts(recorder) == (1, 0, 0, 1)
    storage.free.set()
    await recorder.aclose()


async def test_remembering_before_start_or_after_close_is_counted_and_never_raises(
    storage: Moody, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(storage)
    recorder.remember(NAME, line(1))
    recorder.start()
    recorder.start()
    await recorder.aclose()
    recorder.remember(NAME, line(2))
    recorder.remember(NAME, line(3))
    assert counts(recorder) == (0, 0, 0, 3)
    assert len(caplog.records) == 1
    with pytest.raises(NotOpenError, match="make a new one"):
        recorder.start()


async def test_keep_is_durable_when_it_returns(recorder: Recorder, storage: Moody) -> None:
    assert await recorder.keep(NAME, [line(1), line(1), line(2)]) == Appended(2, 1)
    assert await storage.all() == [line(1), line(2)]
    assert counts(recorder) == (0, 2, 1, 0)


async def test_keep_follows_what_was_remembered_before(recorder: Recorder, storage: Moody) -> None:
    recorder.remember(NAME, line(1))
    await recorder.keep(NAME, [line(2)])
    assert await storage.all() == [line(1), line(2)]


async def test_keep_says_that_storage_fails(recorder: Recorder, storage: Moody) -> None:
    storage.error = ValueError("a plug-in's own error")
    with pytest.raises(StorageError, match="own error"):
        await recorder.keep(NAME, [line(1)])
    storage.error = None
    await recorder.aclose()
    with pytest.raises(StorageError, match="closed"):
        await recorder.keep(NAME, [line(1)])


async def test_whoever_listens_hears_what_was_new(storage: Moody) -> None:
    heard: list[tuple[str, int]] = []
    recorder = Recorder(storage, on_written=lambda *news: heard.append(news))
    recorder.start()
    for n in (1, 1, 2):
        recorder.remember(NAME, line(n))
    await recorder.flush()
    recorder.remember(NAME, line(1))
    await recorder.aclose()
    assert heard == [(NAME, 2)]


async def test_a_listener_that_fails_stops_nothing(storage: Moody, caplog: pytest.LogCaptureFixture) -> None:
    def listener(name: str, count: int) -> None:
        raise RuntimeError("deaf")

    recorder = Recorder(storage, on_written=listener)
    recorder.start()
    for n in range(3):
        recorder.remember(NAME, line(n))
        await recorder.flush()
    await recorder.aclose()
    assert counts(recorder) == (0, 3, 0, 0)
    assert "deaf" in caplog.text


async def test_closing_writes_what_is_queued_and_twice_is_fine(recorder: Recorder, storage: Moody) -> None:
    recorder.remember(NAME, line(1))
    await asyncio.gather(recorder.aclose(), recorder.aclose())
    await recorder.aclose()
    assert await storage.all() == [line(1)]
    await recorder.flush()


async def test_closing_waits_for_what_is_being_kept(recorder: Recorder, storage: Moody) -> None:
    storage.free.clear()
    keeping = asyncio.create_task(recorder.keep(NAME, [line(1)]))
    await storage.called.wait()
    closing = asyncio.create_task(recorder.aclose())
    await asyncio.sleep(0.01)
    assert not closing.done()
    storage.free.set()
    await closing
    assert (await keeping).written == 1


async def test_closing_leaves_no_task(storage: Moody) -> None:
    recorder = Recorder(storage)
    recorder.start()
    recorder.remember(NAME, line(1))
    await recorder.aclose()
    assert [task for task in asyncio.all_tasks() if "recorder" in task.get_name()] == []


async def test_closing_works_when_the_background_task_is_gone(recorder: Recorder, storage: Moody) -> None:
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "tanuki_async recorder"]
    task.cancel()
    await asyncio.wait({task})
    recorder.remember(NAME, line(1))
    await recorder.aclose()
    assert await storage.all() == [line(1)]


async def test_a_background_task_cancelled_while_storage_works_loses_nothing(
    recorder: Recorder, storage: Moody, clock: FakeClock
) -> None:
    storage.free.clear()
    recorder.remember("a", line(1))
    recorder.remember("b", line(2))
    await clock.advance(0.05)
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "tanuki_async recorder"]
    task.cancel()
    await asyncio.wait({task})
    assert recorder.statistics().queued == 2
    storage.free.set()
    await recorder.aclose()
    assert [await storage.count("a"), await storage.count("b")] == [1, 1]


@pytest.mark.parametrize("kind", ["asyncio", "anyio"])
async def test_closing_while_cancelled_writes_everything(storage: Moody, kind: str) -> None:
    recorder = Recorder(storage)
    recorder.start()
    storage.free.clear()
    recorder.remember(NAME, line(1))
    closing = asyncio.create_task(cancelled_close(recorder, storage, kind))
    await storage.called.wait()
    if kind == "asyncio":
        closing.cancel()
        await asyncio.sleep(0.01)
        closing.cancel()
    await asyncio.sleep(0.01)
    assert not closing.done()
    storage.free.set()
    await asyncio.wait({closing})
    assert closing.cancelled() == (kind == "asyncio")
    assert await storage.all() == [line(1)]


async def cancelled_close(recorder: Recorder, storage: Moody, kind: str) -> None:
    with anyio.CancelScope() as scope:
        if kind == "anyio":
            scope.cancel()
        await recorder.aclose()


async def test_a_cancelled_flush_loses_nothing(recorder: Recorder, storage: Moody) -> None:
    storage.free.clear()
    recorder.remember(NAME, line(1))
    flushing = asyncio.create_task(recorder.flush())
    await storage.called.wait()
    flushing.cancel()
    await asyncio.wait({flushing})
    storage.free.set()
    await recorder.flush()
    assert await storage.all() == [line(1)]


async def test_cancelled_at_any_moment_nothing_is_lost_or_written_twice(tmp_path: Path) -> None:
    storage, dice = FilesystemStorage(tmp_path / "data"), random.Random(7)
    recorder = Recorder(storage, flush_interval=0.002)
    recorder.start()
    for n in range(150):
        recorder.remember(NAME, line(n))
        recorder.remember(f"{NAME}-{n % 3}", line(n))
        waiting = asyncio.create_task(recorder.flush() if n % 2 else recorder.keep("kept", [line(n)]))
        await asyncio.sleep(dice.random() * 0.003)
        waiting.cancel()
        await asyncio.wait({waiting})
    await recorder.aclose()
    assert await storage.count(NAME) == 150
    assert [await storage.count(f"{NAME}-{n}") for n in range(3)] == [50, 50, 50]
    assert counts(recorder)[0] == counts(recorder)[3] == 0
    assert recorder._waiting.bytes == 0
    await storage.aclose()


async def test_closing_gives_up_on_storage_that_hangs(
    recorder: Recorder, storage: Moody, caplog: pytest.LogCaptureFixture
) -> None:
    storage.free.clear()
    recorder.remember(NAME, line(1))
    started = time.monotonic()
    await recorder.aclose()
    assert time.monotonic() - started < 1
    assert counts(recorder) == (0, 0, 0, 1)
    assert "1 examples are lost" in caplog.text


async def test_closing_gives_up_on_storage_that_fails(storage: Moody, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(storage, grace=0.05)
    recorder.start()
    storage.error = StorageError("no disk")
    recorder.remember(NAME, line(1))
    await recorder.aclose()
    assert counts(recorder) == (0, 0, 0, 1)
    assert "no disk" in caplog.text


async def test_closing_waits_for_storage_that_comes_back(storage: Moody) -> None:
    recorder = Recorder(storage)
    recorder.start()
    storage.error = StorageError("restarting")
    recorder.remember(NAME, line(1))
    closing = asyncio.create_task(recorder.aclose())
    await storage.called.wait()
    storage.error = None
    await closing
    assert await storage.all() == [line(1)]


async def test_a_thousand_recorders_close_at_once(storage: Moody) -> None:
    recorders = [Recorder(storage) for _ in range(1000)]
    for n, recorder in enumerate(recorders):
        recorder.start()
        recorder.remember(NAME, line(n))
    await asyncio.gather(*(recorder.aclose() for recorder in recorders))
    assert await storage.count(NAME) == 1000


def test_a_queue_is_drained_from_another_loop_when_its_own_died() -> None:
    storage, dead = MemoryStorage(), asyncio.new_event_loop()

    async def start() -> Recorder:
        recorder = Recorder(storage)
        recorder.start()
        recorder.remember(NAME, line(1))
        await asyncio.sleep(0)
        return recorder

    recorder = dead.run_until_complete(start())
    (task,) = asyncio.all_tasks(dead)
    task._log_destroy_pending = False
    dead.close()
    recorder.remember(NAME, line(2))
    asyncio.run(recorder.drain_elsewhere())
    assert counts(recorder) == (0, 2, 0, 0)
    assert asyncio.run(storage.count(NAME)) == 2
    asyncio.run(recorder.aclose())


def test_closing_from_another_loop_drains_a_dead_one_and_refuses_a_live_one() -> None:
    storage = MemoryStorage()

    async def start() -> Recorder:
        recorder = Recorder(storage)
        recorder.start()
        recorder.remember(NAME, line(1))
        with pytest.raises(NotOpenError, match="close it there"):
            await asyncio.to_thread(asyncio.run, recorder.aclose())
        return recorder

    asyncio.run(asyncio.run(start()).aclose())
    assert asyncio.run(storage.count(NAME)) == 1


def test_lines_in_flight_when_the_loop_died_are_drained_too() -> None:
    dead = asyncio.new_event_loop()

    async def start() -> tuple[Recorder, Moody]:
        storage = Moody()
        recorder = Recorder(storage, flush_interval=0)
        recorder.start()
        storage.free.clear()
        recorder.remember(NAME, line(1))
        await storage.called.wait()
        return recorder, storage

    recorder, storage = dead.run_until_complete(start())
    for task in asyncio.all_tasks(dead):
        task._log_destroy_pending = False
    dead.close()
    assert recorder.statistics().queued == 1
    storage.free = asyncio.Event()
    storage.free.set()
    asyncio.run(recorder.drain_elsewhere())
    assert counts(recorder) == (0, 1, 0, 0)


def test_a_drain_elsewhere_that_fails_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def start() -> tuple[Recorder, Moody]:
        storage = Moody()
        storage.error = StorageError("no disk")
        recorder = Recorder(storage)
        recorder.start()
        recorder.remember(NAME, line(1))
        return recorder, storage

    recorder, _ = asyncio.run(start())
    asyncio.run(recorder.drain_elsewhere())
    assert counts(recorder) == (0, 0, 0, 1)
    assert "no disk" in caplog.text


ENDINGS: dict[str, str] = {
    "normally": "await asyncio.sleep(0)",
    "by exception": "raise KeyError('x')",
    "by sys.exit": "sys.exit(3)",
    "by Ctrl-C": "os.kill(os.getpid(), signal.SIGINT); await asyncio.sleep(5)",
    "cancelled": "asyncio.current_task().cancel(); await asyncio.sleep(5)",
}
PROGRAM = """
import asyncio, os, signal, sys
from tanuki_async._lines import encode_line
from tanuki_async._record.recorder import Recorder
from tanuki_async.storage.filesystem import FilesystemStorage
def line(n):
    return encode_line(args=b"[%d]" % n, kwargs=b"{}", output=b"1", source="call", repaired=False, model=None, at="")
async def main():
    storage = FilesystemStorage("data")
    recorder = Recorder(storage)
    recorder.start()
    for n in range(500):
        recorder.remember("a/PATCHES", line(n))
    try:
        ENDING
    finally:
        await recorder.aclose()
        await storage.aclose()
async def generator(recorder, storage):
    try:
        yield
    finally:
        await recorder.aclose()
        await storage.aclose()
async def unclosed():
    storage = FilesystemStorage("data")
    recorder = Recorder(storage)
    recorder.start()
    global held
    held = generator(recorder, storage)
    await anext(held)
    for n in range(500):
        recorder.remember("a/PATCHES", line(n))
    await asyncio.sleep(0.02)
    for n in range(500, 1000):
        recorder.remember("a/PATCHES", line(n))
    ENDING
asyncio.run(MAIN())
"""


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("main", "lines"), [("main", 500), ("unclosed", 1000)])
def test_a_program_that_ends_in_any_way_has_written_everything(
    ending: str, main: str, lines: int, tmp_path: Path, subprocess_env: dict[str, str]
) -> None:
    program = PROGRAM.replace("ENDING", ENDINGS[ending]).replace("MAIN", main)
    child = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=subprocess_env, capture_output=True, text=True, timeout=30
    )
    assert "never" not in child.stderr
    assert "destroyed" not in child.stderr
    assert len(set((tmp_path / "data/a/PATCHES.jsonl").read_bytes().splitlines())) == lines, child.stderr


async def test_remembering_is_cheap_whatever_storage_does(storage: Moody) -> None:
    recorder = Recorder(storage, grace=0.01)
    recorder.start()
    storage.free.clear()
    costs = [cost(lambda n=n: recorder.remember(NAME, line(n))) for n in range(2000)]
    assert sorted(costs)[1000] < 100e-6  # a machine that is busy with other things is slow; the benchmark tells more
    storage.free.set()
    await recorder.aclose()


def cost(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
