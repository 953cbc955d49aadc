"""S3: lines are taken back beside writers, readers and others who merge, and nothing of them is left anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tanuki_async._errors import StorageError
from tanuki_async.abc import Appended
from tanuki_async.storage import s3
from tanuki_async.storage._s3_log import Log
from tanuki_async.storage._s3_rewriting import Rewriting
from tanuki_async.storage._s3_segments import Head, Segment
from tanuki_async.storage.s3 import S3Storage
from tests import _s3
from tests._s3_faults import Faults

NAME = "0123abcd/PATCHES"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[S3Storage]:
    storage = S3Storage(url, session=_s3.session())
    try:
        await storage.open()
        yield storage
    finally:
        await storage.aclose()


async def everything(storage: S3Storage, name: str = NAME) -> list[bytes]:
    return [line async for batch in storage.scan(name) for line in batch]


def without(*lost: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [line for line in lines if line not in lost]


def while_changing(
    change: Callable[[list[bytes]], list[bytes]], work: Callable[[], Coroutine[Any, Any, object]]
) -> Callable[[list[bytes]], list[bytes]]:
    """A change beside whose first batch something else happens, and is over when it returns."""
    loop, todo = asyncio.get_running_loop(), [work]

    def and_meanwhile(lines: list[bytes]) -> list[bytes]:
        if todo:
            asyncio.run_coroutine_threadsafe(todo.pop()(), loop).result(20)
        return change(lines)

    return and_meanwhile


async def all_bytes(storage: S3Storage) -> bytes:
    """Whatever is kept below the place, older versions included."""

    async def read(ready: s3._Ready) -> bytes:
        await asyncio.gather(*ready._merging.values())
        bucket = ready._bucket
        found = b""
        async for page in bucket._pages("list", "list_object_versions", ""):
            for each in page.get("Versions", ()):
                version = {} if each["VersionId"] == "null" else {"VersionId": each["VersionId"]}
                answer = await bucket._client.get_object(Bucket=bucket.place.bucket, Key=each["Key"], **version)
                found += await answer["Body"].read()
        return found

    return await storage._do(read)


@pytest.mark.parametrize("bucket", ["data", "versioned"])
async def test_what_was_taken_back_is_in_no_object_any_more(bucket: str) -> None:
    async with opened(_s3.place(_s3.ministack(), bucket=bucket)) as storage:
        for n in range(20):
            await storage.append(NAME, [b"line %d" % n, b"secret %d" % n])
        await storage.merge(NAME)
        await storage._do(lambda ready: ready.log(NAME)._send([b"a secret that a killed writer never named"]))
        assert b"secret" in await all_bytes(storage)
        assert await storage.rewrite(NAME, lambda lines: [line for line in lines if b"secret" not in line]) == 20
        assert b"secret" not in await all_bytes(storage)
        assert await everything(storage) == [b"line %d" % n for n in range(20)]


@pytest.mark.parametrize("bucket", ["data", "versioned"])
async def test_a_removed_value_is_in_no_object_any_more(bucket: str) -> None:
    async with opened(_s3.place(_s3.ministack(), bucket=bucket)) as storage:
        first = await storage.put("f/student", b"secret 1", version=None)
        await storage.put("f/student", b"secret 2", version=first)
        await storage.put("f/student2", b"other", version=None)
        await storage.remove("f/student")
        await storage.remove("f/student")
        assert b"secret" not in await all_bytes(storage)
        assert await storage.keys() == ["f/student2"]
        assert await storage.put("f/student", b"late", version=first) is None
        assert await storage.put("f/student", b"new", version=None) is not None


async def test_a_rewriting_that_was_killed_before_it_cleared_up_is_cleared_up_by_the_next() -> None:
    async with opened(_s3.place(_s3.ministack())) as storage:
        await storage.append(NAME, [b"1", b"secret"])

        async def and_die(ready: s3._Ready) -> None:
            await Rewriting(ready.log(NAME).objects, without(b"secret")).run(asyncio.Lock())

        await storage._do(and_die)
        assert b"secret" in await all_bytes(storage)
        assert await storage.rewrite(NAME, without(b"secret")) == 0
        assert b"secret" not in await all_bytes(storage)


async def test_a_filter_that_a_killed_rewriter_left_is_deleted_by_the_next() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as storage:
        await storage.append(NAME, [b"1", b"secret"])  # its filter is saved when it is closed
    async with opened(url) as storage:

        async def and_die(ready: s3._Ready) -> None:
            await Rewriting(ready.log(NAME).objects, without(b"secret")).run(asyncio.Lock())

        await storage._do(and_die)
        assert await storage._do(lambda ready: ready.log(NAME).objects.saved()) is not None
        assert await storage.rewrite(NAME, without(b"secret")) == 0
        assert await storage._do(lambda ready: ready.log(NAME).objects.saved()) is None


async def test_others_who_know_a_name_notice_that_lines_were_taken_back() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as one, opened(url) as other:
        await one.append(NAME, [b"1", b"2", b"3"])
        for latest in (False, True):
            await other.append(NAME, [b"1"], latest=latest)
            assert await one.rewrite(NAME, without(b"2")) == 1
            assert await other.append(NAME, [b"2"], latest=latest) == Appended(1, 0)
            assert await other.append(NAME, [b"1", b"2", b"3"], latest=latest) == Appended(0, 3)
        assert await everything(one) == [b"1", b"3", b"2"]
        assert await other.count(NAME) == 3


async def test_a_new_process_finds_the_filter_of_what_stayed() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as storage:
        await storage.append(NAME, [b"%d" % n for n in range(50)])
        await storage.rewrite(NAME, without(b"7"))
    async with opened(url) as storage:
        await storage.append(NAME, [b"new"])
        assert storage._ready.log(NAME)._saved == 49
        assert await storage.append(NAME, [b"6", b"7"]) == Appended(1, 1)


async def test_lines_that_others_add_and_merge_meanwhile_pass_through_the_change_once_and_in_order() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as one, opened(url) as other:
        for n in range(15):
            await one.append(NAME, [b"%d" % n])
        seen: list[bytes] = []

        def change(lines: list[bytes]) -> list[bytes]:
            seen.extend(lines)
            return [line for line in lines if line not in (b"5", b"17")]

        async def add_and_merge() -> None:
            for n in range(15, 20):
                await other.append(NAME, [b"%d" % n])
            await other.merge(NAME)

        assert await one.rewrite(NAME, while_changing(change, add_and_merge)) == 2
        assert seen == [b"%d" % n for n in range(20)]
        assert await everything(other) == [b"%d" % n for n in range(20) if n not in (5, 17)]
        assert await other.append(NAME, [b"%d" % n for n in range(20)]) == Appended(2, 18)


@pytest.mark.parametrize(("secret", "late"), [(b"before", False), (b"7", False), (b"7", True)])
async def test_a_merge_that_a_rewriting_overtakes_changes_nothing_and_leaves_nothing(secret: bytes, late: bool) -> None:
    async with opened(_s3.place(_s3.ministack(), bucket="versioned")) as storage:
        await storage.append(NAME, [b"before", b"x" * 100_000])  # too large to be merged with what follows
        for n in range(15):
            await storage.append(NAME, [b"%d" % n])

        async def merge_too_late(ready: s3._Ready) -> None:
            log, other = ready.log(NAME), Log(ready._bucket, NAME)
            await log.append([b"15"], latest=False)
            await other.refresh()
            send = other.objects.send_whole

            async def and_fall_asleep(content: bytes, lines: int, era: str) -> Any:
                sent = None if late else await send(content, lines, era)
                await log.rewrite(without(secret), 0)
                return sent or await send(content, lines, era)

            other.objects.send_whole = and_fall_asleep  # type: ignore[method-assign]
            await other.merge()

        await storage._do(merge_too_late)
        all_lines = [b"before", b"x" * 100_000, *(b"%d" % n for n in range(16))]
        assert await everything(storage) == [line for line in all_lines if line != secret]
        assert secret + b"\n" not in await all_bytes(storage)


async def test_what_was_sent_before_a_rewriting_is_sent_again_as_it_may_have_been_swept() -> None:
    async with opened(_s3.place(_s3.ministack())) as storage:
        await storage.append(NAME, [b"1", b"secret"])

        async def append_late(ready: s3._Ready) -> Appended:
            log, other = ready.log(NAME), Log(ready._bucket, NAME)
            send = log.objects.send

            async def and_fall_asleep(lines: list[bytes], era: str) -> Any:
                log.objects.send = send  # type: ignore[method-assign]
                sent = await send(lines, era)
                await other.rewrite(without(b"secret"), 0)
                return sent

            log.objects.send = and_fall_asleep  # type: ignore[method-assign, assignment]
            return await log.append([b"2"], latest=False)

        assert await storage._do(append_late) == Appended(1, 0)
        assert await everything(storage) == [b"1", b"2"]


async def test_who_comes_second_with_a_rewriting_fails_and_changes_nothing() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as one, opened(url) as other:
        await one.append(NAME, [b"1", b"2", b"3"])
        with pytest.raises(StorageError, match=r"another process took lines of .* back meanwhile: try again"):
            await one.rewrite(NAME, while_changing(without(b"1"), lambda: other.rewrite(NAME, without(b"2"))))
        assert await everything(one) == [b"1", b"3"]
        assert (await all_bytes(one)).count(b"3\n") == 1


async def test_a_rewriting_that_succeeded_without_being_told_so_loses_nothing() -> None:
    async with opened(_s3.place(_s3.ministack())) as storage:
        await storage.append(NAME, [b"1", b"2", b"3"])

        async def rewrite(ready: s3._Ready) -> None:
            objects = ready.log(NAME).objects
            put = objects.replace

            async def and_hear_nothing(head: Head, version: str | None) -> str | None:
                await put(head, version)
                raise StorageError("nobody answers")

            objects.replace = and_hear_nothing  # type: ignore[method-assign]
            try:
                await ready.rewrite(NAME, without(b"2"))
            finally:
                objects.replace = put  # type: ignore[method-assign]

        with pytest.raises(StorageError, match="nobody answers"):
            await storage._do(rewrite)
        assert await everything(storage) == [b"1", b"3"]
        assert await storage.append(NAME, [b"3", b"4"]) == Appended(1, 1)


async def test_a_rewriting_whose_answer_got_lost_knows_what_others_added_to_it() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as storage, opened(url) as other:
        await storage.append(NAME, [b"1", b"2", b"3"])

        async def rewrite(ready: s3._Ready) -> None:
            objects = ready.log(NAME).objects
            put = objects.replace

            async def and_hear_no(head: Head, version: str | None) -> str | None:
                """What a put comes to that is tried again, as its answer got lost, when others have added to it."""
                objects.replace = put  # type: ignore[method-assign]
                await put(head, version)
                await asyncio.to_thread(asyncio.run, other.append(NAME, [b"4"]))
                return None

            objects.replace = and_hear_no  # type: ignore[method-assign]
            await ready.rewrite(NAME, without(b"2"))

        await storage._do(rewrite)
        assert await storage.append(NAME, [b"4", b"5"]) == Appended(1, 1)
        assert await everything(storage) == [b"1", b"3", b"4", b"5"]
        assert await storage.inspect() == []


@pytest.mark.parametrize("kept", [[b"1"], []])
async def test_what_a_killed_writer_sent_goes_also_where_no_line_has_to(kept: list[bytes]) -> None:
    async with opened(_s3.place(_s3.ministack())) as storage:
        await storage.append(NAME, kept)
        await storage._do(lambda ready: ready.log(NAME)._send([b"a secret that a killed writer never named"]))
        assert await storage.rewrite(NAME, lambda lines: [line for line in lines if b"secret" not in line]) == 0
        assert b"secret" not in await all_bytes(storage)
        assert (await storage.append(NAME, [b"1", b"2"])).duplicates == len(kept)
        assert await everything(storage) == [b"1", b"2"]


async def test_a_rewriting_ends_beside_writers_who_are_always_faster() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as storage, opened(url) as other:
        await storage.append(NAME, [b"0", b"secret"])
        appending: list[asyncio.Task[Appended]] = []

        async def rewrite(ready: s3._Ready) -> int:
            objects = ready.log(NAME).objects
            read = objects.lines

            async def and_be_late(segment: Segment) -> list[bytes] | None:
                found = await read(segment)
                if all(task.done() for task in appending):
                    appending.append(asyncio.create_task(append(len(appending))))
                    await asyncio.wait(appending, timeout=0.15)
                return found

            objects.lines = and_be_late  # type: ignore[method-assign]
            try:
                return await ready.rewrite(NAME, without(b"secret"))
            finally:
                objects.lines = read  # type: ignore[method-assign]

        async def append(n: int) -> Appended:
            return await asyncio.to_thread(asyncio.run, other.append(NAME, [b"late %d" % n]))

        assert await asyncio.wait_for(storage._do(rewrite), 20) == 1
        await storage._do(lambda _: asyncio.gather(*appending))
        kept = await everything(storage)
        assert sorted(kept) == sorted([b"0", *(b"late %d" % n for n in range(len(appending)))])


async def test_a_writer_does_not_wait_long_for_a_rewriting_that_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tanuki_async.storage._s3_log._HELD", 0.05)
    async with opened(_s3.place(_s3.ministack())) as storage:
        await storage.append(NAME, [b"1"])

        async def hold_and_die(ready: s3._Ready) -> None:
            objects = ready.log(NAME).objects
            head, version = await objects.head()
            await objects.replace(head.holding(), version)

        await storage._do(hold_and_die)
        assert await storage.append(NAME, [b"1", b"2"]) == Appended(1, 1)
        head, _ = await storage._do(lambda ready: ready.log(NAME).objects.head())
        assert (head.held, await everything(storage)) == ("", [b"1", b"2"])


@pytest.mark.parametrize("kind", ["503", "cut before", "cut after"])
async def test_requests_that_fail_in_passing_change_nothing(kind: str) -> None:
    async with Faults(_s3.ministack()) as faults, opened(_s3.place(faults.url)) as storage:
        await storage.append(NAME, [b"1", b"2", b"3"])
        faults.kinds, faults.every = [kind], 3
        assert await storage.rewrite(NAME, without(b"2")) == 1
        assert await everything(storage) == [b"1", b"3"]
        assert faults.done


async def test_only_segments_that_lose_lines_are_written_again() -> None:
    async with Faults(_s3.ministack()) as faults, opened(_s3.place(faults.url)) as storage:
        for n in range(8):
            await storage.append(NAME, [b"%d" % n, b"more %d" % n])
        faults.requests.clear()
        assert await storage.rewrite(NAME, without(b"3")) == 1
        written = [request for request in faults.requests if request.startswith(b"PUT")]
        assert sum(b"/lines/" in request.split(b"\r\n")[0] for request in written) == 1
        assert sum(b"/heads/" in request.split(b"\r\n")[0] for request in written) == 1


async def test_a_change_gets_batches_of_bounded_size() -> None:
    sizes: list[int] = []

    def change(lines: list[bytes]) -> list[bytes]:
        sizes.append(sum(map(len, lines)))
        return lines[1:] if len(sizes) == 1 else lines

    async with opened(_s3.place(_s3.ministack())) as storage:
        await storage.append(NAME, [b"%d" % n * 300_000 for n in range(10)])
        assert await storage.rewrite(NAME, change) == 1
        assert await storage.count(NAME) == 9
    assert sum(sizes) == 3_000_000
    assert max(sizes) <= 1 << 20


async def test_a_reader_goes_on_with_what_it_began_or_is_told_to_read_again() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as storage, opened(url) as other:
        for n in range(3):
            await storage.append(NAME, [b"%d" % n, b"more %d" % n])
        first, second, third = storage.scan(NAME), storage.scan(NAME), other.scan(NAME)
        assert await anext(first) == [b"0", b"more 0"]
        assert [await anext(second), await anext(second)] == [[b"0", b"more 0"], [b"1", b"more 1"]]
        await other.rewrite(NAME, without(b"1"))
        with pytest.raises(StorageError, match="taken back while it was read: read it again"):
            await anext(first)
        assert await anext(second) == [b"2", b"more 2"]
        assert [line async for batch in third for line in batch] == await everything(storage)


async def test_a_reader_who_has_no_line_yet_reads_what_is_there_now() -> None:
    url = _s3.place(_s3.ministack())
    async with opened(url) as one, opened(url) as other:
        await one.append(NAME, [b"1", b"2"])

        async def read_late(ready: s3._Ready) -> list[bytes]:
            log, head = ready.log(NAME), ready.log(NAME).objects.head

            async def and_fall_asleep() -> Any:
                found = await head()
                log.objects.head = head  # type: ignore[method-assign]
                await other.rewrite(NAME, without(b"1"))
                return found

            log.objects.head = and_fall_asleep  # type: ignore[method-assign]
            return await log.read(s3.Reading(0))

        assert await one._do(read_late) == [b"2"]


async def test_a_name_below_another_keeps_its_lines() -> None:
    async with opened(_s3.place(_s3.ministack())) as storage:
        await storage.append("f/a", [b"1", b"2"])
        await storage.append("f/a/b", [b"3"])
        assert await storage.rewrite("f/a", without(b"1")) == 1
        assert await everything(storage, "f/a/b") == [b"3"]


async def test_one_writer_of_a_server_without_conditions_can_take_lines_back() -> None:
    async with opened(_s3.place(_s3.nanio(), writers="single")) as storage:
        await storage.append(NAME, [b"1", b"2"])
        assert await storage.rewrite(NAME, without(b"1")) == 1
        assert await everything(storage) == [b"2"]
        assert await storage.append(NAME, [b"1", b"2"]) == Appended(1, 1)
