"""Proxies that the environment names: which one, and how an http:// one is spoken to."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tanuki_async._errors import ProviderUnreachableError, SettingsError, TanukiError
from tanuki_async._pool.parser import Answer, MalformedError
from tanuki_async._pool.targets import Target
from tanuki_async._pool.wire import Direct
from tanuki_async._records import Reply
from tanuki_async.abc import Streamed

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy. Its user and password appear in no repr."""

    scheme: str
    host: str
    port: int
    url: str = field(repr=False)
    authorization: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What it wants to hear from us, and nobody else should."""
        return {"proxy-authorization": self.authorization} if self.authorization else {}

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def proxies_are_named() -> bool:
    """Tell whether there may be a proxy at all. Quick; some systems keep settings outside the environment."""
    return sys.platform in ("darwin", "win32") or any(
        value and name.lower().endswith("_proxy") for name, value in os.environ.items()
    )


def find_proxy(target: Target) -> Proxy | None:
    """The proxy that the environment or the system wants for this target. May take a while."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    url = proxies.get(target.scheme) or proxies.get("all")
    if not url or proxy_bypass(target.host) or proxy_bypass(str(target)):
        return None
    return read_proxy(url)


def read_proxy(url: str) -> Proxy:
    """Take the URL of a proxy apart; one without a scheme is http. SettingsError for what is none."""
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or parts.scheme not in _PORTS:  # not shown: a password may stand anywhere in it
        raise SettingsError(
            "the URL of the proxy that the environment names cannot be used; write http://host:port, https://… or "
            "socks5://… into HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, or exempt hosts in NO_PROXY"
        )
    secret = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    authorization = f"Basic {b64encode(secret.encode()).decode()}" if secret != ":" else ""
    return Proxy(parts.scheme, host, port or _PORTS[parts.scheme], whole, authorization)


async def open_tunnel(proxy: Proxy, address: str, target: Target) -> socket.socket:
    """Connect to `proxy` at `address` and let it connect to `target`. OSError where the proxy cannot be reached."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    tunnel = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio spares a TCP socket all delays
    try:
        tunnel.setblocking(False)
        await loop.sock_connect(tunnel, (address, proxy.port))
        await loop.sock_sendall(tunnel, _connect_request(proxy, target))
        status = await _read_status(tunnel, proxy)
        if not 200 <= status <= 299:
            raise refusal(status, proxy, target)
    except BaseException:
        tunnel.close()
        raise
    return tunnel


async def _read_status(tunnel: socket.socket, proxy: Proxy) -> int:
    answer = Answer(without_body=True)
    try:
        while not answer.feed(piece := await asyncio.get_running_loop().sock_recv(tunnel, 4096)):
            if not piece:
                raise ConnectionError("the proxy closed the connection")
    except MalformedError as error:
        raise ProviderUnreachableError(f"what the proxy {proxy} sent is not a valid HTTP answer: {error}") from error
    return answer.status


def _connect_request(proxy: Proxy, target: Target) -> bytes:
    where = f"[{target.host}]:{target.port}" if ":" in target.host else str(target)
    lines = [f"CONNECT {where} HTTP/1.1", f"host: {where}"]
    lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def refusal(status: int, proxy: Proxy, target: Target) -> TanukiError:
    """Make the error for a proxy that does not let us through."""
    if status == 407:
        problem = "does not take the user and password" if proxy.authorization else "wants a user and a password"
        return SettingsError(
            f"the proxy {proxy} {problem} (HTTP 407); write HTTPS_PROXY or HTTP_PROXY as http://user:password@{proxy}"
        )
    error = ProviderUnreachableError(
        f"the proxy {proxy} does not connect to {target} (HTTP {status}); allow it there, or name {target.host} "
        "in NO_PROXY"
    )
    error.should_retry = None if status >= 500 or status in (408, 429) else False
    return error


class Forwarded:
    """Exchanges with http:// hosts over a proxy, which is told the whole URL and forwards each request."""

    def __init__(self, direct: Direct, proxy: Proxy) -> None:
        self._direct, self._proxy = direct, proxy

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """Exchange one request for one whole answer."""
        reply = await self._direct.send(method, url, {**headers, **self._proxy.headers}, body)
        if reply.status == 407:
            raise refusal(407, self._proxy, self._direct.target(url))
        return reply

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncGenerator[Streamed]:
        """Exchange one request for an answer that is read as it comes."""
        async with self._direct.stream(method, url, {**headers, **self._proxy.headers}, body) as answer:
            if answer.status == 407:
                raise refusal(407, self._proxy, self._direct.target(url))
            yield answer

    async def aclose(self) -> None:
        """Close all connections."""
        await self._direct.aclose()
