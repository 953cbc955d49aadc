from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from base64 import b64encode
from collections.abc import AsyncIterator

import pytest
from _h2_server import CERTIFICATE, H2Server, tls
from _proxy import LoopbackProxy
from _raw_server import HANG, RawServer, ok

from tanuki_async._errors import NotOpenError, ProviderUnreachableError, SettingsError
from tanuki_async._pool.http import Connections
from tanuki_async._pool.proxy import Proxy, find_proxy, open_tunnel, proxies_are_named, read_proxy
from tanuki_async._pool.retry import is_retryable
from tanuki_async._pool.targets import split_url
from tanuki_async._records import Reply
from tanuki_async.testing import LoopbackServer

PASSWORD = b64encode(b"me:p@ss/word").decode()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def http() -> AsyncIterator[Connections]:
    connections = Connections(verify=CERTIFICATE)
    yield connections
    await connections.aclose()


async def post(http: Connections, url: str) -> Reply:
    return await http.send("POST", f"{url}/x?y=1", headers={"authorization": "Bearer sk-secret"}, body=b"{}")


@pytest.fixture
def plain_tls() -> ssl.SSLContext:
    return tls("http/1.1")


async def test_https_goes_through_a_tunnel_that_is_kept(
    http: Connections, monkeypatch: pytest.MonkeyPatch, plain_tls: ssl.SSLContext
) -> None:
    async with LoopbackProxy(password=PASSWORD) as proxy, RawServer([ok(b"far")], tls=plain_tls) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss%2Fword@{proxy.host}")
        for _ in range(3):
            assert (await post(http, server.url)).body == b"far"
        where = server.url[8:-3]
        assert proxy.heads == [
            f"CONNECT {where} HTTP/1.1\r\nhost: {where}\r\nproxy-authorization: Basic {PASSWORD}\r\n\r\n".encode()
        ]
        assert server.requests[0].startswith(b"POST /v1/x?y=1 HTTP/1.1\r\nhost: localhost:")
        assert b"proxy" not in server.requests[0]


async def test_what_is_sent_through_a_tunnel_waits_for_no_acknowledgement(plain_tls: ssl.SSLContext) -> None:
    async with LoopbackProxy() as proxy, RawServer([ok(b"far")], tls=plain_tls) as server:
        tunnel = await open_tunnel(read_proxy(proxy.host), "127.0.0.1", split_url(server.url))
        _, writer = await asyncio.open_connection(sock=tunnel)
        assert tunnel.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()


async def test_http_2_goes_through_a_tunnel_too(http: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LoopbackProxy() as proxy, H2Server() as server:
        monkeypatch.setenv("ALL_PROXY", proxy.host)
        assert {reply.status for reply in await asyncio.gather(*(post(http, server.url) for _ in range(5)))} == {200}
        assert (len(server.connections), len(proxy.heads)) == (1, 1)


async def test_http_is_forwarded_over_connections_that_are_kept(
    http: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LoopbackProxy(password=PASSWORD) as proxy, RawServer([ok(b"far")]) as server:
        monkeypatch.setenv("HTTP_PROXY", f"me:p%40ss%2Fword@{proxy.host}")
        for _ in range(2):
            assert (await post(http, server.url)).body == b"far"
        async with http.stream("POST", f"{server.url}/x?y=1", headers={}, body=b"{}") as answer:
            assert [piece async for piece in answer.pieces] == [b"far"]
        assert proxy.heads[0].startswith(f"POST {server.url}/x?y=1 HTTP/1.1\r\nhost: {server.host}\r\n".encode())
        assert f"proxy-authorization: Basic {PASSWORD}\r\n".encode() in proxy.heads[0]
        assert (proxy.connections, len(server.requests)) == (1, 3)


async def test_hundreds_at_once_go_through_a_proxy(http: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LoopbackProxy() as proxy, LoopbackServer() as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.host)
        server.route("POST", "/v1/x", [{}] * 200)
        urls = [server.url] * 200
        assert {reply.status for reply in await asyncio.gather(*(post(http, url) for url in urls))} == {200}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("said", "message"), [("", "wants a user and a password"), ("me:s3cret@", "does not take the user and password")]
)
async def test_a_proxy_that_wants_a_password_is_told(
    http: Connections, monkeypatch: pytest.MonkeyPatch, scheme: str, said: str, message: str
) -> None:
    async with LoopbackProxy(password=PASSWORD) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://{said}{proxy.host}")
        with pytest.raises(SettingsError, match=message) as caught:
            await post(http, f"{scheme}://far.invalid/v1")
        with pytest.raises(SettingsError, match=r"http://user:password@127\.0\.0\.1:"):
            async with http.stream("POST", f"{scheme}://far.invalid/v1", headers={}):
                pass
        assert "s3cret" not in repr(caught.value)
    assert http.statistics().in_flight == 0


@pytest.mark.parametrize(("status", "again"), [(403, False), (502, True), (503, True)])
async def test_a_proxy_that_refuses_is_told(
    http: Connections, monkeypatch: pytest.MonkeyPatch, status: int, again: bool
) -> None:
    async with LoopbackProxy(refuses=status) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        with pytest.raises(ProviderUnreachableError, match=rf"far\.invalid:443 \(HTTP {status}\).*NO_PROXY") as caught:
            await post(http, "https://far.invalid/v1")
        assert is_retryable(caught.value) is again
        await asyncio.wait_for(proxy.closed_by_client.wait(), 1)


async def test_a_proxy_that_speaks_something_else_is_told(http: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LoopbackProxy(says=b"SSH-2.0\r\n\r\n") as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        with pytest.raises(ProviderUnreachableError, match="not a valid HTTP answer") as caught:
            await post(http, "https://far.invalid/v1")
        assert proxy.host in str(caught.value)


async def test_a_proxy_that_closes_or_is_not_there_is_told(http: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer([]) as nobody:
        pass
    monkeypatch.setenv("https_proxy", nobody.host)
    with pytest.raises(ProviderUnreachableError, match=f"far.invalid:443 over the proxy {nobody.host}"):
        await post(http, "https://far.invalid/v1")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(ProviderUnreachableError, match="over the proxy"):
            await post(http, "https://near.invalid/v1")


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 200 Fine\r\n\r\n"], ids=["before the tunnel", "before TLS"])
async def test_cancelling_closes_a_tunnel_that_is_being_made(
    http: Connections, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    async with LoopbackProxy(says=says) as proxy:
        monkeypatch.setenv("https_proxy", proxy.host)
        http2 = http
        plain = Connections(verify=tls_client())
        for connections in (plain, http2):
            proxy.asked.clear()
            proxy.closed_by_client.clear()
            task = asyncio.create_task(post(connections, "https://far.invalid/v1"))
            await proxy.asked.wait()
            await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.wait({task})
            await connections.aclose()
            await asyncio.wait_for(proxy.closed_by_client.wait(), 1)


def tls_client() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERTIFICATE)


async def test_cancelling_closes_a_tunnel_in_use(
    http: Connections, monkeypatch: pytest.MonkeyPatch, plain_tls: ssl.SSLContext
) -> None:
    async with LoopbackProxy() as proxy, RawServer([HANG], tls=plain_tls) as server:
        monkeypatch.setenv("https_proxy", proxy.host)
        task = asyncio.create_task(post(http, server.url))
        await server.asked.wait()
        task.cancel()
        await asyncio.wait({task})
        await asyncio.wait_for(server.closed_by_client.wait(), 1)


async def test_closing_ends_a_tunnel_that_is_being_made(http: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LoopbackProxy(says=b"") as proxy:
        monkeypatch.setenv("https_proxy", proxy.host)
        task = asyncio.create_task(post(http, "https://far.invalid/v1"))
        await proxy.asked.wait()
        await http.aclose()
        with pytest.raises(NotOpenError):
            await task
        await asyncio.wait_for(proxy.closed_by_client.wait(), 1)


def test_a_tunnel_works_on_another_event_loop(monkeypatch: pytest.MonkeyPatch, plain_tls: ssl.SSLContext) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        http = Connections(verify=CERTIFICATE)
        async with LoopbackProxy() as proxy, RawServer([ok(b"far")], tls=plain_tls) as server:
            monkeypatch.setenv("https_proxy", proxy.host)
            assert (await post(http, server.url)).body == b"far"
            await http.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_a_certificate_is_checked_inside_a_tunnel(
    monkeypatch: pytest.MonkeyPatch, plain_tls: ssl.SSLContext
) -> None:
    http = Connections()
    async with LoopbackProxy() as proxy, RawServer([ok()], tls=plain_tls) as server:
        monkeypatch.setenv("https_proxy", proxy.host)
        with pytest.raises(ProviderUnreachableError, match="certificate"):
            await post(http, server.url)
        assert server.requests == []
    await http.aclose()


async def test_a_socks_proxy_is_used(http: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LoopbackProxy() as proxy, RawServer([ok(b"far")]) as server:
        monkeypatch.setenv("http_proxy", f"socks5h://{proxy.host}")
        url = f"http://localhost:{server.host.partition(':')[2]}/v1"
        assert {(await post(http, url)).body for _ in range(2)} == {b"far"}
        assert proxy.heads[0] == f"SOCKS {url[7:-3]}".encode()


async def test_a_proxy_that_speaks_tls_is_used(
    http: Connections, monkeypatch: pytest.MonkeyPatch, plain_tls: ssl.SSLContext
) -> None:
    async with LoopbackProxy(tls=plain_tls) as proxy, RawServer([ok(b"far")]) as server:
        monkeypatch.setenv("http_proxy", f"https://{proxy.host.replace('127.0.0.1', 'localhost')}")
        assert (await post(http, server.url)).body == b"far"
        assert proxy.heads[0].startswith(f"POST {server.url}/x".encode())


async def test_a_socks_proxy_without_its_package_is_told(http: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("http_proxy", "socks5://me:s3cret@127.0.0.1:1")
    with pytest.raises(SettingsError, match=r"socks5 proxy 127\.0\.0\.1:1.*tanuki_async\[socks\]") as caught:
        await post(http, "http://api.invalid/v1")
    assert "s3cret" not in repr(caught.value)


def test_the_environment_tells_whether_a_proxy_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not proxies_are_named()
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:3128")
    monkeypatch.setenv("no_proxy", "localhost,.internal,here.example:8443")
    assert proxies_are_named()
    assert str(find_proxy(split_url("https://api.openai.com/v1"))) == "127.0.0.1:3128"
    for url in ("http://api.openai.com/v1", "https://vllm.internal/v1", "https://here.example:8443/v1"):
        assert find_proxy(split_url(url)) is None
    assert find_proxy(split_url("https://here.example/v1")) is not None
    monkeypatch.setenv("ALL_PROXY", "socks5://other:1")
    assert str(find_proxy(split_url("http://api.openai.com/v1"))) == "other:1"


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("p", ("http", "p", 80, "")),
        ("p:3128", ("http", "p", 3128, "")),
        ("http://[::1]:1", ("http", "::1", 1, "")),
        ("https://u:v@p", ("https", "p", 443, "Basic dTp2")),
        ("socks5://u@p", ("socks5", "p", 1080, "Basic dTo=")),
    ],
)
def test_the_url_of_a_proxy_is_read(url: str, proxy: tuple[str, str, int, str]) -> None:
    read = read_proxy(url)
    assert (read.scheme, read.host, read.port, read.authorization) == proxy


@pytest.mark.parametrize("url", ["http://u:s3cret@p:99999", "ftp://u:s3cret@p", "http://u:s3cret@", "http://[u:s3cret"])
def test_what_is_no_proxy_is_told_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="NO_PROXY") as caught:
        read_proxy(url)
    assert "s3cret" not in repr(caught.value)


def test_a_proxy_shows_no_password() -> None:
    assert "s3cret" not in f"{read_proxy('http://u:s3cret@p')!r} {read_proxy('http://u:s3cret@p')}"
    assert Proxy("http", "p", 80, "http://p").headers == {}
