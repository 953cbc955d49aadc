"""Answers that are read as they come, from a server that says exactly these bytes."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from _raw_server import ABORT, CLOSE, HANG, RawServer, ok

from tanuki_async import NotOpenError, ProviderUnreachableError
from tanuki_async._pool.http import Connections

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=["ours", "theirs"])
async def connections(request: pytest.FixtureRequest) -> AsyncIterator[Connections]:
    """Ours, and a client that a user brings."""
    async with httpx.AsyncClient() as client:
        made = Connections(client if request.param == "theirs" else None)
        yield made
        await made.aclose()


@pytest.fixture
async def ours() -> AsyncIterator[Connections]:
    made = Connections()
    yield made
    await made.aclose()


async def read(connections: Connections, server: RawServer, **more: Any) -> tuple[int, bytes]:
    async with connections.stream("POST", server.url, headers={"a": "b"}, body=b"{}", **more) as answer:
        return answer.status, b"".join([piece async for piece in answer.pieces])


@pytest.mark.parametrize(
    "pieces",
    [
        [CHUNKED, b"3\r\nabc\r\n", b"3;x=y\r\nde", b"f\r", b"\n0\r\n\r\n"],
        [ok(b"abcdef")],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"abc", b"def"],
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc", b"def", CLOSE],
        [b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"6\r\nabcdef\r\n0\r\n\r\n"],
    ],
    ids=["chunks", "whole", "with a length", "until it closes", "after a note in advance"],
)
async def test_a_body_is_read_however_its_end_is_told(connections: Connections, pieces: list[object]) -> None:
    async with RawServer(pieces) as server:
        assert await read(connections, server) == (200, b"abcdef")
    assert b"accept-encoding: identity\r\n" in server.requests[0].lower()
    assert b"accept-encoding: gzip" not in server.requests[0].lower()
    assert connections.statistics().in_flight == 0


async def test_a_piece_is_there_before_the_next_is_sent(connections: Connections) -> None:
    async with RawServer([CHUNKED + b"3\r\nabc\r\n", HANG]) as server:
        async with connections.stream("GET", server.url, headers={}) as answer:
            async for piece in answer.pieces:
                assert piece == b"abc"
                break
        await asyncio.wait_for(server.closed_by_client.wait(), 2)  # left early: closed
    assert connections.statistics().in_flight == 0


async def test_a_cancelled_reader_closes_the_connection(connections: Connections) -> None:
    async with RawServer([CHUNKED, HANG]) as server:
        reading = asyncio.ensure_future(read(connections, server))
        await server.asked.wait()
        await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(server.closed_by_client.wait(), 2)
    assert connections.statistics().in_flight == 0


@pytest.mark.parametrize("how", [CLOSE, ABORT])
@pytest.mark.parametrize("before", [b"", CHUNKED, CHUNKED + b"3\r\nabc\r\n", ok(b"abcdef")[:-2]])
async def test_a_cut_is_told(connections: Connections, how: object, before: bytes) -> None:
    async with RawServer([before, how] if before else [how]) as server:
        with pytest.raises(ProviderUnreachableError):
            await read(connections, server)
    assert connections.statistics().in_flight == 0


@pytest.mark.parametrize("bad", [b"SSH-2.0 hello\r\n\r\n", CHUNKED + b"zz\r\nabc\r\n"])
async def test_what_is_not_http_is_told(connections: Connections, bad: bytes) -> None:
    async with RawServer([bad, CLOSE]) as server:
        with pytest.raises(ProviderUnreachableError):
            await read(connections, server)


async def test_an_answer_read_to_its_end_leaves_its_connection_for_the_next(ours: Connections) -> None:
    async with RawServer([CHUNKED, b"3\r\nabc\r\n0\r\n\r\n"]) as server:
        assert await read(ours, server) == (200, b"abc")
        assert (await ours.send("POST", server.url, headers={}, body=b"{}")).body == b"abc"
        assert await read(ours, server) == (200, b"abc")
        assert server.connections == 1


async def test_a_connection_that_is_cut_before_its_answer_begins_is_not_asked_again(ours: Connections) -> None:
    async with RawServer(lambda number: [ok(b"abc")] if number != 2 else [CLOSE]) as server:
        assert await read(ours, server) == (200, b"abc")
        with pytest.raises(ProviderUnreachableError, match="without an answer"):
            await read(ours, server)
        assert await read(ours, server) == (200, b"abc")
        assert (len(server.requests), server.connections) == (3, 2)


async def test_gzip_that_nobody_asked_for_is_read_all_the_same(connections: Connections) -> None:
    packed = gzip.compress(b"abc" * 100)
    async with RawServer([ok(packed, "Content-Encoding: gzip")]) as server:
        assert await read(connections, server) == (200, b"abc" * 100)


async def test_a_slow_reader_makes_the_server_wait(ours: Connections) -> None:
    block = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    sent = 0

    def pieces(_: int) -> Any:
        nonlocal sent
        yield CHUNKED
        for _ in range(400):
            sent += 1
            yield block
        yield b"0\r\n\r\n"

    async with RawServer(pieces) as server, ours.stream("GET", server.url, headers={}) as answer:
        await asyncio.sleep(0.3)
        assert sent < 300  # what the sockets hold, and a little
        assert sum([len(piece) async for piece in answer.pieces]) == 400 * 65536


async def test_closing_ends_what_is_being_read(ours: Connections) -> None:
    async with RawServer([CHUNKED, HANG]) as server:
        reading = asyncio.ensure_future(read(ours, server))
        await server.asked.wait()
        await asyncio.sleep(0.01)
        await ours.aclose()
        with pytest.raises(NotOpenError):
            await reading


async def test_a_stream_comes_through_a_proxy(ours: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer([CHUNKED + b"3\r\nabc\r\n", b"0\r\n\r\n"]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.host}")
        async with ours.stream("GET", "http://far.invalid/v1", headers={}) as answer:
            assert [piece async for piece in answer.pieces] == [b"abc"]
    assert proxy.requests[0].startswith(b"GET http://far.invalid/v1 ")
