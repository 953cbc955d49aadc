"""Names fail independently: what storage refuses of one holds up no other, wherever it waits, and waits safely."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from tanuki_async._errors import StorageError
from tanuki_async._lines import encode_line
from tanuki_async._record.journal import Journal
from tanuki_async._record.recorder import Recorder
from tanuki_async.abc import Appended
from tanuki_async.storage.filesystem import FilesystemStorage
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import FakeClock


class Picky(MemoryStorage):
    """Memory that refuses some names, and notes of which name each append was."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = set(refused)
        self.asked: list[str] = []
        self.largest: int | None = None  # lines that it takes at once

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        self.asked.append(name)
        if name in self.refused or (self.largest is not None and len(lines) > self.largest):
            raise StorageError(f"{name} is of the wrong kind")
        return await super().append(name, lines, latest=latest)

    async def all(self, name: str) -> list[bytes]:
        return [line async for batch in self.scan(name) for line in batch]


class Hanging(MemoryStorage):
    """Memory that, while down, answers nothing for ten seconds and then raises, whenever it comes back."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock, self.up = clock, True

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        await self._reach()
        return await super().append(name, lines, latest=latest)

    async def count(self, name: str) -> int:
        await self._reach()
        return await super().count(name)

    async def _reach(self) -> None:
        if not self.up:
            await self.clock.sleep(10)
            raise StorageError("timed out")


class Lagging(MemoryStorage):
    """Memory that writes, and while it lags says that its replicas have not."""

    lags = True

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        appended = await super().append(name, lines, latest=latest)
        if self.lags:
            raise StorageError("no replica has it", down=True)
        return appended


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def storage() -> Picky:
    return Picky("bad")


@pytest.fixture
async def recorder(storage: Picky, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Recorder]:
    recorder = Recorder(storage, clock=clock, queue_bytes=8 << 20, grace=0.05, journal=Journal(tmp_path, "somewhere"))
    recorder.start()
    yield recorder
    await recorder.aclose()


def lines_of(count: int, size: int = 10, start: int = 0) -> list[bytes]:
    return [b"%d " % n + b"x" * size for n in range(start, start + count)]


def delete(path: Path, pattern: str) -> None:
    for found in list(path.glob(pattern)):
        shutil.rmtree(found) if found.is_dir() else found.unlink()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 — a thread makes it true
            await asyncio.sleep(0.001)


def files_in(path: Path) -> list[Path]:
    return list(path.rglob("*.lines"))


async def test_flush_writes_the_other_names_and_says_which_fails(recorder: Recorder, storage: Picky) -> None:
    for each in lines_of(1000):
        recorder.remember("bad", each)
        recorder.remember("good", each)
    with pytest.raises(StorageError, match="bad is of the wrong kind"):
        await recorder.flush()
    assert await storage.all("good") == lines_of(1000)
    assert recorder.statistics().queued + recorder.statistics().spilled == 1000


async def test_what_is_written_though_storage_says_it_is_down_stays_in_order(clock: FakeClock, tmp_path: Path) -> None:
    storage = Lagging()
    recorder = Recorder(storage, clock=clock, grace=0.05, journal=Journal(tmp_path, "somewhere"))
    recorder.start()
    for n in range(40):
        recorder.remember("f", b"%d" % n)
        with pytest.raises(StorageError, match="no replica"):
            await recorder.flush()
        await clock.advance(31)
    storage.lags = False
    await recorder.flush()
    assert [line async for page in storage.scan("f") for line in page] == [b"%d" % n for n in range(40)]
    assert recorder.statistics().failed == 0
    await recorder.aclose()


async def test_a_name_that_files_cannot_have_holds_up_no_other(tmp_path: Path, clock: FakeClock) -> None:
    storage = FilesystemStorage(tmp_path / "data")
    recorder = Recorder(storage, clock=clock, grace=0.05, journal=Journal(tmp_path / "journal", "somewhere"))
    recorder.start()
    for n in range(500):
        line = encode_line(
            args=b"[%d]" % n, kwargs=b"{}", output=b"1", source="call", repaired=False, model=None, at=""
        )
        recorder.remember("f/" + "x" * 300, line)
        recorder.remember("f/PATCHES", line)
    with pytest.raises(StorageError, match="cannot be a name"):
        await recorder.flush()
    assert await storage.count("f/PATCHES") == 500
    await recorder.aclose()
    numbers = recorder.statistics()
    assert (numbers.written, numbers.spilled, numbers.failed) == (500, 500, 0)
    assert await asyncio.to_thread(Journal(tmp_path / "journal", "somewhere").adopt) == 500
    await storage.aclose()


async def test_a_line_too_large_for_the_queue_drops_no_others(clock: FakeClock) -> None:
    recorder = Recorder(Picky("bad"), clock=clock, queue_bytes=20_000, grace=0.01)
    recorder.start()
    for each in lines_of(100):
        recorder.remember("bad", each)
    await clock.advance(1)
    recorder.remember("good", b"x" * 30_000)
    numbers = recorder.statistics()
    assert (numbers.queued, numbers.failed) == (100, 1)
    await recorder.aclose()


async def test_a_name_that_is_refused_for_long_waits_on_disk_and_is_written_in_order_once_it_is_mended(
    recorder: Recorder, storage: Picky, clock: FakeClock, tmp_path: Path
) -> None:
    lines = lines_of(400, 50_000)
    for at in range(0, 400, 20):
        for each in lines[at : at + 20]:
            recorder.remember("bad", each)
            recorder.remember("good", each)
        await clock.advance(0.1)
        await until(lambda: recorder.statistics().queued == 0)
    numbers = recorder.statistics()
    assert (numbers.written, numbers.spilled, numbers.failed) == (400, 400, 0)
    assert await storage.all("good") == lines
    assert recorder._waiting.bytes == 0
    storage.refused.clear()
    await recorder.flush()
    assert await storage.all("bad") == lines
    assert files_in(tmp_path) == []
    assert recorder.statistics().deduplicated == 0


def test_what_a_name_that_fails_leaves_in_the_journal_lies_in_few_files(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "somewhere")
    for n in range(300):
        journal.add([("bad", b"%d" % n), *(("good", each) for each in lines_of(20, 1000))])
        part = journal.read({"bad"})
        assert part is not None
        journal.done(part, {})
    assert journal.lines == 300
    assert len(files_in(tmp_path)) < 12
    part = journal.read()
    assert part is not None
    assert part.lines == {"bad": [b"%d" % n for n in range(300)]}


async def test_files_of_a_name_that_rests_are_not_read_again(
    recorder: Recorder, storage: Picky, tmp_path: Path
) -> None:
    for each in lines_of(100):
        recorder.remember("bad", each)
    await asyncio.gather(recorder.flush(), return_exceptions=True)
    await until(lambda: recorder.statistics().spilled == 100)
    for path in files_in(tmp_path):
        path.unlink()  # whoever reads it now fails
    recorder.remember("good", b"1")
    assert await recorder._writer.write(resting=True) == {"bad": recorder._delivery.troubles._names["bad"].error}
    assert await storage.all("good") == [b"1"]


async def test_a_journal_that_cannot_be_read_holds_up_no_name_that_is_not_in_it(
    recorder: Recorder, storage: Picky, tmp_path: Path
) -> None:
    recorder.remember("bad", b"1")
    await asyncio.gather(recorder.flush(), return_exceptions=True)
    await until(lambda: recorder.statistics().spilled == 1)
    (path,) = files_in(tmp_path)
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    storage.refused.clear()
    recorder.remember("good", b"2")
    recorder.remember("bad", b"3")
    with pytest.raises(StorageError, match="read the journal"):
        await recorder.flush()
    assert await storage.all("good") == [b"2"]
    path.rmdir()
    path.write_bytes(content)
    await recorder.flush()
    assert await storage.all("bad") == [b"1", b"3"]


async def test_aligned_examples_are_kept_though_another_name_fails(recorder: Recorder, storage: Picky) -> None:
    recorder.remember("bad", b"1")
    recorder.remember("good", b"1")
    assert await recorder.keep("good", [b"2"]) == Appended(1, 0)
    with pytest.raises(StorageError, match="wrong kind"):
        await recorder.keep("bad", [b"2"])
    assert await storage.all("good") == [b"1", b"2"]


async def test_a_name_that_fails_is_tried_after_its_own_growing_pauses(clock: FakeClock) -> None:
    storage = Picky("bad")
    recorder = Recorder(storage, clock=clock, grace=0.01)
    recorder.start()
    for n in range(3000):
        recorder.remember("bad", b"%d" % n)
        recorder.remember("good", b"%d" % n)
        await clock.advance(0.1)
    assert await storage.count("good") >= 2999
    assert storage.asked.count("bad") < 100
    await recorder.aclose()


async def test_closing_does_not_wait_for_a_name_that_has_failed_for_long(
    storage: Picky, clock: FakeClock, tmp_path: Path
) -> None:
    recorder = Recorder(storage, clock=clock, grace=10, journal=Journal(tmp_path, "somewhere"))
    recorder.start()
    recorder.remember("bad", b"1")
    await clock.advance(11)
    recorder.remember("good", b"2")
    started = time.monotonic()
    await recorder.aclose()
    assert time.monotonic() - started < 5
    assert await storage.all("good") == [b"2"]
    numbers = recorder.statistics()
    assert (numbers.written, numbers.failed) == (1, 0)
    again = Journal(tmp_path, "somewhere")
    assert await asyncio.to_thread(again.adopt) == 1


async def test_without_a_journal_lines_of_a_name_that_fails_give_way_to_others(clock: FakeClock) -> None:
    storage = Picky("bad")
    recorder = Recorder(storage, clock=clock, queue_bytes=20_000, grace=0.01)
    recorder.start()
    for each in lines_of(1000):
        recorder.remember("bad", each)
    await clock.advance(1)
    before = recorder.statistics()
    assert before.queued + before.failed == 1000
    for each in lines_of(50):
        recorder.remember("good", each)
    await clock.advance(1)
    after = recorder.statistics()
    assert await storage.all("good") == lines_of(50)
    assert after.queued + after.failed == 1000
    assert 45 <= after.failed - before.failed <= 50
    storage.refused.clear()
    await recorder.flush()
    assert await storage.all("bad") == lines_of(after.queued)  # the oldest were kept
    await recorder.aclose()


async def test_the_burst_is_logged_once_however_many_names_fail(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Picky(*(f"bad{n}" for n in range(20)))
    recorder = Recorder(storage, clock=clock, grace=0.01)
    recorder.start()
    for name in storage.refused:
        recorder.remember(name, b"1")
    await clock.advance(600)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    storage.refused.clear()
    await clock.advance(31)
    assert recorder.statistics().written == 20
    await recorder.aclose()


def test_lines_of_a_dead_loop_are_counted_once_though_only_some_are_written() -> None:
    async def start() -> tuple[Recorder, Picky]:
        storage = Picky()
        storage.largest = 3
        recorder = Recorder(storage)
        recorder.start()
        for each in lines_of(10):
            recorder.remember("a", each)
        for _ in range(4):
            await asyncio.gather(recorder.flush(), return_exceptions=True)
        storage.refused.add("b")
        recorder.remember("b", b"1")
        return recorder, storage

    recorder, storage = asyncio.run(start())
    asyncio.run(recorder.drain_elsewhere())
    numbers = recorder.statistics()
    assert numbers.written == asyncio.run(storage.count("a")) > 0
    assert (numbers.queued, numbers.written + numbers.failed) == (0, 11)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_journal_that_cannot_be_written_names_the_setting_that_moves_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="TANUKI_JOURNAL_DIR"):
            Journal(tmp_path, "somewhere").add([("a", b"1")])
    finally:
        tmp_path.chmod(0o700)


def test_a_journal_where_a_file_is_in_the_way_names_the_setting_that_moves_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="TANUKI_JOURNAL_DIR") as told:
        Journal(tmp_path / "file", "somewhere").add([("a", b"1")])
    assert "TANUKI_LOG_DIR" not in str(told.value)


FORKED = """
import os, signal, sys, time
from pathlib import Path
from tanuki_async._record.journal import Journal

journal = Journal(Path(sys.argv[1]), "somewhere")
journal.add([("a", b"1"), ("a", b"2")])
child = os.fork()
if child == 0:
    os.write(1, b"%d\\n" % os.getpid())
    os.close(1)
    assert journal.lines == 0
    journal.add([("a", b"of the child")])  # in a directory of its own
    signal.pause()
while not list(Path(sys.argv[1]).glob(f"*/{child}-*/*.lines")):
    time.sleep(0.001)
journal.add([("a", b"3")])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_forked_child_that_lives_does_not_hold_the_journal_of_its_dead_parent(
    tmp_path: Path, subprocess_env: dict[str, str]
) -> None:
    parent = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path)], env=subprocess_env, stdout=subprocess.PIPE, timeout=30
    )
    child = int(parent.stdout)
    try:
        journal = Journal(tmp_path, "somewhere")
        assert journal.adopt() == 3
        part = journal.read()
        assert part is not None
        assert part.lines == {"a": [b"1", b"2", b"3"]}
    finally:
        os.kill(child, 9)
    journal.done(part, {})
    while not (adopted := journal.adopt()):
        time.sleep(0.001)
    assert adopted == 1


@pytest.mark.parametrize("end", range(143, 193, 7))
async def test_order_holds_whenever_an_outage_ends_in_which_storage_hangs(end: int, clock: FakeClock) -> None:
    storage = Hanging(clock)
    recorder = Recorder(storage, clock=clock, grace=0.05)
    recorder.start()
    storage.up = False
    for line in lines_of(6):
        recorder.remember("a", line)
    for _ in range(end):
        await clock.advance(1)
    storage.up = True
    for _ in range(50):
        await clock.advance(1)
    assert [line async for batch in storage.scan("a") for line in batch] == lines_of(6)
    await recorder.aclose()


@pytest.mark.parametrize("pattern", ["*", "*/*", "*/*/*.lines"])
async def test_a_journal_that_somebody_deletes_loses_what_was_in_it_and_nothing_else(
    pattern: str, clock: FakeClock, tmp_path: Path
) -> None:
    storage = Picky("a")
    recorder = Recorder(storage, clock=clock, grace=0.05, journal=Journal(tmp_path, "somewhere"))
    recorder.start()
    for line in lines_of(20):
        recorder.remember("a", line)
    await clock.advance(0.05)
    await until(lambda: recorder.statistics().spilled == 20)
    delete(tmp_path, pattern)
    for line in lines_of(20, start=20):
        recorder.remember("a", line)
    await clock.advance(0.5)
    await until(lambda: not recorder.statistics().queued)
    storage.refused.clear()
    await recorder.flush()
    assert await storage.all("a") == lines_of(20, start=20)
    numbers = recorder.statistics()
    assert (numbers.written, numbers.failed, numbers.queued, numbers.spilled) == (20, 20, 0, 0)
    await recorder.aclose()
