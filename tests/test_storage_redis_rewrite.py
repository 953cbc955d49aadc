"""Redis: lines are taken back beside writers and readers, and what is known of the lines follows."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import _redis
import pytest

pytest.importorskip("redis.asyncio.sentinel")

import tanuki_async as tanuki
from tanuki_async._cli import main
from tanuki_async._errors import StorageError
from tanuki_async._lines import encode_example, encode_line
from tanuki_async._records import Example
from tanuki_async.abc import Appended
from tanuki_async.storage import _redis_rewrite
from tanuki_async.storage._redis_lines import Lines
from tanuki_async.storage.redis import RedisStorage
from tanuki_async.testing import FakeProvider, Value

NAME = "0123abcd/PATCHES"


def line(text: object, output: str = "good") -> bytes:
    args, answer = b'["%s"]' % str(text).encode(), b'"%s"' % output.encode()
    return encode_line(args=args, kwargs=b"{}", output=answer, source="call", repaired=False, model=None, at="")


def without(*gone: bytes) -> Any:
    return lambda lines: [each for each in lines if each not in gone]


async def everything(storage: RedisStorage, name: str = NAME) -> list[bytes]:
    return [line async for batch in storage.scan(name) for line in batch]


@pytest.fixture(scope="module")
def server() -> Iterator[_redis.Server]:
    with _redis.server() as one:
        yield one


@pytest.fixture
async def storage(server: _redis.Server) -> AsyncIterator[RedisStorage]:
    made = RedisStorage(f"{server.url}?prefix={uuid.uuid4().hex}")
    await made.open()
    yield made
    await made.aclose()


async def keys_of(storage: RedisStorage) -> set[str]:
    found: list[bytes] = await storage._clients.command("list", "KEYS", f"{storage.place.prefix}:*")
    return {key.decode().rpartition(":")[2] for key in found}


async def known(storage: RedisStorage, name: str) -> tuple[Any, ...]:
    """All that is kept beside lines to tell what is there, but for the generation."""
    keys = Lines(storage._clients, name).keys
    exact = await storage._clients.command("read", "SMEMBERS", keys[1])
    layers = await storage._clients.commands("read", *[("GET", key) for key in keys[4:]])
    return sorted(exact), layers, await storage._clients.command("read", "HMGET", keys[2], "layers", "left")


async def test_what_is_known_of_rewritten_lines_is_what_appending_them_would_have_made(storage: RedisStorage) -> None:
    lines = [line(n) for n in range(11_500)]
    await storage.append("f/before", lines)
    kept = [each for each in await everything(storage, "f/before") if not each.endswith(b"7")]
    await storage.append("f/anew", kept)
    await storage.rewrite("f/before", lambda found: [each for each in found if not each.endswith(b"7")])
    assert await everything(storage, "f/before") == await everything(storage, "f/anew")
    assert await known(storage, "f/before") == await known(storage, "f/anew")


async def test_a_scan_goes_on_with_the_old_lines_which_are_gone_within_a_minute(storage: RedisStorage) -> None:
    lines = [line(n) for n in range(300)]
    await storage.append(NAME, lines)
    seen: list[bytes] = []
    async for page in storage.scan(NAME):
        seen += page
        await storage.rewrite(NAME, lambda found: found[1:])
    assert seen == lines
    old = [key for key in await keys_of(storage) if key.startswith("lines-")]
    assert len(old) > 1
    for key in old:
        left = await storage._clients.command("ask", "PTTL", storage._key(NAME, key))
        assert 0 < left <= 60_000


async def test_a_scan_that_is_too_slow_for_a_rewrite_fails(
    storage: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_rewrite, "_OLD_SECONDS", 0)
    await storage.append(NAME, [line(n) for n in range(300)])
    pages = storage.scan(NAME)
    assert len(await anext(pages)) == 32
    await storage.rewrite(NAME, without(line(0)))
    with pytest.raises(StorageError, match="read them again"):
        await anext(pages)


async def test_where_nothing_is_left_out_nothing_is_written(storage: RedisStorage) -> None:
    await storage.append(NAME, [line(n) for n in range(3000)])
    before = await keys_of(storage)
    assert await storage.rewrite(NAME, lambda lines: lines) == 0
    assert await keys_of(storage) == before


async def test_leaving_out_everything_leaves_no_name(storage: RedisStorage) -> None:
    await storage.append(NAME, [line(1), line(2)], latest=True)
    assert await storage.rewrite(NAME, lambda _: []) == 2
    assert await storage.names() == []
    assert await storage.append(NAME, [line(2), line(1)], latest=True) == Appended(2, 0)
    assert await storage.names() == [NAME]


async def test_a_draft_that_nobody_finishes_vanishes_and_the_next_rewrite_waits_for_that(
    storage: RedisStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line(n) for n in range(12_000)]
    await storage.append(NAME, lines)
    there, kept = await storage.count(NAME), await everything(storage)
    monkeypatch.setattr(_redis_rewrite, "_DRAFT_SECONDS", 0.5)
    forsaken = _redis_rewrite._Draft(Lines(storage._clients, NAME), without(line(7)), differs=False)
    await forsaken.begin()
    await forsaken.follow()
    drafted = [key for key in await keys_of(storage) if key.startswith("draft-")]
    assert {"draft-lines", "draft-known", "draft-about", "draft-seen-0"} == set(drafted)
    for key in drafted:
        assert 0 < await storage._clients.command("ask", "PTTL", storage._key(NAME, key)) <= 500
    assert await everything(storage) == kept
    assert await storage.append(NAME, [line(7)]) == Appended(0, 1)
    assert await storage.rewrite(NAME, without(line(8))) == 1
    assert await storage.count(NAME) == there - 1
    with pytest.raises(StorageError, match="are as before"):
        await forsaken.swap()
    for key in await keys_of(storage) - {"format", "names"}:
        lives = await storage._clients.command("ask", "PTTL", storage._key(NAME, key))
        assert (lives == -1) is not key.startswith("lines-")


async def test_a_draft_that_is_lost_changes_nothing(storage: RedisStorage, server: _redis.Server) -> None:
    await storage.append(NAME, [line(1), line(2)])

    def lose(lines: list[bytes]) -> list[bytes]:
        server.ask("DEL", storage._key(NAME, "draft-about"))
        return lines[1:]

    with pytest.raises(StorageError, match="are as before"):
        await storage.rewrite(NAME, lose)
    assert await everything(storage) == [line(1), line(2)]


async def test_lines_that_come_meanwhile_pass_through_the_change_too(
    storage: RedisStorage, server: _redis.Server
) -> None:
    await storage.append(NAME, [line(n) for n in range(10)])
    more = iter(range(100, 105))

    def change(lines: list[bytes]) -> list[bytes]:
        if (number := next(more, None)) is not None:
            asyncio.run(storage.append(NAME, [line(number), line(f"gone {number}")]))
        return [each for each in lines if b"gone" not in each and each != line(3)]

    assert await storage.rewrite(NAME, change) == 6
    assert await everything(storage) == [line(n) for n in (*range(3), *range(4, 10), *range(100, 105))]


async def test_those_who_append_without_a_pause_are_held_for_a_moment(storage: RedisStorage) -> None:
    await storage.append(NAME, [line(-1)])
    ended = asyncio.Event()
    written: list[int] = []

    async def write(begin: int) -> None:
        while not ended.is_set():
            begin += 1
            await storage.append(NAME, [line(begin)])
            written.append(begin)

    def slowly(lines: list[bytes]) -> list[bytes]:
        time.sleep(0.01)
        return [each for each in lines if each != line(-1)]

    writers = [asyncio.create_task(write(1_000_000 * n)) for n in range(3)]
    async with asyncio.timeout(10):
        assert await storage.rewrite(NAME, slowly) == 1
    before = len(written)
    while len(written) < before + 10:  # and are let go  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    ended.set()
    await asyncio.gather(*writers)
    assert sorted(await everything(storage)) == sorted(map(line, written))


async def test_two_that_rewrite_one_name_wait_for_each_other(storage: RedisStorage) -> None:
    await storage.append(NAME, [line(n) for n in range(2000)])
    odd, even = (without(*(line(n) for n in range(rest, 50, 2))) for rest in (1, 0))
    assert await asyncio.gather(storage.rewrite(NAME, odd), storage.rewrite(NAME, even)) == [25, 25]
    assert await everything(storage) == [line(n) for n in range(50, 2000)]


async def test_a_cancelled_rewrite_leaves_no_draft(storage: RedisStorage) -> None:
    await storage.append(NAME, [line(n) for n in range(2000)])
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def change(lines: list[bytes]) -> list[bytes]:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.005)
        return lines[1:]

    task = asyncio.create_task(storage.rewrite(NAME, change))
    await begun.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not [key for key in await keys_of(storage) if key.startswith("draft-")]
    assert await storage.count(NAME) == 2000


async def test_a_filter_that_was_lost_is_rebuilt(storage: RedisStorage, server: _redis.Server) -> None:
    lines = [line(n) for n in range(100)]
    await storage.append(NAME, lines)
    server.ask("DEL", storage._key(NAME, "known"))
    assert await storage.rebuild(NAME) == 100
    assert await storage.append(NAME, lines) == Appended(0, 100)
    assert await everything(storage) == lines
    assert await storage.rebuild("f/none") == 0
    assert await storage.names() == [NAME]


async def test_a_removed_value_is_nowhere_and_its_versions_do_not_come_again(
    storage: RedisStorage, server: _redis.Server
) -> None:
    first = await storage.put("f/state", b"secret", version=None)
    await storage.remove("f/state")
    await storage.remove("f/state")
    assert await storage.get("f/state") is None
    assert await storage.keys() == []
    assert server.ask("EXISTS", storage._key("f/state", "value")) == b":0\r\n"
    again = await storage.put("f/state", b"other", version=None)
    assert again != first
    assert await storage.put("f/state", b"late", version=first) is None
    assert await storage.keys() == ["f/state"]


@tanuki.patch
async def classify(text: str) -> str:
    """Classify a text."""


def example(text: str) -> bytes:
    return encode_example(Example(args=(text,), kwargs={}, output="good", source="call", at="2026"))


def test_the_commands_that_care_for_data_work_in_redis(
    server: _redis.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"{server.url}?prefix={uuid.uuid4().hex}"
    hash_of = tanuki.describe(classify).hash
    name = f"{hash_of}/PATCHES"
    storage = RedisStorage(place)

    def command(*arguments: str, status: int = 0) -> Any:
        assert main([*arguments, "--dir", place, "--json"]) == status
        return json.loads(capsys.readouterr().out)

    async def kept() -> list[bytes]:
        lines = await everything(storage, name)
        await storage.aclose()
        return lines

    async def fill() -> None:
        provider = FakeProvider(lambda _: Value("bad"))
        async with tanuki.Tanuki(storage=place, providers=[provider], teacher_models="fake:t"):
            await classify("a")
        await storage.append(name, [example("a"), b"{torn Secret", example("my Secret")])
        await storage.put(f"{hash_of}/state-0", b"{}", version=None)
        await storage.aclose()

    asyncio.run(fill())
    command("verify", status=1)
    repaired = command("verify", "--repair")
    assert {each["place"] for each in repaired} == {name, f"{hash_of}/state-0"}
    assert command("verify") == []
    assert asyncio.run(kept())[1:] == [example("a"), example("my Secret")]
    assert command("compact") == {name: 1}
    assert command("rebuild")[name] == 2
    told = command("forget", "classify", "--contains", "Secret", "--yes")
    assert told["lines"] == {name: 1, f"{name}.damaged": 1}
    assert asyncio.run(kept()) == [example("a")]
    assert command("verify") == []
