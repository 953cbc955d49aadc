"""Files: what a kill, a full disk, another process or a user's `rm` leaves behind, and what is made of it."""
# ruff: noqa: ASYNC240 — a test looks at small files directly

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tanuki_async._errors import StorageError
from tanuki_async._lines import encode_line
from tanuki_async.abc import Appended, Storage
from tanuki_async.storage._files import lock, open_locked, translated
from tanuki_async.storage._segment import Segment
from tanuki_async.storage.filesystem import FilesystemStorage

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


async def everything(storage: Storage, name: str = NAME) -> list[bytes]:
    return [line async for batch in storage.scan(name) for line in batch]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "some" / "data"


@pytest.fixture
def file(root: Path) -> Path:
    return root / f"{NAME}.jsonl"


@pytest.fixture
async def storage(root: Path) -> AsyncIterator[FilesystemStorage]:
    storage = FilesystemStorage(root)
    await storage.open()
    yield storage
    await storage.aclose()


def open_below(root: Path) -> int:
    """Count this process's open files in a directory."""
    links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.exists()]
    return sum(link.is_relative_to(root) for link in links)


async def reopened(storage: FilesystemStorage) -> FilesystemStorage:
    await storage.aclose()
    again = FilesystemStorage(storage.path)
    await again.open()
    return again


async def test_only_the_user_can_read_what_is_kept(storage: FilesystemStorage, root: Path) -> None:
    before = os.umask(0)
    try:
        await storage.append(NAME, [line(1)])
        await storage.put("f/state", b"{}", version=None)
        await storage.claim("f/lease", "me", seconds=1)
        await storage.aclose()
    finally:
        os.umask(before)
    for path in [root, *root.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


async def test_a_line_that_a_killed_writer_left_unfinished_is_cut_off(storage: FilesystemStorage, file: Path) -> None:
    await storage.append(NAME, [line(1)])
    with file.open("ab") as other:
        other.write(line(2)[:30])
    assert await everything(storage) == [line(1)]
    assert await storage.count(NAME) == 1
    assert await storage.append(NAME, [line(2)]) == Appended(1, 0)
    assert file.read_bytes() == line(1) + b"\n" + line(2) + b"\n"


async def test_a_file_that_is_only_an_unfinished_line_begins_anew(storage: FilesystemStorage, file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b'{"v":1,"ar')
    assert await storage.count(NAME) == 0
    await storage.append(NAME, [line(1)])
    assert file.read_bytes() == line(1) + b"\n"


@pytest.mark.parametrize("latest", [False, True])
async def test_two_storages_on_one_directory_see_each_others_lines(root: Path, latest: bool) -> None:
    one, two = FilesystemStorage(root), FilesystemStorage(root)
    await one.append(NAME, [line(1)], latest=latest)
    assert await two.append(NAME, [line(1), line(2)], latest=latest) == Appended(1, 1)
    assert await one.append(NAME, [line(2), line(3)], latest=latest) == Appended(1, 1)
    assert await one.count(NAME) == await two.count(NAME) == 3
    await one.aclose()
    await two.aclose()


async def test_a_directory_that_is_deleted_in_use_is_made_again(storage: FilesystemStorage, root: Path) -> None:
    await storage.append(NAME, [line(1)])
    await asyncio.to_thread(lambda: subprocess.run(["rm", "-r", str(root)], check=True))
    assert await storage.count(NAME) == 0
    assert await storage.append(NAME, [line(1), line(2)]) == Appended(2, 0)
    assert await storage.put("f/state", b"{}", version=None)
    assert await everything(storage) == [line(1), line(2)]
    assert (root / "format").exists()


async def test_a_file_that_is_deleted_in_use_is_made_again(storage: FilesystemStorage, file: Path) -> None:
    await storage.append(NAME, [line(1)], latest=True)
    await storage.append(NAME, [line(2)])
    file.unlink()
    assert await storage.append(NAME, [line(1), line(2)]) == Appended(2, 0)
    assert await storage.append(NAME, [line(1), line(3)], latest=True) == Appended(1, 1)


@pytest.mark.parametrize("left", [[], [7], [7, 8, 9, 10, 11]])
async def test_a_file_with_other_content_is_read_anew(storage: FilesystemStorage, file: Path, left: list[int]) -> None:
    await storage.append(NAME, [line(1), line(2)])
    file.write_bytes(b"".join(line(n) + b"\n" for n in left))
    assert await storage.count(NAME) == len(left)
    assert await storage.append(NAME, [line(1), line(2), line(7)]) == Appended(3 - bool(left), bool(left))


async def test_a_saved_filter_spares_reading_the_data(storage: FilesystemStorage, file: Path) -> None:
    await storage.append(NAME, [line(n) for n in range(100)])
    await storage.aclose()
    content = file.read_bytes()
    file.write_bytes(content.replace(line(3), line("x")))  # the same length, far from the end: nobody looks there
    again = await reopened(storage)
    assert await again.append(NAME, [line(3)]) == Appended(0, 1)
    assert await again.count(NAME) == 100
    await again.aclose()


async def test_closing_waits_for_a_filter_that_is_being_saved(storage: FilesystemStorage, file: Path) -> None:
    await storage.append(NAME, [line(n) for n in range(60_000)])
    await storage.aclose()
    assert file.with_suffix(".bloom").exists()
    assert not list(file.parent.glob("*.tmp"))


def test_a_filter_is_saved_and_loaded_without_a_copy_of_it(file: Path) -> None:
    segment, again = Segment(file), Segment(file)
    segment.append([line(n) for n in range(11_000)], latest=False)
    assert most_allocated(segment.save) < 100_000
    size = file.with_suffix(".bloom").stat().st_size
    assert size > 500_000
    assert size <= most_allocated(lambda: again.append([line(1)], latest=False)) < 1.5 * size
    segment.release()
    again.release()


def test_a_filter_that_is_saved_during_appends_is_whole(file: Path) -> None:
    segment = Segment(file)
    segment.append([line(n) for n in range(11_000)], latest=False)
    others = threading.Thread(target=lambda: [segment.append([line(n)], latest=False) for n in range(11_000, 11_200)])
    others.start()
    while others.is_alive():
        segment.save()
        assert Segment(file)._load(None).lines >= 11_000  # none, had it been torn
    segment.release()


def most_allocated(work: Callable[[], object]) -> int:
    """Return how many bytes more than before were allocated at one time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def torn(blob: bytes) -> bytes:
    return blob[: len(blob) // 2]


def flipped(blob: bytes) -> bytes:
    return blob[:200] + bytes([blob[200] ^ 1]) + blob[201:]


def foreign(blob: bytes) -> bytes:
    return b"PK" + blob[2:]


def older(blob: bytes) -> bytes:
    return blob.replace(b"tanukibloom\x02", b"tanukibloom\x01")


def newer(blob: bytes) -> bytes:
    return blob.replace(b"tanukibloom\x02", b"tanukibloom\x03")


@pytest.mark.parametrize("damage", [torn, flipped, foreign, older, newer, lambda _: b""])
async def test_a_damaged_filter_is_built_again_from_the_data(storage: FilesystemStorage, file: Path, damage) -> None:
    await storage.append(NAME, [line(n) for n in range(100)])
    await storage.aclose()
    saved = file.with_suffix(".bloom")
    saved.write_bytes(damage(saved.read_bytes()))
    again = await reopened(storage)
    assert await again.count(NAME) == 100
    assert await again.append(NAME, [line(3), line(100)]) == Appended(1, 1)
    await again.aclose()


async def test_a_filter_of_other_data_is_not_used(storage: FilesystemStorage, file: Path) -> None:
    await storage.append(NAME, [line(n) for n in range(100)])
    await storage.aclose()
    file.write_bytes(b"".join(line(f"other-{n}") + b"\n" for n in range(200)))
    again = await reopened(storage)
    assert await again.count(NAME) == 200
    assert await again.append(NAME, [line(3), line("other-3")]) == Appended(1, 1)
    await again.aclose()


async def test_lines_after_the_saved_filter_are_read(storage: FilesystemStorage, file: Path) -> None:
    await storage.append(NAME, [line(1)])
    await storage.aclose()
    with file.open("ab") as other:
        other.write(line(2) + b"\n" + line(3)[:9])
    again = await reopened(storage)
    assert await again.append(NAME, [line(1), line(2), line(3)]) == Appended(1, 2)
    await again.aclose()


async def test_lines_longer_than_a_reading_are_whole(storage: FilesystemStorage) -> None:
    long = [line(f"{n}" * 3_000_000) for n in range(3)]
    await storage.append(NAME, [long[0], line(1), long[1], long[2], line(2)])
    assert await everything(storage) == [long[0], line(1), long[1], long[2], line(2)]
    again = FilesystemStorage(storage.path)
    assert await again.append(NAME, [*long, line(3)]) == Appended(1, 3)
    await again.aclose()


async def test_a_newer_layout_is_left_alone(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "format").write_text(json.dumps({"tanuki_async": 2}))
    with pytest.raises(StorageError, match="upgrade"):
        await FilesystemStorage(root).open()


async def test_a_newer_layout_is_not_written_to_without_opening_either(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "format").write_text(json.dumps({"tanuki_async": 2}))
    storage = FilesystemStorage(root)
    with pytest.raises(StorageError, match="upgrade"):
        await storage.append(NAME, [line(1)])
    with pytest.raises(StorageError, match="upgrade"):
        await storage.put("f/state", b"x", version=None)
    await storage.aclose()
    assert [path.name for path in root.iterdir()] == ["format"]


async def test_a_directory_that_was_there_is_marked_with_its_layout(root: Path) -> None:
    root.mkdir(parents=True)
    storage = FilesystemStorage(root)
    await storage.append(NAME, [line(1)])
    await storage.aclose()
    assert json.loads((root / "format").read_text()) == {"tanuki_async": 1}


def test_a_lock_that_another_process_never_gives_back_is_not_waited_for_without_end(root: Path) -> None:
    held = open_locked(root / "lock")
    wanted = os.open(root / "lock", os.O_RDWR)
    with pytest.raises(StorageError, match="another process"), translated("append to", root):
        lock(wanted, seconds=0.02)
    os.close(held)
    lock(wanted, seconds=0.02)
    os.close(wanted)


async def test_a_foreign_format_file_is_left_alone(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "format").write_text("MP3")
    with pytest.raises(StorageError, match="not written by"):
        await FilesystemStorage(root).open()


async def test_a_place_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = FilesystemStorage(tmp_path / "file" / "data")
    with pytest.raises(StorageError, match=r"file/data.*TANUKI_LOG_DIR"):
        await storage.open()
    with pytest.raises(StorageError):
        await storage.append(NAME, [line(1)])
    await storage.aclose()


async def test_a_full_disk_leaves_whole_lines_and_forgets_what_it_could_not_write(
    storage: FilesystemStorage, file: Path
) -> None:
    await storage.append(NAME, [line(n) for n in range(10)])
    size, limits = file.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
    try:
        with pytest.raises(StorageError, match="may not grow"):
            await storage.append(NAME, [line(n) for n in range(10, 20)])
        assert file.stat().st_size == size
        with pytest.raises(StorageError, match="could not write"):
            await storage.put("f/state", b"x" * (size + 200), version=None)
        assert await storage.get("f/state") is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert await storage.append(NAME, [line(n) for n in range(5, 20)]) == Appended(10, 5)
    assert await everything(storage) == [line(n) for n in range(20)]
    assert not list(storage.path.rglob("*.tmp"))


async def test_few_files_are_open_however_many_names_there_are(storage: FilesystemStorage) -> None:
    for n in range(150):
        await storage.append(f"f{n}/PATCHES", [line(1)])
    assert 0 < open_below(storage.path) <= 128
    assert await storage.append("f0/PATCHES", [line(1), line(2)]) == Appended(1, 1)


async def test_closing_leaves_no_file_open(storage: FilesystemStorage) -> None:
    await storage.append(NAME, [line(1)])
    await storage.aclose()
    assert open_below(storage.path) == 0


async def test_a_reader_who_stops_early_leaves_no_file_open(storage: FilesystemStorage) -> None:
    await storage.append(NAME, [line("x" * 1000 + str(n)) for n in range(3000)])
    scan = storage.scan(NAME)
    await anext(scan)
    await scan.aclose()
    await storage.aclose()
    assert open_below(storage.path) == 0


def run(code: str, root: Path, env: dict[str, str], *arguments: object) -> str:
    helpers = """
import asyncio, atexit, os, sys
from tanuki_async._lines import encode_line
from tanuki_async.storage.filesystem import FilesystemStorage
def line(text):
    return encode_line(args=b'["%s"]' % str(text).encode(), kwargs=b"{}", output=b'"good"', source="call", repaired=False, model=None, at="")
storage = FilesystemStorage(sys.argv[1])
"""
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", helpers + code, str(root), *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (child.returncode, child.stderr) == (0, "")
    return child.stdout


def test_appending_works_while_the_interpreter_ends(root: Path, subprocess_env: dict[str, str]) -> None:
    code = """
atexit.register(lambda: asyncio.run(storage.append("a/PATCHES", [line(2)])))
asyncio.run(storage.append("a/PATCHES", [line(1)]))
"""
    run(code, root, subprocess_env)
    assert (root / "a/PATCHES.jsonl").read_bytes() == line(1) + b"\n" + line(2) + b"\n"


def test_a_loop_that_ends_can_still_append_from_a_generator(root: Path, subprocess_env: dict[str, str]) -> None:
    code = """
async def keeper():
    try:
        yield
    finally:
        await storage.append("a/PATCHES", [line(1)])
        await storage.aclose()
async def main():
    global held
    held = keeper()
    await anext(held)
asyncio.run(main())
"""
    run(code, root, subprocess_env)
    assert (root / "a/PATCHES.jsonl").read_bytes() == line(1) + b"\n"


def test_a_forked_child_locks_for_itself(root: Path, subprocess_env: dict[str, str]) -> None:
    code = """
asyncio.run(storage.append("a/PATCHES", [line(0)]))
children = []
for child in range(3):
    if not (pid := os.fork()):
        for n in range(30):
            asyncio.run(storage.append("a/PATCHES", [line(n), line(f"{child}-{n}")]))
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
print(asyncio.run(storage.count("a/PATCHES")))
"""
    code = "import warnings; warnings.simplefilter('ignore')\n" + code  # newer Pythons warn of forks with threads
    assert run(code, root, subprocess_env).split() == ["120"]
    lines = (root / "a/PATCHES.jsonl").read_bytes().splitlines()
    assert len(set(lines)) == len(lines) == 120


async def test_processes_with_overlapping_records_write_each_once(root: Path, subprocess_env: dict[str, str]) -> None:
    code = """
async def main():
    for n in range(int(sys.argv[2]), int(sys.argv[2]) + 2000, 40):
        await storage.append("a/PATCHES", [line(n + k) for k in range(40)])
    await storage.aclose()
asyncio.run(main())
"""
    await asyncio.gather(*(asyncio.to_thread(run, code, root, subprocess_env, start) for start in (0, 1000)))
    lines = (root / "a/PATCHES.jsonl").read_bytes().splitlines()
    assert len(lines) == len(set(lines))
    assert len(lines) >= 3000 * 0.99
    assert set(lines) <= {line(n) for n in range(3000)}


async def test_of_many_examples_none_is_doubled_and_few_are_taken_for_others(
    storage: FilesystemStorage, root: Path, subprocess_env: dict[str, str]
) -> None:
    for start in range(0, 100_000, 10_000):
        await storage.append(NAME, [line(n) for n in range(start, start + 10_000)])
    await storage.aclose()
    code = """
async def main():
    for start in range(50_000, 150_000, 10_000):
        await storage.append(sys.argv[2], [line(n) for n in range(start, start + 10_000)])
    print(await storage.count(sys.argv[2]))
    await storage.aclose()
asyncio.run(main())
"""
    kept = int(await asyncio.to_thread(run, code, root, subprocess_env, NAME))
    assert 150_000 * 0.99 < kept <= 150_000
    lines = await everything(storage)
    assert len(lines) == len(set(lines)) == kept
