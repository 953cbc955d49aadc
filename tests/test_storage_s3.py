"""S3: several writers of one place, servers that fail in passing, that refuse, or that ignore conditions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import tanuki_async as tanuki
from tanuki_async._errors import SettingsError, StorageError
from tanuki_async._places import open_place
from tanuki_async.abc import Appended
from tanuki_async.storage import s3
from tanuki_async.storage._s3_log import Log
from tanuki_async.storage._s3_place import Place
from tanuki_async.storage._s3_segments import LARGEST, Head, Segment, cut, mergeable
from tanuki_async.storage.s3 import S3Storage
from tests import _s3
from tests._s3_faults import Faults

NAME = "0123abcd/PATCHES"


@asynccontextmanager
async def opened(url: str, **more: object) -> AsyncIterator[S3Storage]:
    storage = S3Storage(url, session=_s3.session(), **more)
    try:
        await storage.open()
        yield storage
    finally:
        await storage.aclose()


async def everything(storage: S3Storage, start: int = 0) -> list[bytes]:
    return [line async for batch in storage.scan(NAME, start=start) for line in batch]


async def objects(storage: S3Storage, prefix: str = "") -> list[str]:
    async def listing(ready: s3._Ready) -> list[str]:
        return [each.key for each in await ready._bucket.list(prefix)]

    return await storage._do(listing)


async def test_two_writers_see_each_others_lines() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as one, opened(url) as other:
        assert await one.append(NAME, [b"1", b"2"]) == Appended(2, 0)
        assert await other.append(NAME, [b"2", b"3"]) == Appended(1, 1)
        assert await one.append(NAME, [b"3", b"4"]) == Appended(1, 1)
        assert await everything(other) == [b"1", b"2", b"3", b"4"]
        assert await one.count(NAME) == 4


async def test_the_saved_filter_knows_what_is_there() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as storage:
        await storage.append(NAME, [b"%d" % n for n in range(50)])
    async with opened(url) as storage:
        assert await objects(storage, "filters/") == [f"filters/{NAME}.bloom"]
        assert await storage.append(NAME, [b"7", b"new"]) == Appended(1, 1)
        log = storage._ready.log(NAME)
        assert (log._saved, log._filter.lines) == (50, 51)


async def test_a_log_that_was_deleted_is_begun_anew() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as storage:
        await storage.append(NAME, [b"1", b"2"])
        keys = await objects(storage)
        await storage._do(lambda ready: ready._bucket.delete(*(key for key in keys if NAME in key)))
        assert await storage.append(NAME, [b"3", b"2"]) == Appended(2, 0)
        assert await everything(storage) == [b"3", b"2"]


async def test_small_segments_become_one_and_lines_keep_their_numbers() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as storage, opened(url) as reader:
        for n in range(20):
            await storage.append(NAME, [b"%d" % n])
        reading = reader.scan(NAME)
        seen = list(await anext(reading))
        await storage.merge(NAME)
        assert len(await objects(storage, "lines/")) < 16
        async for batch in reading:
            seen += batch
        assert seen == await everything(storage) == [b"%d" % n for n in range(20)]
        assert await everything(reader, 18) == [b"18", b"19"]
        assert await reader.append(NAME, [b"3", b"20"]) == Appended(1, 1)


async def test_merging_goes_on_beside_writers() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as one, opened(url) as other:

        async def write(storage: S3Storage, first: int) -> None:
            for n in range(first, first + 20):
                await storage.append(NAME, [b"%d" % n])

        await asyncio.gather(write(one, 0), write(other, 10))
        await asyncio.gather(one.merge(NAME), other.merge(NAME), one.append(NAME, [b"last"]))
        assert sorted(await everything(one)) == sorted([*(b"%d" % n for n in range(30)), b"last"])
        while one._ready._merging or other._ready._merging:  # noqa: ASYNC110 — another thread's work
            await asyncio.sleep(0.005)
        await one.merge(NAME)
        left = await objects(one, "lines/")
        assert sorted(left) == sorted(
            one._ready.log(NAME).objects.key(each) for each in one._ready.log(NAME)._head.segments
        )
        assert len(left) < 20


async def test_what_a_killed_writer_left_unnamed_is_swept_after_a_day() -> None:
    async with opened(_s3.place(_s3.ministack())) as storage:
        await storage.append(NAME, [b"1"])
        await storage._do(lambda ready: ready.log(NAME)._send([b"never named"]))
        log = storage._ready.log(NAME)
        await storage._do(lambda ready: log.objects.sweep(ready._clock.now().timestamp()))
        assert len(await objects(storage, "lines/")) == 2
        await storage._do(lambda ready: log.objects.sweep(ready._clock.now().timestamp() + 90_000))
        assert len(await objects(storage, "lines/")) == 1
        assert await everything(storage) == [b"1"]


async def test_many_small_failures_on_the_way_change_nothing() -> None:
    async with Faults(_s3.ministack()) as faults, opened(_s3.place(faults.url)) as storage:
        faults.every = 3
        for n in range(12):
            await storage.append(NAME, [b"%d" % n])
        version = await storage.put("key", b"one", version=None)
        assert version is not None
        assert await storage.put("key", b"two", version=version) is not None
        assert await everything(storage) == [b"%d" % n for n in range(12)]
        assert {"503", "cut before", "cut after"} <= set(faults.done)


async def test_a_connection_that_is_cut_several_times_in_a_row_is_tried_again() -> None:
    async with Faults(_s3.ministack()) as faults, opened(_s3.place(faults.url)) as storage:
        await storage.append(NAME, [b"1"])
        faults.plan = ["cut before"] * 3
        assert await storage.append(NAME, [b"2"]) == Appended(1, 0)
        faults.plan = ["cut before"] * 3
        assert await everything(storage) == [b"1", b"2"]
        assert faults.plan == []


async def test_whoever_was_told_nothing_finds_out_that_it_was_first() -> None:
    async with Faults(_s3.ministack()) as faults, opened(_s3.place(faults.url)) as storage:
        faults.plan = ["cut after"]
        version = await storage.put("key", b"one", version=None)
        assert version is not None
        faults.plan = ["cut after"]
        assert await storage.put("key", b"two", version=version) is not None
        faults.plan = ["", "cut after"]
        assert await storage.append(NAME, [b"1"]) == Appended(1, 0)
        assert faults.plan == []


async def test_what_another_has_partly_merged_before_the_answer_came_is_not_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tanuki_async.storage._s3_segments.LARGEST", 2)  # two lines, two segments
    async with opened(_s3.place(_s3.ministack())) as storage:

        async def append(ready: s3._Ready) -> Appended:
            log, other, put = ready.log(NAME), Log(ready._bucket, NAME), ready._bucket.put

            async def and_lose_the_answer(key: str, content: bytes, *, version: str | None) -> str | None:
                new = await put(key, content, version=version)
                if not key.startswith("heads/"):
                    return new
                monkeypatch.undo()
                await other.refresh()
                first, whole = other._head.segments[0], Segment.of(1, 2, era=other._head.era)
                await put(other.objects.key(whole), b"1\n", version="*")
                assert await other._exchange([first], whole, other._head.era)
                return None

            monkeypatch.setattr(ready._bucket, "put", and_lose_the_answer)
            return await log.append([b"1", b"2"], latest=False)

        await storage._do(append)
        assert await everything(storage) == [b"1", b"2"]


async def test_a_server_that_stays_ill_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Faults(_s3.ministack()) as faults, opened(_s3.place(faults.url)) as storage:
        storage._ready._bucket._patience = 0.3
        faults.every = 1
        faults.kinds = ["503"]
        with pytest.raises(StorageError, match="SlowDown"):
            await storage.append(NAME, [b"1"])
        faults.every = 0
        assert await storage.append(NAME, [b"1"]) == Appended(1, 0)


async def test_a_server_that_ignores_conditions_is_refused() -> None:
    storage = S3Storage(_s3.place(_s3.nanio()), session=_s3.session())
    with pytest.raises(StorageError, match=r"cannot be shared by several writers.*writers=single"):
        await storage.open()
    await storage.aclose()


async def test_one_writer_may_use_a_server_that_ignores_conditions() -> None:
    async with opened(_s3.place(_s3.nanio(), writers="single")) as storage:
        await asyncio.gather(*(storage.append(NAME, [b"%d" % n, b"shared"]) for n in range(8)))
        assert await storage.count(NAME) == 9
        results = await asyncio.gather(*(storage.put("key", b"%d" % n, version=None) for n in range(8)))
        assert sum(result is not None for result in results) == 1


@pytest.mark.parametrize(
    ("key", "secret", "told"),
    [(_s3.KEYS[0], "wrong", "the secret access key is wrong"), ("nobody", "x", "the access key id is unknown")],
)
async def test_wrong_keys_are_told_apart(key: str, secret: str, told: str) -> None:
    storage = S3Storage(_s3.place(_s3.nanio()), session=_s3.session(secret, key))
    with pytest.raises(StorageError, match=told) as caught:
        await storage.open()
    assert secret not in str(caught.value).replace("wrong:", "")
    assert caught.value.down
    await storage.aclose()


async def test_a_bucket_that_is_not_there_is_named() -> None:
    url = _s3.place(_s3.ministack()).replace("s3://data", "s3://nowhere")
    storage = S3Storage(url, session=_s3.session())
    with pytest.raises(StorageError, match=r"s3://nowhere/.*no such bucket"):
        await storage.open()
    await storage.aclose()


async def test_data_of_a_newer_release_is_refused() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as storage:
        await storage._do(lambda ready: ready._bucket.put("format", b'{"tanuki_async":99}', version="*"))
    newer = S3Storage(url, session=_s3.session())
    with pytest.raises(StorageError, match="layout 99"):
        await newer.open()
    await newer.aclose()


async def test_encryption_is_asked_for() -> None:
    async with Faults(_s3.ministack()) as faults:
        async with opened(_s3.place(faults.url, sse="aws:kms", kms_key="alias/mine")) as storage:
            await storage.append(NAME, [b"1"])
        puts = [request for request in faults.requests if request.startswith(b"PUT")]
        assert puts
        assert all(b"x-amz-server-side-encryption: aws:kms\r\n" in put.replace(b"Amz", b"amz") for put in puts)


def test_without_aioboto3_it_says_what_to_install_before_anything_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aioboto3", None)
    with pytest.raises(SettingsError, match=r"pip install 'tanuki_async\[s3\]'"):
        tanuki.Tanuki(storage="s3://data/x")


def test_lines_that_wait_on_this_machine_are_found_again_when_a_place_is_used_in_another_way() -> None:
    plain = S3Storage("s3://data/x?endpoint=http://127.0.0.1:9")
    other = "s3://data/x/?endpoint=http://127.0.0.1:9/&sse=aws:kms&kms_key=k&profile=p&region=r&writers=single"
    assert S3Storage(other).address == plain.address
    for elsewhere in (
        "s3://data/x",
        "s3://data/y?endpoint=http://127.0.0.1:9",
        "s3://data/x?endpoint=http://127.0.0.1:8",
    ):
        assert S3Storage(elsewhere).address != plain.address


def test_a_url_says_where_and_how() -> None:
    url = "s3://my-bucket/a/b?endpoint=http://127.0.0.1:9&region=eu-west-1&sse=aws:kms&kms_key=alias/x&writers=single"
    place = Place.from_url(url)
    assert (place.bucket, place.prefix, place.sse, place.writers) == ("my-bucket", "a/b/", "aws:kms", "single")
    assert Place.from_url(str(place)) == place
    assert Place.from_url("s3://my-bucket").prefix == ""
    assert repr(open_place("s3://my-bucket/x")) == "S3Storage('s3://my-bucket/x')"


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://UPPER/x",
        "s3://key:secret@bucket/x",
        "s3://bucket/x?colour=red",
        "s3://bucket/x?writers=two",
        "s3://bucket/x?endpoint=nonsense",
        "s3://bucket/x?kms_key=alias/y",
        "s3://bucket/../x y",
        "s3://key:sec/ret@bucket/x",
        "s3://key/secret@bucket",
        "s3://bucket/x?endpoint=http://user:secret@host",
        "s3://[::1/x",
    ],
)
def test_a_url_that_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_place(url)
    assert "sec" not in str(caught.value)


def test_lines_are_cut_into_segments_of_bounded_size() -> None:
    lines = [b"x" * (LARGEST // 3)] * 4 + [b"y" * (LARGEST + 5), b"z"]
    parts = list(cut(lines))
    assert [line for part, _ in parts for line in part] == lines
    assert [len(part) for part, _ in parts] == [2, 2, 1, 1]
    assert b"".join(content for _, content in parts) == b"".join(line + b"\n" for line in lines)


def test_many_small_neighbours_are_merged_and_large_ones_are_left() -> None:
    large, small = Segment("l", 9, LARGEST), [Segment(f"{n}", 1, 100) for n in range(16)]
    assert mergeable(small) == small
    assert mergeable([large, *small, large]) == small
    assert mergeable([*small[:8], large, *small[8:]]) == ()
    head = Head("id", (large, *small))
    merged = head.merged(small, Segment("m", 16, 1600))
    assert merged is not None
    assert (merged.lines, len(merged.segments)) == (head.lines, 2)
    assert merged.merged(small, large) is None


def test_lines_are_written_again_only_a_few_times_however_many_come() -> None:
    head, copied, size = Head("id"), 0, 3_000
    for n in range(6_000):
        head = head.extended([Segment(str(n), 1, size)])
        while parts := mergeable(head.segments):
            total = sum(part.size for part in parts)
            copied += total
            head = head.merged(parts, Segment(f"m{n}-{total}", sum(part.lines for part in parts), total)) or head
    assert head.lines == 6_000
    assert len(head.segments) < 64
    assert copied < 8 * 6_000 * size


def test_a_storage_goes_on_in_a_child_process(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    code = f"""
import asyncio, os
from tanuki_async.storage.s3 import S3Storage
storage = S3Storage({_s3.place(_s3.ministack())!r})
asyncio.run(storage.append("a", [b"1"]))
if (child := os.fork()) == 0:
    asyncio.run(storage.append("a", [b"1", b"2"]))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert asyncio.run(storage.count("a")) == 2
asyncio.run(storage.aclose())
"""
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    subprocess.run([sys.executable, "-c", code], env={**subprocess_env, **keys}, check=True, timeout=30)
