"""What every storage promises, checked against every implementation."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import _redis
import pytest

from tanuki_async._errors import StorageError
from tanuki_async._lines import encode_line
from tanuki_async.abc import Appended, Storage
from tanuki_async.storage.filesystem import FilesystemStorage
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.storage.redis import RedisStorage
from tanuki_async.storage.s3 import S3Storage
from tests import _s3

NAME = "0123abcd/PATCHES"


class Wall:
    """A clock whose date a test sets."""

    def __init__(self) -> None:
        self.date = datetime(2026, 11, 23, tzinfo=UTC)

    def now(self) -> datetime:
        return self.date

    def monotonic(self) -> float:
        return self.date.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.date += timedelta(seconds=seconds)


def line(text: object, output: str = "good") -> bytes:
    return encode_line(
        args=b'["%s"]' % str(text).encode(),
        kwargs=b"{}",
        output=b'"%s"' % output.encode(),
        source="call",
        repaired=False,
        model="openai:x",
        at="2026-11-23T00:00:00.000Z",
    )


async def everything(storage: Storage, name: str = NAME, *, start: int = 0) -> list[bytes]:
    return [line async for batch in storage.scan(name, start=start) for line in batch]


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with _redis.server() as server:
        yield server.url


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    with _redis.cluster() as nodes:
        yield f"{nodes[1].url}?cluster=true"


@pytest.fixture(scope="session")
def sentinel_url() -> Iterator[str]:
    with _redis.sentinels() as (url, _, _):
        yield f"{url}?wait=1"


Made = Callable[..., Storage]


@pytest.fixture(
    params=[
        "memory",
        "filesystem",
        "redis_url",
        "cluster_url",
        "ministack",
        *_s3.others(),
        pytest.param("sentinel_url", marks=pytest.mark.campaign),
    ]
)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """Makes a storage without anything in it; the same one when asked again."""
    if request.param == "memory":
        return MemoryStorage
    if request.param == "filesystem":
        return partial(FilesystemStorage, tmp_path / "data")
    if request.param in ("ministack", *_s3.others()):
        return partial(S3Storage, **_s3.opening(request.param))
    pytest.importorskip("redis.asyncio.sentinel")
    url = request.getfixturevalue(request.param)
    return partial(RedisStorage, f"{url}{'&' if '?' in url else '?'}prefix={uuid.uuid4().hex}")


@pytest.fixture
async def storage(make: Made, wall: Wall) -> AsyncIterator[Storage]:
    made = make(clock=wall)
    await made.open()
    yield made
    await made.aclose()


async def test_lines_come_back_in_the_order_of_appending(storage: Storage) -> None:
    assert await storage.append(NAME, [line(1), line(2)]) == Appended(2, 0)
    assert await storage.append(NAME, [line(3)]) == Appended(1, 0)
    assert await everything(storage) == [line(1), line(2), line(3)]
    assert await storage.count(NAME) == 3


async def test_scan_leaves_out_the_first_lines(storage: Storage) -> None:
    await storage.append(NAME, [line(n) for n in range(3000)])
    assert await everything(storage, start=2998) == [line(2998), line(2999)]
    assert await everything(storage, start=3000) == []
    assert await everything(storage, start=4000) == []


async def test_a_name_without_lines_is_empty(storage: Storage) -> None:
    assert await everything(storage, "nobody/PATCHES") == []
    assert await storage.count("nobody/PATCHES") == 0
    assert await storage.append(NAME, []) == Appended(0, 0)
    assert await storage.names() == []


async def test_the_same_example_is_stored_once(storage: Storage) -> None:
    assert await storage.append(NAME, [line(1), line(1), line(2)]) == Appended(2, 1)
    again = line(1).replace(b'"model":"openai:x"', b'"model":null')
    assert await storage.append(NAME, [again, line(3)]) == Appended(1, 1)
    assert await everything(storage) == [line(1), line(2), line(3)]


async def test_another_answer_is_another_example(storage: Storage) -> None:
    assert await storage.append(NAME, [line(1, "good"), line(1, "bad")]) == Appended(2, 0)
    assert await storage.append(NAME, [line(1, "good")]) == Appended(0, 1)


async def test_with_latest_an_answer_may_return(storage: Storage) -> None:
    await storage.append(NAME, [line(1, "good")], latest=True)
    assert await storage.append(NAME, [line(1, "good")], latest=True) == Appended(0, 1)
    assert await storage.append(NAME, [line(1, "bad"), line(2)], latest=True) == Appended(2, 0)
    assert await storage.append(NAME, [line(1, "good")], latest=True) == Appended(1, 0)
    assert await everything(storage) == [line(1, "good"), line(1, "bad"), line(2), line(1, "good")]


async def test_both_ways_of_appending_know_of_each_other(storage: Storage) -> None:
    await storage.append(NAME, [line(1)])
    assert await storage.append(NAME, [line(1)], latest=True) == Appended(0, 1)
    await storage.append(NAME, [line(2)], latest=True)
    assert await storage.append(NAME, [line(2), line(3)]) == Appended(1, 1)


async def test_names_do_not_share_lines(storage: Storage) -> None:
    await storage.append("a/PATCHES", [line(1)])
    assert await storage.append("b/PATCHES", [line(1)]) == Appended(1, 0)
    await storage.append("b/SYMBOLIC_ALIGNMENTS", [line(1)])
    assert await storage.names() == ["a/PATCHES", "b/PATCHES", "b/SYMBOLIC_ALIGNMENTS"]
    assert await storage.names("b/") == ["b/PATCHES", "b/SYMBOLIC_ALIGNMENTS"]


@pytest.mark.parametrize(
    "name", ["", "/", "../x", "a/../b", "a//b", ".hidden", "a\\b", "a\nb", "ü", "x.json", "a" * 300]
)
async def test_a_name_that_leads_elsewhere_is_refused(storage: Storage, name: str) -> None:
    for attempt in (
        storage.append(name, [line(1)]),
        storage.count(name),
        storage.get(name),
        storage.put(name, b"", version=None),
        storage.claim(name, "me", seconds=1),
        everything(storage, name),
    ):
        with pytest.raises(StorageError, match="cannot be a"):
            await attempt


async def test_a_line_with_a_line_break_is_refused(storage: Storage) -> None:
    with pytest.raises(StorageError, match="line break"):
        await storage.append(NAME, [line(1), b"two\nlines"])
    assert await everything(storage) == []


async def test_lines_that_are_no_records_are_kept_and_recognised(storage: Storage) -> None:
    for latest in (False, True):
        assert (await storage.append(f"{NAME}-{latest}", [b"anything", b"{}"], latest=latest)).written == 2
        assert (await storage.append(f"{NAME}-{latest}", [b"anything"], latest=latest)).written == 0


async def test_many_tasks_at_once_lose_and_double_nothing(storage: Storage) -> None:
    batches = [[line(n + offset) for n in range(20)] for offset in range(0, 200, 10)]
    results = await asyncio.gather(*(storage.append(NAME, batch) for batch in batches))
    assert sorted(await everything(storage)) == sorted(line(n) for n in range(210))
    assert sum(result.written for result in results) == 210


async def test_a_scan_does_not_mind_lines_that_come_meanwhile(storage: Storage) -> None:
    await storage.append(NAME, [line(n) for n in range(5)])
    seen: list[bytes] = []
    async for batch in storage.scan(NAME):
        await storage.append(NAME, [line("more")])
        seen += batch
    assert seen[:5] == [line(n) for n in range(5)]


async def test_a_value_is_replaced_only_by_whoever_knows_it(storage: Storage) -> None:
    assert await storage.get("f/state") is None
    assert await storage.put("f/state", b"x", version="17") is None
    first = await storage.put("f/state", b"one", version=None)
    assert first is not None
    assert await storage.put("f/state", b"late", version=None) is None
    second = await storage.put("f/state", b"two", version=first)
    assert second not in (None, first)
    assert await storage.put("f/state", b"late", version=first) is None
    held = await storage.get("f/state")
    assert held is not None
    assert (held.value, held.version) == (b"two", second)


async def test_one_of_many_replaces_a_value(storage: Storage) -> None:
    version = await storage.put("f/state", b"start", version=None)
    results = await asyncio.gather(*(storage.put("f/state", b"%d" % n, version=version) for n in range(20)))
    assert sum(result is not None for result in results) == 1


async def test_keys_are_those_with_a_value(storage: Storage) -> None:
    await storage.put("b/state-0", b"", version=None)
    await storage.put("a/function", b"{}", version=None)
    await storage.append(NAME, [line(1)])
    await storage.claim("a/lease", "me", seconds=9)
    assert await storage.keys() == ["a/function", "b/state-0"]
    assert await storage.keys("b/") == ["b/state-0"]
    assert await storage.names() == [NAME]


async def test_a_lease_has_one_holder_until_it_runs_out(storage: Storage, wall: Wall) -> None:
    mine = await storage.claim("job", "me", seconds=10)
    assert mine is not None
    assert await storage.claim("job", "you", seconds=10) is None
    assert await storage.claim("job", "me", seconds=20) == mine
    await wall.sleep(19)
    assert await storage.claim("job", "you", seconds=10) is None
    await wall.sleep(2)
    yours = await storage.claim("job", "you", seconds=10)
    assert yours is not None
    assert yours.token > mine.token
    assert await storage.claim("job", "me", seconds=10) is None


async def test_a_late_holder_gives_nothing_back(storage: Storage, wall: Wall) -> None:
    mine = await storage.claim("job", "me", seconds=1)
    await wall.sleep(2)
    await storage.claim("job", "you", seconds=10)
    assert mine is not None
    await storage.release(mine)
    assert await storage.claim("job", "me", seconds=1) is None


async def test_a_lease_given_back_is_free_and_its_tokens_go_on(storage: Storage) -> None:
    mine = await storage.claim("job", "me", seconds=10)
    assert mine is not None
    await storage.release(mine)
    await storage.release(mine)
    yours = await storage.claim("job", "you", seconds=10)
    assert yours is not None
    assert yours.token > mine.token


async def test_one_of_many_gets_a_lease(storage: Storage) -> None:
    leases = await asyncio.gather(*(storage.claim("job", f"owner-{n}", seconds=10) for n in range(20)))
    assert sum(lease is not None for lease in leases) == 1


async def test_closing_twice_and_opening_again_keeps_everything(storage: Storage) -> None:
    await storage.append(NAME, [line(1)])
    await storage.aclose()
    await storage.aclose()
    await storage.open()
    assert await storage.append(NAME, [line(1), line(2)]) == Appended(1, 1)


def test_several_event_loops_share_a_storage(make: Made) -> None:
    storage = make()

    async def work(offset: int) -> int:
        return (await storage.append(NAME, [line(n + offset) for n in range(50)])).written

    async def in_threads() -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(asyncio.run, work(offset)) for offset in range(0, 100, 25)))

    assert sum(asyncio.run(in_threads())) == 125
    assert asyncio.run(storage.count(NAME)) == 125
    asyncio.run(storage.aclose())


@pytest.fixture
def rewritable(storage: Storage) -> Storage:
    """A storage that can take lines back."""
    if type(storage).rewrite is Storage.rewrite:
        pytest.skip(f"{type(storage).__name__} cannot take lines back yet")
    return storage


async def test_a_storage_that_cannot_take_lines_back_says_so(storage: Storage) -> None:
    await storage.append(NAME, [line(1)])
    if type(storage).rewrite is Storage.rewrite:
        with pytest.raises(StorageError, match="cannot take back"):
            await storage.rewrite(NAME, lambda _: [])
    else:
        assert await storage.rewrite(NAME, lambda lines: lines) == 0
    assert await everything(storage) == [line(1)]


async def test_rewriting_leaves_out_lines_which_may_then_come_again(rewritable: Storage) -> None:
    await rewritable.append(NAME, [line(n) for n in range(5)])
    assert await rewritable.rewrite(NAME, lambda lines: [each for each in lines if each != line(3)]) == 1
    assert await everything(rewritable) == [line(0), line(1), line(2), line(4)]
    assert await rewritable.count(NAME) == 4
    assert await rewritable.append(NAME, [line(3), line(4)]) == Appended(1, 1)
    assert await rewritable.append(NAME, [line(3), line(4)], latest=True) == Appended(0, 2)


async def test_rewriting_what_is_not_there_leaves_nothing_behind(rewritable: Storage) -> None:
    assert await rewritable.rewrite("f/none", lambda lines: []) == 0
    assert await rewritable.names() == []
    assert await rewritable.keys() == []


async def test_a_name_whose_lines_are_all_taken_back_is_empty(rewritable: Storage) -> None:
    await rewritable.append(NAME, [line(1), line(2)])
    assert await rewritable.rewrite(NAME, lambda lines: []) == 2
    assert await rewritable.names() == await everything(rewritable) == []
    assert await rewritable.append(NAME, [line(2)]) == Appended(1, 0)
    assert await rewritable.names() == [NAME]


async def test_rewriting_keeps_the_order_and_what_came_twice(rewritable: Storage) -> None:
    lines = [line("x", "good"), line("x", "bad"), line("x", "good"), line("y")]
    for each in lines:
        await rewritable.append(NAME, [each], latest=True)
    assert await rewritable.rewrite(NAME, lambda found: [each for each in found if each != line("y")]) == 1
    assert await everything(rewritable) == lines[:3]


async def test_after_a_rewrite_the_newest_answer_is_that_of_the_lines_left(rewritable: Storage) -> None:
    for output in ("good", "bad", "fine"):
        await rewritable.append(NAME, [line("x", output)], latest=True)
    assert await rewritable.rewrite(NAME, lambda lines: [each for each in lines if each != line("x", "fine")]) == 1
    assert await rewritable.append(NAME, [line("x", "bad")], latest=True) == Appended(0, 1)
    assert await rewritable.append(NAME, [line("x", "good")], latest=True) == Appended(1, 0)
    assert await everything(rewritable) == [line("x", "good"), line("x", "bad"), line("x", "good")]


async def test_a_scan_that_a_rewrite_overtakes_skips_and_repeats_nothing(rewritable: Storage) -> None:
    lines = [line(n, "x" * 300) for n in range(5000)]
    await rewritable.append(NAME, lines)
    seen: list[bytes] = []
    with contextlib.suppress(StorageError):  # which is better than silence
        async for batch in rewritable.scan(NAME):
            seen += batch
            if len(seen) == len(batch):
                await rewritable.rewrite(NAME, lambda found: [each for each in found if not each.startswith(b"1", 16)])
    assert seen == lines[: len(seen)]
    assert len(await everything(rewritable)) < 5000


async def test_a_failing_rewrite_changes_nothing(rewritable: Storage) -> None:
    await rewritable.append(NAME, [line(1)])

    def fail(_: list[bytes]) -> list[bytes]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await rewritable.rewrite(NAME, fail)
    assert await everything(rewritable) == [line(1)]
    assert await rewritable.append(NAME, [line(1), line(2)]) == Appended(1, 1)


async def test_lines_appended_during_many_rewrites_are_not_lost(rewritable: Storage) -> None:
    async def grow(start: int) -> None:
        for number in range(start, start + 20):
            await rewritable.append(NAME, [line(number)])

    async def rewrite() -> None:
        for _ in range(10):
            await rewritable.rewrite(NAME, lambda lines: [each for each in lines if b'"10' not in each])

    await asyncio.gather(grow(0), grow(100), rewrite())
    assert {line(n) for n in (*range(20), *range(110, 120)) if n != 10} <= set(await everything(rewritable))


async def test_a_removed_value_is_gone_and_may_be_written_anew(storage: Storage) -> None:
    await storage.put("f/state", b"1", version=None)
    await storage.remove("f/state")
    await storage.remove("f/state")
    held = await storage.get("f/state")
    assert held is None or not held.value
    assert await storage.put("f/state", b"2", version=held.version if held else None) is not None


async def test_rebuilding_counts_the_lines_and_knows_them_all(storage: Storage) -> None:
    await storage.append(NAME, [line(n) for n in range(100)])
    assert await storage.rebuild(NAME) == 100
    assert await storage.append(NAME, [line(n) for n in range(100)]) == Appended(0, 100)
    assert await storage.inspect() == []
