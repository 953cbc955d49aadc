"""The shared connections of one open Tanuki, and the choice of who makes them.

By default `wire.py`, and httpx where a proxy stands between; or exactly the client that the user gave.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from tanuki_async._errors import NotOpenError, ProviderUnreachableError, SettingsError, TanukiError, clip
from tanuki_async._pool.names import shared
from tanuki_async._pool.wire import CONNECT_SECONDS, Direct, Target, split_url
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

    `client` is an AsyncClient of httpx or httpx2 that is used as it is, for everything, and never closed here.
    """

    def __init__(self, client: Any = None, *, connect_seconds: float = CONNECT_SECONDS) -> None:
        self._client = client
        self._connect_seconds = connect_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._direct: Transport | None = None
        self._proxied: asyncio.Task[Transport] | None = None
        self._routes: dict[str, Transport] = {}  # by beginning of a URL: the proxy depends on scheme and host
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
        direct, proxied, self._direct, self._proxied = self._direct, self._proxied, None, None
        self._routes.clear()
        if direct is not None:
            await direct.aclose()
        if proxied is not None:
            with suppress(SettingsError):  # it never opened, and whoever asked for it was told
                await (await proxied).aclose()

    def _open(self) -> None:
        if self._closed:
            raise NotOpenError("these connections are closed; open a new Tanuki")
        if self._loop is not None:
            raise NotOpenError("these connections belong to another event loop; open a Tanuki on this one")
        self._loop = asyncio.get_running_loop()

    async def _route(self, url: str) -> Transport:
        target = split_url(url)
        proxied = self._client is None and proxies_are_named() and await asyncio.to_thread(wants_proxy, target)
        if self._closed:  # meanwhile: what is opened now, nobody would close
            raise NotOpenError("the connections were closed while a request was on its way")
        if proxied:
            if self._proxied is None:
                opening = asyncio.to_thread(_open_proxied, self._connect_seconds)  # loads much, and certificates
                self._proxied = asyncio.create_task(opening, name="tanuki_async: open a client for proxies")
            transport = await shared(self._proxied)
        else:
            self._direct = self._direct or (
                Lent(self._client) if self._client is not None else Direct(connect_seconds=self._connect_seconds)
            )
            transport = self._direct
        if len(self._routes) >= 512:  # URLs with ids in them; models have few others
            self._routes.clear()
        self._routes[url] = transport
        return transport


class Lent:
    """Exchanges over an AsyncClient of httpx or httpx2. Closes it only if it is `ours`."""

    def __init__(self, client: Any, *, ours: bool = False) -> None:
        self._client = client
        self._ours = ours

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """Exchange one request for one whole answer."""
        try:
            response = await self._client.request(method, url, headers=headers, content=body)
        except Exception as error:  # either library's errors, known by name so that neither need be imported
            ours = self._translated(error)
            if ours is None:
                raise
            raise ours from error
        return Reply(status=response.status_code, headers=dict(response.headers), body=response.content)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncGenerator[Streamed]:
        """Exchange one request for an answer that is read as it comes."""
        plain = {**headers, "accept-encoding": "identity"}
        try:
            async with self._client.stream(method, url, headers=plain, content=body) as response:
                yield Streamed(response.status_code, dict(response.headers), response.aiter_bytes())
        except Exception as error:  # as in `send`; what the reader raises itself is none of theirs, and goes on
            ours = self._translated(error)
            if ours is None:
                raise
            raise ours from error

    async def aclose(self) -> None:
        """Close the client if it is ours."""
        if self._ours:
            await self._client.aclose()

    def _translated(self, error: Exception) -> TanukiError | None:
        if getattr(self._client, "is_closed", False):
            return NotOpenError("the http_client is closed; keep it open for as long as the Tanuki is")
        name = type(error).__name__
        if not any(kind.__name__ in ("RequestError", "InvalidURL") for kind in type(error).__mro__):
            return None
        if name in ("ReadTimeout", "WriteTimeout", "PoolTimeout"):
            return ProviderUnreachableError(
                f"the http_client's own timeout passed ({name}); make it with `timeout=None`, calls have their own"
            )
        return ProviderUnreachableError(f"{name}: {clip(str(error))}" if str(error) else name)


def proxies_are_named() -> bool:
    """Tell whether there may be a proxy at all. Quick; some systems keep settings outside the environment."""
    return sys.platform in ("darwin", "win32") or any(
        value and name.lower().endswith("_proxy") for name, value in os.environ.items()
    )


def wants_proxy(target: Target) -> bool:
    """Tell whether the environment or the system wants a proxy for this target. May take a while."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    return (target.scheme in proxies or "all" in proxies) and not proxy_bypass(target.host)


def _open_proxied(connect_seconds: float) -> Transport:
    import httpx

    try:
        client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=connect_seconds),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        )
    except (ImportError, ValueError) as error:  # a SOCKS proxy without its package, or an address that is none
        raise SettingsError(f"cannot use the proxy that the environment names: {error}") from error
    return Lent(client, ours=True)
