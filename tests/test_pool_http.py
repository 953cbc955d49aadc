from __future__ import annotations

import asyncio
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import httpx2
import pytest
from _raw_server import ABORT, CLOSE, HANG, RawServer, ok

from tanuki_async._errors import NotOpenError, ProviderUnreachableError, SettingsError
from tanuki_async._pool import dial, quiet, wire
from tanuki_async._pool.http import Connections
from tanuki_async._pool.rounds import PIECES
from tanuki_async._records import Reply
from tanuki_async.testing import LoopbackServer

CERTIFICATE = Path(__file__).parent / "fixtures" / "tls" / "localhost.pem"
HEADERS = {"authorization": "Bearer sk-secret", "content-type": "application/json"}


@pytest.fixture
async def http() -> AsyncIterator[Connections]:
    connections = Connections()
    yield connections
    await connections.aclose()


async def post(http: Connections, url: str, body: bytes = b'{"a": 1}') -> Reply:
    return await http.send("POST", f"{url}/x?y=1", headers=HEADERS, body=body)


async def test_the_request_is_written_whole_and_the_answer_comes_back_whole(http: Connections) -> None:
    async with RawServer([ok(b'{"b": 2}', "X-Request-Id: r1")]) as server:
        reply = await post(http, server.url)
    assert (reply.status, reply.body, reply.headers["x-request-id"]) == (200, b'{"b": 2}', "r1")
    assert server.requests == [
        f"POST /v1/x?y=1 HTTP/1.1\r\nhost: {server.host}\r\naccept-encoding: gzip\r\n"
        "authorization: Bearer sk-secret\r\ncontent-type: application/json\r\n"
        'content-length: 8\r\n\r\n{"a": 1}'.encode()
    ]


async def test_a_get_has_no_body(http: Connections) -> None:
    async with RawServer([ok()]) as server:
        await http.send("GET", server.url, headers={})
    assert b"content-length" not in server.requests[0]


async def test_connections_are_kept_and_used_again(http: Connections) -> None:
    async with RawServer([ok()]) as server:
        for _ in range(3):
            await asyncio.gather(*(post(http, server.url) for _ in range(2)))
        assert (len(server.requests), server.connections) == (6, 2)


async def test_a_connection_that_the_server_closed_while_idle_is_replaced_unnoticed(http: Connections) -> None:
    async with RawServer([ok(), CLOSE]) as server:
        for _ in range(3):
            assert (await post(http, server.url)).status == 200
            (way,) = http._ways.values()
            async with asyncio.timeout(2):
                while way.connections:  # type: ignore[attr-defined]  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
    assert server.connections == 3


async def test_a_close_that_the_loop_was_too_busy_to_hear_is_noticed_before_anything_is_sent(
    http: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "QUIET_SECONDS", 0.0)
    async with RawServer([ok()]) as server:
        await post(http, server.url)
        server.shut_all()
        assert (await post(http, server.url)).status == 200
    assert (len(server.requests), server.connections) == (2, 2)


async def test_a_request_that_was_sent_is_never_sent_again_unasked(http: Connections) -> None:
    async with RawServer(lambda count: [ABORT] if count == 2 else [ok()]) as server:
        await post(http, server.url)
        with pytest.raises(ProviderUnreachableError, match="closed the connection without an answer"):
            await post(http, server.url)
        assert (await post(http, server.url)).status == 200
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([CLOSE], "closed the connection without an answer"),
        ([ABORT], "closed the connection without an answer"),
        ([ok(b"x" * 100)[:60], CLOSE], "before its answer was whole"),
        ([ok(b"x" * 100)[:20], CLOSE], "before its answer was whole"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", CLOSE], "before its answer was whole"),
        ([b"SSH-2.0\r\n"], "not a valid HTTP answer"),
        ([ok(b"junk", "Content-Encoding: gzip")], "does not decompress"),
        ([ok(b"junk", "Content-Encoding: zstd")], "nobody asked for"),
    ],
)
async def test_an_exchange_that_breaks_is_unreachable(http: Connections, pieces: list[object], message: str) -> None:
    async with RawServer(pieces) as server:
        with pytest.raises(ProviderUnreachableError, match=message) as caught:
            await post(http, server.url)
        assert server.host in str(caught.value)
        assert "sk-secret" not in repr(caught.value)
    assert http.statistics().in_flight == 0


async def test_bodies_come_in_any_framing(http: Connections) -> None:
    packed = gzip.compress(b"packed")
    answers: list[list[object]] = [
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nc", b"hu\r\n4\r\nnked\r\n0\r", b"\n\r\n"],
        [ok(packed, "Content-Encoding: gzip")],
        [b"HTTP/1.1 200 OK\r\n\r\nuntil ", b"closed", CLOSE],
    ]
    async with RawServer(lambda count: answers[count - 1]) as server:
        assert [(await post(http, server.url)).body for _ in answers] == [b"chunked", b"packed", b"until closed"]


async def test_nobody_there_is_unreachable(http: Connections) -> None:
    async with RawServer([]) as server:
        pass
    with pytest.raises(ProviderUnreachableError, match=f"cannot connect to {server.host}"):
        await post(http, server.url)


async def test_a_host_without_address_is_unreachable(http: Connections) -> None:
    with pytest.raises(ProviderUnreachableError, match=r"cannot connect to nowhere\.invalid:443"):
        await post(http, "https://nowhere.invalid")


async def test_a_connection_that_takes_too_long_is_unreachable() -> None:
    http = Connections(connect_seconds=0.02)
    async with RawServer([]) as server:  # accepts, but never says a word of TLS
        with pytest.raises(ProviderUnreachableError, match=r"no connection to .* within 0\.02 s"):
            await post(http, server.url.replace("http:", "https:"))
    await http.aclose()


@pytest.mark.parametrize("url", ["x", "ftp://host/", "http:///x", "http://host:99999/", "http://a b/", "http://h/\r\n"])
async def test_a_wrong_url_is_told(http: Connections, url: str) -> None:
    with pytest.raises(SettingsError, match="URL"):
        await http.send("POST", url, headers={})


async def test_a_header_cannot_smuggle_another(http: Connections) -> None:
    async with RawServer([ok()]) as server:
        with pytest.raises(SettingsError, match="line break"):
            await http.send("POST", server.url, headers={"a": "b\r\nc: d"})
    assert server.requests == []


async def test_cancelling_closes_the_connection(http: Connections) -> None:
    async with RawServer([HANG]) as server:
        task = asyncio.create_task(post(http, server.url))
        await server.asked.wait()
        assert http.statistics().in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.closed_by_client.wait(), 1)
    assert http.statistics().in_flight == 0


async def test_a_late_answer_is_never_taken_for_the_next_one(http: Connections) -> None:
    async with RawServer(lambda count: [ok(b"1"), ok(b"stray")] if count == 1 else [ok(b"2")]) as server:
        assert (await post(http, server.url)).body == b"1"
        await asyncio.wait_for(server.closed_by_client.wait(), 1)
        assert (await post(http, server.url)).body == b"2"
    assert server.connections == 2


@pytest.mark.parametrize(
    "pieces",
    [
        [ok(b"1", "Connection: close"), CLOSE],
        [ok(b"1") + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n1"],
    ],
    ids=["the server closes", "more was sent than asked for", "HTTP/1.0"],
)
async def test_a_connection_that_cannot_serve_again_is_closed(http: Connections, pieces: list[object]) -> None:
    async with RawServer(pieces) as server:
        for _ in range(2):
            assert (await post(http, server.url)).body == b"1"
        assert server.connections == 2


async def test_an_answer_to_head_has_no_body_and_leaves_the_connection(http: Connections) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n"
    async with RawServer(lambda count: [head] if count == 1 else [ok()]) as server:
        reply = await http.send("HEAD", server.url, headers={})
        assert (reply.body, reply.headers["content-length"]) == (b"", "17")
        assert (await post(http, server.url)).body == b"{}"
        assert server.connections == 1


async def test_notes_in_advance_and_trailers_are_passed_over(http: Connections) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Sum: 1\r\nX-End: 2\r\n\r\n"
    async with RawServer([early, chunked[:30], chunked[30:]]) as server:
        for _ in range(2):
            assert (await post(http, server.url)).body == b"{}"
        assert server.connections == 1


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_a_hundred_megabytes_go_up_and_come_down(
    http: Connections, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    body = b"x" * 100_000_000
    async with RawServer([ok(body)], tls=tls if secure else None) as server:
        async with asyncio.timeout(20):
            reply = await post(http, server.url, body)
        assert len(reply.body) == len(body)
        assert server.requests[0].endswith(b"\r\n\r\n" + body)


async def test_a_hundred_megabytes_come_down_in_chunks(http: Connections) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n"
    async with RawServer([head, chunk * 100, b"0\r\n\r\n"]) as server, asyncio.timeout(20):
        assert len((await post(http, server.url)).body) == 100_000_000


async def test_a_redirect_is_not_followed_so_that_the_key_stays_here(http: Connections) -> None:
    moved = b"HTTP/1.1 307 Moved\r\nLocation: http://elsewhere.invalid/\r\nContent-Length: 0\r\n\r\n"
    async with RawServer([moved]) as server:
        assert (await post(http, server.url)).status == 307


async def test_old_idle_connections_are_not_used(http: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer([ok()]) as server:
        await post(http, server.url)
        monkeypatch.setattr(wire, "IDLE_SECONDS", -1.0)
        await post(http, server.url)
    assert server.connections == 2


async def test_closing_ends_what_is_on_its_way_and_may_be_done_twice() -> None:
    http = Connections()
    async with RawServer([HANG]) as server:
        task = asyncio.create_task(post(http, server.url))
        await server.asked.wait()
        await http.aclose()
        await http.aclose()
        with pytest.raises(NotOpenError, match="closed"):
            await task
        with pytest.raises(NotOpenError, match="closed"):
            await post(http, server.url)


@pytest.fixture
def elsewhere() -> Iterator[LoopbackServer]:
    """A server that answers though our loop stands still."""
    with LoopbackServer.in_thread("yes", latency=0.05) as server:
        yield server


async def test_answers_that_have_come_are_given_before_closing_ends(elsewhere: LoopbackServer) -> None:
    http, body = Connections(), b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
    url = f"{elsewhere.url}/chat/completions"
    tasks = [asyncio.create_task(http.send("POST", url, headers=HEADERS, body=body)) for _ in range(150)]
    await elsewhere.wait_requests(150)
    time.sleep(0.15)  # noqa: ASYNC251  # now all answers lie in the kernel
    for _ in range(2):  # they are read in the second round
        await asyncio.sleep(0)
    await http.aclose()
    assert all(task.done() for task in tasks)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {Reply, NotOpenError}
    assert sum(isinstance(outcome, Reply) for outcome in outcomes) > PIECES


async def test_another_loop_is_refused(http: Connections) -> None:
    async with RawServer([ok()]) as server:
        await post(http, server.url)

        def elsewhere() -> None:
            with pytest.raises(NotOpenError, match="another event loop"):
                asyncio.run(post(http, server.url))

        await asyncio.to_thread(elsewhere)


async def test_hundreds_at_once(http: Connections) -> None:
    async with LoopbackServer(latency=0.01) as server:
        server.route("POST", "/v1/x", [{}] * 300)
        replies = await asyncio.gather(*(post(http, server.url) for _ in range(300)))
        assert {reply.status for reply in replies} == {200}
    assert (http.statistics().sent, http.statistics().in_flight) == (300, 0)


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    return context


async def test_tls_works_with_a_certificate_that_is_trusted(
    http: Connections, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with RawServer(
        lambda count: [b"HTTP/1.1 200 OK\r\n\r\nbye", CLOSE] if count == 3 else [ok()], tls=tls
    ) as server:
        replies = [await post(http, server.url) for _ in range(3)]
        assert [reply.body for reply in replies] == [b"{}", b"{}", b"bye"]
        assert server.connections == 1


async def test_certificates_that_are_not_there_are_told(http: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    async with RawServer([]) as server:
        with pytest.raises(SettingsError, match=r"SSL_CERT_FILE.*nowhere\.pem"):
            await post(http, server.url.replace("http:", "https:"))


async def test_closing_while_the_certificates_are_read_ends_the_call_with_a_clear_error(tls: ssl.SSLContext) -> None:
    http = Connections()
    async with RawServer([ok()], tls=tls) as server:
        task = asyncio.create_task(post(http, server.url))
        await asyncio.sleep(0)
        await http.aclose()
        with pytest.raises((NotOpenError, ProviderUnreachableError)):
            await task


async def test_cancelling_closes_a_connection_under_tls(
    http: Connections, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with RawServer([HANG], tls=tls) as server:
        task = asyncio.create_task(post(http, server.url))
        await server.asked.wait()
        task.cancel()
        await asyncio.wait({task})
        await asyncio.wait_for(server.closed_by_client.wait(), 1)


async def test_a_certificate_nobody_vouches_for_is_refused(http: Connections, tls: ssl.SSLContext) -> None:
    async with RawServer([ok()], tls=tls) as server:
        with pytest.raises(ProviderUnreachableError, match="certificate verify failed"):
            await post(http, server.url)
    assert server.requests == []


async def test_a_certificate_for_another_host_is_refused(
    http: Connections, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with RawServer([ok()], tls=tls) as server:
        with pytest.raises(ProviderUnreachableError, match="certificate verify failed"):
            await post(http, server.url.replace("localhost", "127.0.0.1"))
    assert server.requests == []


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_client_of_the_users_is_used_for_everything_and_left_open(library: type[httpx]) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return library.Response(200, json={"x": 1}, headers={"X-Request-Id": "r"})

    client = library.AsyncClient(transport=library.MockTransport(answer), headers={"x-mine": "yes"})
    http = Connections(client)
    reply = await post(http, "http://nowhere.invalid/v1")
    assert (reply.status, reply.body, reply.headers["x-request-id"]) == (200, b'{"x":1}', "r")
    (request,) = seen
    assert (request.method, str(request.url), request.content) == (
        "POST",
        "http://nowhere.invalid/v1/x?y=1",
        b'{"a": 1}',
    )
    assert (request.headers["authorization"], request.headers["x-mine"]) == ("Bearer sk-secret", "yes")
    await http.aclose()
    assert not client.is_closed
    await client.aclose()


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("name", ["ConnectError", "ReadError", "RemoteProtocolError", "ReadTimeout", "DecodingError"])
async def test_errors_of_a_users_client_are_translated(library: type[httpx], name: str) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise getattr(library, name)("boom", request=request)

    async with library.AsyncClient(transport=library.MockTransport(fail)) as client:
        with pytest.raises(ProviderUnreachableError, match="timeout=None" if name == "ReadTimeout" else "boom"):
            await post(Connections(client), "http://nowhere.invalid")


async def test_a_closed_client_of_the_users_is_told() -> None:
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    await client.aclose()
    with pytest.raises(NotOpenError, match="http_client is closed"):
        await post(Connections(client), "http://nowhere.invalid")


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("no_proxies")
async def test_closing_while_the_way_is_looked_up_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:3128")
    http = Connections()
    async with RawServer([ok()]) as server:
        call = asyncio.create_task(post(http, server.url))
        await asyncio.sleep(0)
        await http.aclose()
        with pytest.raises(NotOpenError):
            await call
    assert server.connections == 0


async def test_an_address_that_refuses_makes_way_for_the_next(
    http: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        return [(None, None, 6, "", (address, 0)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    async with RawServer([ok(b"{}", "Connection: close"), CLOSE]) as server:
        url = f"http://two.invalid:{server.host.partition(':')[2]}"
        assert [(await post(http, url)).status for _ in range(4)] == [200] * 4


async def test_who_is_cancelled_while_connections_are_made_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "CONNECTING_AT_ONCE", 1)
    http = Connections()
    async with RawServer([ok()]) as server:
        tasks = [asyncio.create_task(post(http, server.url)) for _ in range(6)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, Reply] * 3
        assert (await post(http, server.url)).status == 200
        assert http.statistics().in_flight == 0
        await http.aclose()


async def test_many_different_urls_do_not_pile_up(http: Connections) -> None:
    async with LoopbackServer() as server:
        for number in range(600):
            server.route("GET", f"/v1/{number}", {})
        for number in range(600):
            await http.send("GET", f"{server.url}/{number}", headers={})
        assert server.connections_made == 1
    assert len(http._routes) < 600
