"""The local journal: what waits there is durable, in order, found by the next process, and written once."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tanuki_async._errors import StorageError
from tanuki_async._record import journal as journal_module
from tanuki_async._record.journal import Journal, journal_for
from tanuki_async._record.recorder import Recorder
from tanuki_async.abc import Appended
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import FakeClock

NAME = "0123abcd/PATCHES"


class Moody(MemoryStorage):
    """Memory that fails or hangs as told, and may be patient."""

    def __init__(self, patience: float = 0.0) -> None:
        super().__init__()
        self.patience = patience
        self.asked: list[int] = []
        self.refuses: Callable[[str, bytes], bool] = lambda name, line: False
        self.up = True
        self.free = asyncio.Event()
        self.free.set()

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        self.asked.append(len(lines))
        await self.free.wait()
        if not self.up or any(self.refuses(name, line) for line in lines):
            raise StorageError("no disk")
        return await super().append(name, lines, latest=latest)

    async def all(self, name: str = NAME) -> list[bytes]:
        return [line async for batch in self.scan(name) for line in batch]


def lines_of(count: int, size: int = 10) -> list[bytes]:
    return [b"%d" % n + b"x" * size for n in range(count)]


async def started(
    storage: Moody, path: Path, clock: FakeClock | None = None, *, queue_bytes: int = 20_000, grace: float = 0.05
) -> Recorder:
    recorder = Recorder(
        storage,
        clock=clock or FakeClock(),
        queue_bytes=queue_bytes,
        grace=grace,
        journal=Journal(path, "somewhere"),
    )
    recorder.start()
    await until(lambda: recorder._spill.adopted)
    return recorder


def left_in(path: Path) -> list[bytes]:
    journal, found = Journal(path, "somewhere"), list[bytes]()
    journal.adopt()
    while lines := taken(journal):
        found += lines[NAME]
    return found


def taken(journal: Journal, *blocked: str) -> dict[str, list[bytes]]:
    """Read the oldest part, as if all of it were written then."""
    part = journal.read(set(blocked))
    if part is None:
        return {}
    journal.done(part, {})
    return dict(part.lines)


async def pass_time(recorder: Recorder, clock: FakeClock, seconds: float) -> None:
    """Move the clock on, in steps after which threads come to an end."""
    for _ in range(int(seconds * 2)):
        await clock.advance(0.5)
        for _ in range(3):
            while recorder._spill._turn.locked():  # noqa: ASYNC110 — a thread unlocks it
                await asyncio.sleep(0.0002)
            await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 — a thread makes it true
            await asyncio.sleep(0.001)


def test_lines_come_back_in_order_by_name(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "somewhere")
    journal.add([("a", b"1"), ("b", b"2\n"), ("a", b"3")])
    journal.add([("a", b"")])
    assert journal.lines == 4
    assert taken(journal) == {"a": [b"1", b"3", b""], "b": [b"2\n"]}
    assert (journal.lines, journal.names, taken(journal)) == (0, set(), {})
    journal.close()
    assert list(journal.path.iterdir()) == []


def test_what_is_added_while_the_oldest_is_written_follows(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "somewhere")
    journal.add([("a", b"1")])
    part = journal.read()
    assert part is not None
    journal.add([("a", b"2")])
    journal.done(part, {})
    assert (part.lines, journal.lines) == ({"a": [b"1"]}, 1)
    assert taken(journal) == {"a": [b"2"]}


def test_the_next_process_takes_over_what_one_left_but_not_from_one_that_lives(tmp_path: Path) -> None:
    first, second = Journal(tmp_path, "somewhere"), Journal(tmp_path, "somewhere")
    elsewhere = Journal(tmp_path, "elsewhere")
    first.add([("a", b"1")])
    assert second.adopt() == 0
    first.close()
    assert elsewhere.adopt() == 0
    second.add([("a", b"0")])
    assert second.adopt() == 1
    assert taken(second) == {"a": [b"0", b"1"]}


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:-1] + b"?", lambda b: b + b"\0" * 40, lambda b: b + b"z"]
)
def test_a_torn_end_hides_nothing_before_it(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    first = Journal(tmp_path, "somewhere")
    first.add([("a", b"one"), ("a", b"two"), ("a", b"three")])
    first.close()
    (file,) = first.path.glob("*/*.lines")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    second = Journal(tmp_path, "somewhere")
    kept = [b"one", b"two", b"three"][: 3 if len(damage(whole)) > len(whole) else 2]
    assert second.adopt() == len(kept)
    assert taken(second) == {"a": kept}


def test_what_two_processes_take_over_at_once_is_taken_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (b"1", b"2", b"3"):
        left = Journal(tmp_path, "somewhere")
        left.add([("a", line)])
        left.close()
    first, second = Journal(tmp_path, "somewhere"), Journal(tmp_path, "somewhere")
    look = Path.iterdir

    def and_be_late(path: Path) -> Iterator[Path]:
        found = list(look(path))
        monkeypatch.undo()
        assert second.adopt() == 3
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", and_be_late)
    assert first.adopt() == 0
    assert second.lines == 3


def test_a_directory_that_cannot_be_taken_over_is_left_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Journal(tmp_path, "somewhere")
    left.add([("a", b"1")])
    left.close()

    def broken(path: Path) -> bytes:
        raise OSError(errno.EIO, "broken")

    first = Journal(tmp_path, "somewhere")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", broken)
        with pytest.raises(StorageError, match="read"):
            first.adopt()
    assert Journal(tmp_path, "somewhere").adopt() == 1


def test_writes_that_fail_again_and_again_leave_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    journal = Journal(tmp_path, "somewhere")
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "write_all", full)
        for _ in range(3):
            with pytest.raises(StorageError, match="disk is full") as caught:
                journal.add([("a", b"1")])
            assert caught.value.down
    assert list(journal.path.glob("*/*.lines")) == []
    journal.add([("a", b"2")])
    assert taken(journal) == {"a": [b"2"]}


def test_a_write_that_fails_leaves_no_half_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(descriptor: int, content: bytes) -> None:
        os.write(descriptor, content[:9])
        raise OSError(errno.ENOSPC, "full")

    journal = Journal(tmp_path, "somewhere")
    journal.add([("a", b"1")])
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "write_all", torn)
        with pytest.raises(StorageError, match="disk is full"):
            journal.add([("a", b"2")])
    journal.add([("a", b"3")])
    journal.close()
    again = Journal(tmp_path, "somewhere")
    assert again.adopt() == 2
    assert taken(again) == {"a": [b"1", b"3"]}


def test_what_is_left_of_several_files_is_not_lost_by_a_crash_between_their_deletions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, "somewhere")
    for n in range(3):
        journal.add([("bad", b"%d" % n), ("good", b"%d" % n)])
        journal.add_before([("older", b"%d" % n)])
        left = Journal(tmp_path, "somewhere")
        left.add([("bad", b"left %d" % n)])
        left.close()
        journal.adopt()
    part = journal.read({"bad"})
    assert part is not None
    assert len(part.files) > 2

    def crash(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, "no more")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(StorageError):
            journal.done(part, {})
    journal.close()
    again, found = Journal(tmp_path, "somewhere"), list[bytes]()
    again.adopt()
    while lines := taken(again):
        found += lines.get("bad", [])
    wanted = [b"0", b"left 0", b"1", b"left 1", b"2", b"left 2"]
    assert list(dict.fromkeys(found)) == wanted


def test_a_storage_without_an_address_has_no_journal(tmp_path: Path) -> None:
    assert journal_for(None, tmp_path) is None
    assert journal_for("file:/x", tmp_path) is not None


async def test_above_half_the_bound_lines_wait_on_disk_and_none_is_dropped(tmp_path: Path, clock: FakeClock) -> None:
    storage, lines = Moody(), lines_of(2000)
    storage.up = False
    recorder = await started(storage, tmp_path, clock)
    for line in lines:
        recorder.remember(NAME, line)
        if recorder._waiting.bytes > 15_000:
            await until(lambda: recorder._waiting.bytes <= 10_000)
    numbers = recorder.statistics()
    assert (numbers.failed, numbers.written) == (0, 0)
    assert numbers.spilled > 1000
    assert numbers.spilled + numbers.queued == 2000
    storage.up = True
    await recorder.flush()
    assert await storage.all() == lines
    assert recorder.statistics().spilled == recorder.statistics().deduplicated == 0
    await recorder.aclose()


async def test_order_holds_though_storage_hung_while_lines_went_to_disk(tmp_path: Path, clock: FakeClock) -> None:
    storage, lines = Moody(), lines_of(300)
    recorder = await started(storage, tmp_path, clock)
    storage.free.clear()
    for line in lines[:20]:
        recorder.remember(NAME, line)
    flushing = asyncio.create_task(recorder.flush())
    await until(lambda: bool(storage.asked))
    for line in lines[20:120]:
        recorder.remember(NAME, line)
    await until(lambda: recorder.statistics().spilled > 50)
    storage.up = False
    storage.free.set()
    with pytest.raises(StorageError):
        await flushing
    storage.up = True
    for line in lines[120:]:
        recorder.remember(NAME, line)
        if recorder._waiting.bytes > 15_000:
            await until(lambda: recorder._waiting.bytes <= 10_000)
    await recorder.flush()
    assert await storage.all() == lines
    assert recorder.statistics().deduplicated == 0
    await recorder.aclose()


async def test_order_holds_though_it_was_closed_while_storage_hung(tmp_path: Path, clock: FakeClock) -> None:
    storage, lines = Moody(), lines_of(150)
    recorder = await started(storage, tmp_path, clock)
    storage.free.clear()
    for line in lines[:20]:
        recorder.remember(NAME, line)
    flushing = asyncio.create_task(recorder.flush())
    await until(lambda: bool(storage.asked))
    for line in lines[20:]:
        recorder.remember(NAME, line)
    await until(lambda: recorder.statistics().spilled > 50)
    flushing.cancel()
    await recorder.aclose()
    assert await asyncio.to_thread(left_in, tmp_path) == lines


def test_order_holds_though_the_loop_died_while_storage_hung(tmp_path: Path, clock: FakeClock) -> None:
    dead, lines = asyncio.new_event_loop(), lines_of(150)

    async def start() -> Recorder:
        storage = Moody()
        recorder = await started(storage, tmp_path, clock)
        storage.free.clear()
        for line in lines[:20]:
            recorder.remember(NAME, line)
        await clock.advance(1)
        await until(lambda: bool(storage.asked))
        for line in lines[20:]:
            recorder.remember(NAME, line)
        await until(lambda: recorder.statistics().spilled > 50)
        return recorder

    recorder = dead.run_until_complete(start())
    for task in asyncio.all_tasks(dead):
        task._log_destroy_pending = False
    dead.run_until_complete(dead.shutdown_default_executor())
    dead.close()
    with pytest.raises(StopIteration):  # it blocks, as nothing else runs any more: a loop would be told off here
        recorder.drain_elsewhere().send(None)
    assert left_in(tmp_path) == lines


async def test_a_patient_storage_gets_one_write_of_what_was_durable_at_once(tmp_path: Path, clock: FakeClock) -> None:
    storage, lines = Moody(patience=5.0), lines_of(60)
    recorder = await started(storage, tmp_path, clock)
    for line in lines:
        recorder.remember(NAME, line)
        await clock.advance(0.05)
        await until(lambda: recorder.statistics().queued == 0)
    assert storage.asked == []
    assert recorder.statistics().spilled == 60
    await clock.advance(2.1)
    await until(lambda: recorder.statistics().written == 60)
    assert storage.asked == [60]
    assert await storage.all() == lines
    await recorder.aclose()


async def test_what_is_flushed_to_a_patient_storage_is_durable_while_that_takes_its_time(
    tmp_path: Path, clock: FakeClock
) -> None:
    storage = Moody(patience=5.0)
    storage.free.clear()
    recorder = await started(storage, tmp_path, clock)
    recorder.remember(NAME, b"1")
    flushing = asyncio.create_task(recorder.flush())
    await until(lambda: storage.asked == [1])
    assert (recorder.statistics().queued, recorder.statistics().spilled) == (0, 1)
    storage.free.set()
    await flushing
    assert await storage.all() == [b"1"]
    assert recorder.statistics().spilled == 0
    await recorder.aclose()


async def test_a_patient_storage_does_not_wait_when_there_is_much(tmp_path: Path, clock: FakeClock) -> None:
    storage = Moody(patience=3600.0)
    recorder = await started(storage, tmp_path, clock, queue_bytes=64 << 20)
    for line in lines_of(30, 50_000):
        recorder.remember(NAME, line)
    await clock.advance(0.05)
    await until(lambda: recorder.statistics().written == 30)
    await recorder.aclose()


async def test_what_cannot_be_written_at_the_end_is_found_by_the_next(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Moody()
    storage.up = False
    recorder = await started(storage, tmp_path, clock)
    for line in lines_of(3):
        recorder.remember(NAME, line)
    await recorder.aclose()
    assert recorder.statistics().failed == 0
    assert "3 examples wait in the local journal" in caplog.text
    storage.up = True
    after = await started(storage, tmp_path, clock)
    await until(lambda: after.statistics().spilled == 3)
    await after.flush()
    assert await storage.all() == lines_of(3)
    await after.aclose()
    assert list(after._spill._journal.path.iterdir()) == []


async def test_where_the_journal_fails_too_lines_are_dropped_and_counted(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    storage = Moody()
    storage.up = False
    recorder = await started(storage, tmp_path / "file", clock)
    for line in lines_of(1000):
        recorder.remember(NAME, line)
    await until(lambda: "cannot wait in the local journal" in caplog.text)
    numbers = recorder.statistics()
    assert (numbers.spilled, numbers.queued + numbers.failed) == (0, 1000)
    storage.up = True
    await recorder.flush()
    assert recorder.statistics().written == numbers.queued
    await recorder.aclose()


async def test_a_record_that_storage_refuses_for_ever_is_set_aside_and_the_others_are_written(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage, lines = Moody(), lines_of(120)
    storage.refuses = lambda name, line: line in (lines[0], lines[57])
    recorder = await started(storage, tmp_path, clock)
    for line in lines[:70]:
        recorder.remember(NAME, line)
    for line in lines[70:]:
        recorder.remember(NAME, line)
        await pass_time(recorder, clock, 30)
    numbers = recorder.statistics()
    assert (numbers.queued, numbers.spilled, numbers.written, numbers.failed) == (0, 0, 118, 2)
    refused = [json.loads(line) for line in (recorder._spill._journal.path / "refused.jsonl").read_text().splitlines()]
    assert [(each["name"], each["line"], each["why"]) for each in refused] == [
        (NAME, lines[0].decode(), "no disk"),
        (NAME, lines[57].decode(), "no disk"),
    ]
    assert str(tmp_path) in caplog.text
    assert "tanuki verify --repair" in caplog.text
    await recorder.aclose()


async def test_what_is_behind_a_refused_record_is_written_soon(tmp_path: Path, clock: FakeClock) -> None:
    storage, lines = Moody(), lines_of(100)
    storage.refuses = lambda name, line: line == lines[40]
    recorder = await started(storage, tmp_path, clock)
    for line in lines:
        recorder.remember(NAME, line)
    await pass_time(recorder, clock, 15)
    assert await storage.all() == [line for line in lines if line != lines[40]]
    await recorder.aclose()


async def test_a_lone_refused_record_is_set_aside_once_storage_took_others_ten_times(
    tmp_path: Path, clock: FakeClock
) -> None:
    storage = Moody()
    storage.refuses = lambda name, line: name == "bad"
    recorder = await started(storage, tmp_path, clock)
    recorder.remember("bad", b"x")
    for n in range(9):
        recorder.remember(NAME, b"%d" % n)
        await pass_time(recorder, clock, 65)
    assert recorder.statistics().failed == 0
    for n in range(9, 12):
        recorder.remember(NAME, b"%d" % n)
        await pass_time(recorder, clock, 65)
    assert (recorder.statistics().written, recorder.statistics().failed) == (12, 1)
    await recorder.flush()
    await recorder.aclose()


async def test_a_lone_refused_record_waits_while_nothing_else_is_written(tmp_path: Path, clock: FakeClock) -> None:
    storage = Moody()
    recorder = await started(storage, tmp_path, clock)
    await recorder.keep(NAME, [b"before"])
    storage.refuses = lambda name, line: line == b"last"
    recorder.remember(NAME, b"last")
    await pass_time(recorder, clock, 3600)
    assert recorder.statistics().failed == 0
    assert len(storage.asked) < 150  # one append in half a minute
    await recorder.aclose()
    assert await asyncio.to_thread(left_in, tmp_path) == [b"last"]


async def test_flushing_again_and_again_sets_nothing_aside(tmp_path: Path, clock: FakeClock) -> None:
    storage = Moody()
    storage.refuses = lambda name, line: name == "bad"
    recorder = await started(storage, tmp_path, clock)
    recorder.remember("bad", b"x")
    for n in range(50):
        recorder.remember(NAME, b"%d" % n)
        with pytest.raises(StorageError, match="no disk"):
            await recorder.flush()
    assert (recorder.statistics().written, recorder.statistics().failed) == (50, 0)
    await recorder.aclose()


async def test_storage_that_has_room_for_a_few_lines_makes_nobody_set_the_others_aside(
    tmp_path: Path, clock: FakeClock
) -> None:
    storage, lines = Moody(), lines_of(12)
    storage.refuses = lambda name, line: line not in lines[:3]
    recorder = await started(storage, tmp_path, clock)
    for line in lines:
        recorder.remember(NAME, line)
    await pass_time(recorder, clock, 3600)
    assert (await storage.all(), recorder.statistics().failed) == (lines[:3], 0)
    storage.refuses = lambda name, line: False
    await pass_time(recorder, clock, 31)
    assert await storage.all() == lines
    assert recorder.statistics().failed == 0
    await recorder.aclose()


async def test_storage_that_is_down_for_long_makes_nobody_set_lines_aside(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Moody()
    storage.up = False
    recorder = await started(storage, tmp_path, clock)
    for line in lines_of(50):
        recorder.remember(NAME, line)
    await pass_time(recorder, clock, 3600)
    assert len(storage.asked) < 1000
    storage.up = True
    await pass_time(recorder, clock, 31)
    assert await storage.all() == lines_of(50)
    assert recorder.statistics().failed == 0
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    await recorder.aclose()


KILLED = """
import asyncio, sys, os, signal
from tanuki_async._record.journal import Journal
from tanuki_async._record.recorder import Recorder
from tanuki_async.storage.memory import MemoryStorage

class Patient(MemoryStorage):
    patience = 3600.0

async def main():
    recorder = Recorder(Patient(), journal=Journal(__import__("pathlib").Path(sys.argv[1]), "somewhere"))
    recorder.start()
    for n in range(200):
        recorder.remember("a", b"%d" % n)
        await asyncio.sleep(0)
    while recorder.statistics().spilled < 200:
        await asyncio.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_what_a_killed_process_left_is_written_once(
    tmp_path: Path, clock: FakeClock, subprocess_env: dict[str, str]
) -> None:
    run = asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, str(tmp_path)], env=subprocess_env, timeout=30
    )
    assert (await run).returncode == -signal.SIGKILL
    storage = Moody()
    recorder = await started(storage, tmp_path, clock)
    await until(lambda: recorder.statistics().spilled == 200)
    await recorder.flush()
    assert await storage.all("a") == [b"%d" % n for n in range(200)]
    await recorder.aclose()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
