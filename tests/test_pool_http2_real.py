"""HTTP/2 against a server that shares no code with our side: granian, which is hyper."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from _h2_server import CERTIFICATE

from tanuki_async._pool.http import Connections

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "--interface": "asgi", "--host": "127.0.0.1", "--port": str(port), "--http": "auto",
        "--http2-max-concurrent-streams": "50", "--working-dir": str(Path(__file__).parent),
        "--ssl-certificate": str(CERTIFICATE), "--ssl-keyfile": str(CERTIFICATE),
    }  # fmt: skip
    command = [sys.executable, "-m", "granian", "--no-ws", *(word for pair in options.items() for word in pair)]
    with subprocess.Popen([*command, "_asgi_app:app"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert running.poll() is None, running.stdout and running.stdout.read()
                assert time.monotonic() < until
                time.sleep(0.05)
        yield f"https://localhost:{port}"
        running.terminate()


@pytest.fixture
async def http() -> AsyncIterator[Connections]:
    connections = Connections(verify=CERTIFICATE)
    yield connections
    await connections.aclose()


async def post(http: Connections, url: str, body: bytes = b"{}") -> dict[str, object]:
    reply = await http.send("POST", url, headers={"content-type": "application/json"}, body=body)
    assert reply.status == 200
    return json.loads(reply.body)


async def test_it_speaks_http_2(http: Connections, server: str) -> None:
    assert await post(http, f"{server}/x", b"abc") == {"version": "2", "came": 3}


async def test_more_at_once_than_one_connection_takes(http: Connections, server: str) -> None:
    told = await asyncio.gather(*(post(http, f"{server}/slow") for _ in range(300)))
    assert all(each["version"] == "2" for each in told)
    (way,) = http._ways.values()
    (origin,) = way._origins.values()  # type: ignore[attr-defined]
    assert 2 <= len(origin.sessions) <= 6


async def test_a_cancelled_call_leaves_the_connection_to_others(http: Connections, server: str) -> None:
    await post(http, f"{server}/x")
    tasks = [asyncio.create_task(post(http, f"{server}/slow")) for _ in range(20)]
    await asyncio.sleep(0.01)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in results] == [asyncio.CancelledError, dict] * 10
    (way,) = http._ways.values()
    assert [len(each.sessions) for each in way._origins.values()] == [1]  # type: ignore[attr-defined]


async def test_a_hundred_megabytes_go_up(http: Connections, server: str) -> None:
    assert (await post(http, f"{server}/x", b"x" * (100 * MEGABYTE)))["came"] == 100 * MEGABYTE


async def test_a_hundred_megabytes_come_down_while_others_are_answered(http: Connections, server: str) -> None:
    big = asyncio.create_task(http.send("GET", f"{server}/down?100", headers={}))
    while not big.done():
        assert (await post(http, f"{server}/x"))["came"] == 2
    assert len((await big).body) == 100 * MEGABYTE


async def test_a_stream_is_read_in_pieces_and_may_be_left(http: Connections, server: str) -> None:
    async with http.stream("GET", f"{server}/down?20", headers={}) as answer:
        sizes = [len(piece) async for piece in answer.pieces]
    assert (sum(sizes), len(sizes) > 1) == (20 * MEGABYTE, True)
    async with http.stream("GET", f"{server}/down?100", headers={}) as answer:
        async for _ in answer.pieces:
            break
    assert (await post(http, f"{server}/x"))["version"] == "2"
