from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Literal

import _redis
import pytest

pytest.importorskip("redis.asyncio.sentinel")

import tanuki_async as tanuki
from tanuki_async._clock import SYSTEM_CLOCK
from tanuki_async._errors import SettingsError, StorageError
from tanuki_async._lines import encode_line
from tanuki_async._places import open_place
from tanuki_async._pool.shared import SharedBudget
from tanuki_async._record.recorder import Recorder
from tanuki_async._runtime import share_limits
from tanuki_async._settings import Settings, build
from tanuki_async.abc import Appended
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.storage._redis_place import RedisPlace
from tanuki_async.storage.redis import RedisStorage
from tanuki_async.testing import LoopbackServer

NAME = "0123abcd/PATCHES"


def line(text: object, output: str = "good") -> bytes:
    args, answer = b'["%s"]' % str(text).encode(), b'"%s"' % output.encode()
    return encode_line(args=args, kwargs=b"{}", output=answer, source="call", repaired=False, model=None, at="")


async def everything(storage: RedisStorage, *, start: int = 0) -> list[bytes]:
    return [line async for batch in storage.scan(NAME, start=start) for line in batch]


@pytest.fixture(scope="module")
def server() -> Iterator[_redis.Server]:
    with _redis.server("--enable-debug-command", "yes") as one:
        yield one


@pytest.fixture
async def storage(server: _redis.Server) -> AsyncIterator[RedisStorage]:
    made = RedisStorage(f"{server.url}?prefix={uuid.uuid4().hex}")
    await made.open()
    yield made
    await made.aclose()


async def test_a_cancellation_that_comes_with_an_answer_is_not_lost(storage: RedisStorage) -> None:
    async def forever() -> None:
        while True:
            await storage.get("key")

    for turns in range(60):
        task = asyncio.create_task(forever())
        for _ in range(20 + turns % 20):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=0.5)
        task.cancel()  # so that a failure ends
        assert done
        assert task.cancelled()


async def failure(url: str) -> str:
    """What opening and appending at a place says."""
    storage = RedisStorage(url)

    async def use() -> None:
        await storage.open()
        await storage.append(NAME, [line(1)])

    with pytest.raises(StorageError) as caught:
        await use()
    await storage.aclose()
    return str(caught.value)


async def test_beyond_the_exact_ones_examples_are_still_recognised(storage: RedisStorage) -> None:
    lines = [line(n) for n in range(14_000)]
    appended = await storage.append(NAME, lines)
    assert appended.written >= 13_999  # 4,000 of them met a nearly empty filter
    assert await storage.append(NAME, lines) == Appended(0, 14_000)
    assert await storage.count(NAME) == appended.written


async def test_a_scan_reads_large_lines_a_few_at_a_time(storage: RedisStorage) -> None:
    large = [line(f"{n}{'x' * 200_000}") for n in range(80)]
    await storage.append(NAME, large)
    pages = [len(page) async for page in storage.scan(NAME)]
    assert sum(pages) == 80
    assert max(pages[1:]) <= 16


async def test_the_newest_answer_is_known_among_thousands_appended_the_other_way(storage: RedisStorage) -> None:
    await storage.append(NAME, [line(n) for n in range(2500)])
    assert await storage.append(NAME, [line(7), line(8, "bad")], latest=True) == Appended(1, 1)
    await storage.append(NAME, [line(9, "bad")])
    assert await storage.append(NAME, [line(9), line(9, "bad")], latest=True) == Appended(2, 0)


async def test_a_lease_runs_out_by_the_clock_of_the_server(storage: RedisStorage) -> None:
    mine = await storage.claim("job", "me", seconds=0.05)
    assert mine is not None
    assert await storage.claim("job", "you", seconds=1) is None
    await asyncio.sleep(0.06)
    yours = await storage.claim("job", "you", seconds=1)
    assert yours is not None
    assert yours.token == mine.token + 1


async def test_names_are_found_again_after_all_was_deleted(storage: RedisStorage, server: _redis.Server) -> None:
    await storage.append(NAME, [line(1)])
    server.ask("FLUSHALL")
    await storage.append(NAME, [line(1)])
    assert await storage.names() == [NAME]


async def test_a_scan_that_is_left_early_leaves_no_connection_busy(storage: RedisStorage) -> None:
    await storage.append(NAME, [line(n) for n in range(100)])
    async with aclosing(storage.scan(NAME)) as pages:  # type: ignore[type-var]
        async for _ in pages:
            break
    assert await storage.count(NAME) == 100


async def test_errors_say_what_to_do_and_hide_the_password() -> None:
    with _redis.server("--requirepass", "s3cret-one") as server:
        address = server.url.removeprefix("redis://")
        for url in (server.url, f"redis://:wr0ng-one@{address}", f"redis://user:wr0ng-one@{address}"):
            told = await failure(url)
            assert "password" in told
            assert address in told
            assert "wr0ng-one" not in told + repr(RedisStorage(url)) + repr(RedisStorage(url).place)
        good = RedisStorage(f"redis://:s3cret-one@{address}")
        await good.open()
        await good.aclose()
        assert "s3cret" not in repr(good) + repr(good.place)


async def test_sentinels_with_a_password_of_their_own_are_asked_with_it() -> None:
    with _redis.guarded_sentinel("wat/ch-one", "s3cret-one") as address:
        place = f"redis+sentinel://:s3cret-one@{address}/examples"
        good = RedisStorage(f"{place}?sentinel_password=wat%2Fch-one")
        await good.open()
        assert await good.append(NAME, [line(1)]) == Appended(1, 0)
        await good.aclose()
        assert "one" not in repr(good) + repr(good.place) + good.address
        for url in (place, f"{place}?sentinel_password=wr0ng-one", f"{place}?sentinel_username=u&sentinel_password=x"):
            told = await failure(url)
            assert "?sentinel_password=" in told
            assert "-one" not in told


async def test_nobody_listening_is_told() -> None:
    assert "nobody listens there: start Redis" in await failure(f"redis://{_redis.HOST}:{_redis.free_port()}")
    sentinel = f"redis+sentinel://{_redis.HOST}:{_redis.free_port()}/examples"
    assert "the Sentinels know of no primary" in await failure(sentinel)


async def test_a_full_memory_is_told() -> None:
    with _redis.server("--maxmemory", "1mb") as server:
        assert "raise maxmemory" in await failure(server.url)


async def test_a_replica_is_told() -> None:
    with _redis.server("--replicaof", _redis.HOST, "1") as server:
        assert "name the primary" in await failure(server.url)


async def test_a_foreign_key_under_our_name_is_told(storage: RedisStorage, server: _redis.Server) -> None:
    server.ask("SET", storage._key(NAME, "lines"), "something else")
    with pytest.raises(StorageError, match=r"choose another \?prefix=") as caught:
        await storage.append(NAME, [line(1)])
    assert not caught.value.down


async def test_a_part_of_a_cluster_is_told() -> None:
    with _redis.server("--cluster-enabled", "yes") as server:
        assert "Cluster" in await failure(server.url)


async def test_replicas_that_are_asked_for_and_missing_are_told(
    server: _redis.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tanuki_async.storage._redis_client._REPLICA_SECONDS", 0.01)
    assert "only 0 of 1 replicas" in await failure(f"{server.url}?wait=1&prefix={uuid.uuid4().hex}")


async def test_what_is_there_already_is_acknowledged_only_when_a_replica_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _redis.replicated() as (primary, replica):
        first, second = (RedisStorage(f"{primary.url}?wait=1") for _ in range(2))
        await first.open()
        await first.append(NAME, [line(1)])
        assert replica.process is not None
        os.kill(replica.process.pid, signal.SIGSTOP)
        monkeypatch.setattr("tanuki_async.storage._redis_client._REPLICA_SECONDS", 0.05)
        for storage in (first, first, second):  # where all but the first write find it there
            with pytest.raises(StorageError, match="only 0 of 1 replicas") as caught:
                await storage.append(NAME, [line(2)])
            assert caught.value.down
        os.kill(replica.process.pid, signal.SIGCONT)
        monkeypatch.undo()
        assert await second.append(NAME, [line(2)]) == Appended(0, 1)
        assert replica.ask("LLEN", first._key(NAME, "lines")) == b":2\r\n"
        await first.aclose()
        await second.aclose()


async def test_a_newer_layout_is_refused(storage: RedisStorage, server: _redis.Server) -> None:
    server.ask("SET", f"{storage.place.prefix}:format", "2")
    with pytest.raises(StorageError, match="upgrade tanuki_async"):
        await storage.open()


async def test_a_server_that_is_stopped_and_one_that_dies_lose_nothing_and_keep_the_order() -> None:
    with _redis.server("--appendonly", "yes", "--appendfsync", "always") as server:
        storage = RedisStorage(server.url)
        await storage.open()
        recorder = Recorder(storage, flush_interval=0.01)
        recorder.start()
        assert server.process is not None
        for number in range(600):
            recorder.remember(NAME, line(number))
            if number == 200:
                os.kill(server.process.pid, signal.SIGSTOP)
            if number == 300:
                os.kill(server.process.pid, signal.SIGCONT)
            if number == 400:
                server.kill()
            if number == 500:
                await asyncio.to_thread(server.start)
            await asyncio.sleep(0.0005)
        await recorder.aclose()
        assert await everything(storage) == [line(number) for number in range(600)]
        await storage.aclose()


def test_connections_close_with_a_loop_that_nobody_closed_them_on(server: _redis.Server) -> None:
    storage = RedisStorage(server.url)
    for _ in range(3):
        assert asyncio.run(storage.count("none")) == 0
    clients = server.ask("CLIENT", "LIST", "TYPE", "normal")
    assert clients.count(b" cmd=llen") == 0


@tanuki.patch
async def mood(text: str) -> Literal["good", "bad"]:
    """Tell the mood of a text."""
    ...


async def test_calls_are_recorded_in_redis_and_share_their_limits_there(server: _redis.Server) -> None:
    place = f"{server.url}?prefix={uuid.uuid4().hex}"
    async with LoopbackServer('{"value":"good"}') as model:
        provider = OpenAICompatible(model.url, name="here", limits=tanuki.Limits(requests_per_minute=600))
        for _ in range(2):
            async with tanuki.Tanuki(storage=place, providers=[provider], teacher_models="here:m") as opened:
                assert await asyncio.gather(*(mood(f"text {n}") for n in range(5))) == ["good"] * 5
                (lane,) = [lane for _, lane in opened._pool._lanes.values()]
                assert isinstance(lane.turnstile.budget, SharedBudget)
                assert not lane.turnstile.budget.alone
        storage = RedisStorage(place)
        (name,) = [name for name in await storage.names() if name.endswith("/PATCHES")]
        assert await storage.count(name) == 5
        await storage.aclose()


def test_limits_are_shared_where_settings_say(server: _redis.Server) -> None:
    def shares(**keywords: Any) -> str | None:
        made = share_limits(build(Settings, keywords), open_place(keywords.get("storage", "memory:")), SYSTEM_CLOCK)
        return None if made is None else str(made.place)

    assert shares() is None
    assert shares(storage="redis://a") == "redis://a"
    assert shares(storage="redis://a", shared_limits=False) is None
    assert shares(shared_limits="redis://:secret@b") == "redis://b"
    with pytest.raises(SettingsError, match="shared_limits is"):
        shares(shared_limits=True)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h", "redis://h"),
        ("rediss://user:pass@h:7000/3?prefix=a:b", "rediss://h:7000/3"),
        ("redis://:pass@h?cluster=true", "redis://h"),
        ("redis+sentinel://u:pass@a:1,b/main/2?wait=1", "redis+sentinel://a:1,b/main/2"),
    ],
)
def test_a_place_in_words_has_no_login(url: str, name: str) -> None:
    storage = open_place(url)
    assert isinstance(storage, RedisStorage)
    assert str(storage.place) == name
    assert "pass" not in repr(storage) + repr(storage.place)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:passw0rd@h/x",
        "redis://:passw0rd@h?prefix={a}",
        "redis://:passw0rd@h?cluster=perhaps",
        "redis://:passw0rd@h?wait=all",
        "redis://:passw0rd@h?members=0",
        "redis://:passw0rd@h/1?cluster=true",
        "redis://:passw0rd@h:port",
        "redis+sentinel://:passw0rd@a:1",
        "redis://:passw0rd#more@h",
        "redis://h?sentinel_password=passw0rd",
        "redis://user:passw0rd/more@h:6379",
        "redis://user:6/passw0rd@h",
        "redis+sentinel://user:6/passw0rd@a:1",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_telling_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="not the URL of a Redis") as caught:
        RedisPlace.parse(url)
    assert "passw0rd" not in str(caught.value)


def test_without_the_client_it_says_what_to_install(subprocess_env: dict[str, str]) -> None:
    code = (
        "import sys; sys.modules['redis'] = None\nfrom tanuki_async._places import open_place\nopen_place('redis://h')"
    )
    done = subprocess.run([sys.executable, "-c", code], env=subprocess_env, capture_output=True, text=True, check=False)
    assert "pip install 'tanuki_async[redis]'" in done.stderr
