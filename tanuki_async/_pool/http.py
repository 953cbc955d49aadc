"""The shared connections of one open Tanuki, and the choice of who makes them.

By default ours, alone or through a proxy; or exactly the client that the user gave.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from tanuki_async._errors import NotOpenError, ProviderUnreachableError, SettingsError
from tanuki_async._pool.dial import CONNECT_SECONDS, Dialer
from tanuki_async._pool.lent import Lent, open_lent
from tanuki_async._pool.names import shared
from tanuki_async._pool.proxy import Forwarded, Proxy, find_proxy, proxies_are_named
from tanuki_async._pool.targets import Target, split_url
from tanuki_async._pool.trust import Trust, Verify
from tanuki_async._pool.wire import Connection, Direct
from tanuki_async._records import Reply
from tanuki_async.abc import Streamed


class Transport(Protocol):
    """Makes exchanges. Raises ProviderUnreachableError when one fails."""

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """Exchange one request for one whole answer."""
        ...

    def stream(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> AbstractAsyncContextManager[Streamed]:
        """Exchange one request for an answer that is read as it comes."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpStatistics:
    """What goes over the connections now, and what went over them so far."""

    in_flight: int = 0
    sent: int = 0


class Connections:
    """Implements `abc.Http`. Opens at the first request, on the loop that makes it, and stays there until closed.

    `client` is an AsyncClient of httpx or httpx2 that is used as it is, for everything, and never closed here. Without
    one, `verify` says whom to trust: an SSLContext, or the path of a file or directory of certificates.
    """

    def __init__(self, client: Any = None, *, connect_seconds: float = CONNECT_SECONDS, verify: Verify = None) -> None:
        self._client = client
        self._connect_seconds, self._verify = connect_seconds, verify
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dialer: Dialer | None = None
        self._ways: dict[tuple[str, Proxy | None], Transport] = {}  # by scheme
        self._lent: dict[Proxy, asyncio.Task[Lent]] = {}
        self._routes: dict[str, Transport] = {}  # by URL: the proxy depends on scheme and host
        self._closed = False
        self._in_flight = 0
        self._sent = 0

    async def send(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None) -> Reply:
        """Exchange one request for one whole answer, whatever its status. Cancelling closes the connection."""
        if self._closed or self._loop is not asyncio.get_running_loop():
            self._open()
        transport = self._routes.get(url) or await self._route(url)
        self._in_flight += 1
        self._sent += 1
        try:
            return await transport.send(method, url, headers, body)
        except ProviderUnreachableError as error:
            if self._closed:
                raise NotOpenError("the connections were closed while a request was on its way") from error
            raise
        finally:
            self._in_flight -= 1

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncGenerator[Streamed]:
        """Exchange one request for an answer that is read as it comes. Leaving before its end closes the connection."""
        if self._closed or self._loop is not asyncio.get_running_loop():
            self._open()
        transport = self._routes.get(url) or await self._route(url)
        self._in_flight += 1
        self._sent += 1
        try:
            async with transport.stream(method, url, headers, body) as answer:
                yield answer
        except ProviderUnreachableError as error:
            if self._closed:
                raise NotOpenError("the connections were closed while an answer was on its way") from error
            raise
        finally:
            self._in_flight -= 1

    def statistics(self) -> HttpStatistics:
        """Count requests now and so far."""
        return HttpStatistics(in_flight=self._in_flight, sent=self._sent)

    async def aclose(self) -> None:
        """Close what was opened here; requests still on their way fail with NotOpenError. Safe to call twice."""
        self._closed = True
        ways, lent = list(self._ways.values()), list(self._lent.values())
        for each in (self._ways, self._lent, self._routes):
            each.clear()
        if self._dialer is not None:
            self._dialer.close()
        for way in ways:
            await way.aclose()
        for opening in lent:
            with suppress(SettingsError):  # it never opened, and whoever asked for it was told
                await (await opening).aclose()

    def _open(self) -> None:
        if self._closed:
            raise NotOpenError("these connections are closed; open a new Tanuki")
        if self._loop is not None:
            raise NotOpenError("these connections belong to another event loop; open a Tanuki on this one")
        self._loop = asyncio.get_running_loop()

    async def _route(self, url: str) -> Transport:
        transport = await self._find_way(split_url(url))
        self._refuse_if_closed()
        if len(self._routes) >= 512:  # URLs with ids in them; models have few others
            self._routes.clear()
        self._routes[url] = transport
        return transport

    def _refuse_if_closed(self) -> None:
        """End a call in whose last wait everything was closed: what it opened now, nobody would close."""
        if self._closed:
            raise NotOpenError("the connections were closed while a request was on its way")

    async def _find_way(self, target: Target) -> Transport:
        if self._client is not None:
            return Lent(self._client)
        proxy = await asyncio.to_thread(find_proxy, target) if proxies_are_named() else None
        foreign = proxy is not None and proxy.scheme != "http"
        self._refuse_if_closed()
        dialer = self._dialer = self._dialer or Dialer(connect_seconds=self._connect_seconds, verify=self._verify)
        trust = await dialer.trust() if foreign or target.scheme == "https" else None
        self._refuse_if_closed()
        if proxy is not None and trust is not None and foreign:
            return await shared(self._open_lent(proxy, trust))
        way = self._ways.get((target.scheme, proxy))
        if way is None:
            http2 = trust is not None and trust.http2
            way = self._ways[target.scheme, proxy] = _open_way(target.scheme, proxy, dialer, http2=http2)
        return way

    def _open_lent(self, proxy: Proxy, trust: Trust) -> asyncio.Task[Lent]:
        """A client of httpx, for a proxy that wants SOCKS or TLS itself; httpx is loaded only then."""
        if proxy not in self._lent:
            opening = asyncio.to_thread(open_lent, proxy, trust.context, self._connect_seconds)
            self._lent[proxy] = asyncio.create_task(opening, name="tanuki_async: open a client for a proxy")
        return self._lent[proxy]


def _open_way(scheme: str, proxy: Proxy | None, dialer: Dialer, *, http2: bool) -> Transport:
    if http2:
        from tanuki_async._pool.http2 import Multiplexed

        return Multiplexed(dialer, proxy)

    def connect(make: Callable[[], Connection], target: Target) -> Awaitable[Connection]:
        return dialer.connect(make, target, proxy)

    if proxy is not None and scheme == "http":
        return Forwarded(Direct(connect, absolute=True), proxy)
    return Direct(connect)
