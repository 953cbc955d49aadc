from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanuki_async.testing._http import BadRequestError, HttpRequest, RequestParser, encode_response
from tanuki_async.testing.loopback import LoopbackServer

WITH_LENGTH = b"POST /a?q=1 HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two: 2\r\nContent-Length: 5\r\n\r\nhello"
IN_CHUNKS = (
    b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2;note=x\r\nde\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n"
)
PLAIN = b"GET /c HTTP/1.0\r\n\r\n"


def parse(parser: RequestParser) -> list[HttpRequest]:
    found: list[HttpRequest] = []
    while (request := parser.next_request()) is not None:
        found.append(request)
    return found


@given(st.lists(st.integers(1, len(WITH_LENGTH + IN_CHUNKS + PLAIN)), max_size=8))
def test_requests_are_the_same_however_their_bytes_are_cut(cuts: list[int]) -> None:
    stream, parser = WITH_LENGTH + IN_CHUNKS + PLAIN, RequestParser()
    found: list[HttpRequest] = []
    places = [0, *sorted(cuts), len(stream)]
    for start, end in itertools.pairwise(places):
        parser.feed(stream[start:end])
        found += parse(parser)
    assert [(r.method, r.path, r.body, r.keep_alive) for r in found] == [
        ("POST", "/a", b"hello", True),
        ("POST", "/b", b"abcde", True),
        ("GET", "/c", b"", False),
    ]
    assert (found[0].query, found[0].headers["x-two"]) == ("q=1", "1, 2")


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nName : x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
    ],
)
def test_what_is_not_http_is_refused(stream: bytes, status: int) -> None:
    parser = RequestParser()
    parser.feed(stream)
    with pytest.raises(BadRequestError) as raised:
        parser.next_request()
    assert raised.value.status == status


def test_an_unknown_status_is_written_all_the_same() -> None:
    assert encode_response(529, {"a": "b"}, b"x") == b"HTTP/1.1 529 Unknown\r\na: b\r\ncontent-length: 1\r\n\r\nx"


async def exchange(server: LoopbackServer, *parts: bytes) -> bytes:
    port = int(server.url.split(":")[2].partition("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_requests_sent_ahead_are_answered_one_after_the_other() -> None:
    async with LoopbackServer(models=["a"], latency=0.005) as server:
        get = b"GET /v1/models HTTP/1.1\r\n\r\n"
        answer = await exchange(server, get, get + get, b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 OK") == 4
        assert server.max_in_flight == 1


async def test_nonsense_is_answered_400_and_the_connection_closed() -> None:
    async with LoopbackServer() as server:
        assert (await exchange(server, b"hello\r\n\r\n")).startswith(b"HTTP/1.1 400 Bad Request")
        assert server.in_flight == 0
