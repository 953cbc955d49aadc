"""HTTP/2 for the hosts that pick it, HTTP/1.1 for the others. Needs the package h2 (the extra `http2`).

It costs several times the processor time of HTTP/1.1 per exchange, and saves connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from tanuki_async._errors import NotOpenError, ProviderUnreachableError, SettingsError, clip
from tanuki_async._pool import delays
from tanuki_async._pool.dial import Dialer
from tanuki_async._pool.exchange import Exchange
from tanuki_async._pool.origin import Origin
from tanuki_async._pool.parser import MalformedError
from tanuki_async._pool.proxy import Proxy
from tanuki_async._pool.session import Session
from tanuki_async._pool.targets import CutError, Target, malformed, unreachable
from tanuki_async._pool.wire import Connection, Direct
from tanuki_async._records import Reply
from tanuki_async.abc import Streamed


class Multiplexed:
    """Exchanges with https hosts, many over one connection where the server picks HTTP/2."""

    def __init__(self, dialer: Dialer, proxy: Proxy | None) -> None:
        self._dialer, self._proxy = dialer, proxy
        self._direct = Direct(self._connect_plain)
        self._origins: dict[tuple[str, str, int], Origin] = {}
        self._closed = False

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """Exchange one request for one whole answer. ProviderUnreachableError where that fails."""
        target = self._direct.target(url)
        while (exchange := await self._begin(method, target, headers, body, "gzip")) is None:
            try:
                return await self._direct.send(method, url, headers, body)
            except SwitchedError:
                continue
        try:
            return await exchange.reply()
        except CutError as error:
            raise unreachable(target, error) from error
        except MalformedError as error:
            raise malformed(target, error) from error
        finally:
            exchange.leave()

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncGenerator[Streamed]:
        """Exchange one request for an answer that is read as it comes. Resets it unless it was read to its end."""
        target = self._direct.target(url)
        while (exchange := await self._begin(method, target, headers, body, "identity")) is None:
            try:
                async with self._direct.stream(method, url, headers, body) as answer:
                    yield answer
                return
            except SwitchedError:
                continue
        try:
            yield Streamed(exchange.status, exchange.headers, exchange.pieces())
        except CutError as error:
            raise unreachable(target, error) from error
        except MalformedError as error:
            raise malformed(target, error) from error
        finally:
            exchange.leave()

    async def aclose(self) -> None:
        """Close all connections. Requests that are still running fail."""
        self._closed = True
        for origin in list(self._origins.values()):
            await origin.aclose()
        await self._direct.aclose()

    async def _begin(
        self, method: str, target: Target, headers: Mapping[str, str], body: bytes | None, coding: str
    ) -> Exchange | None:
        """Send a request and wait for the head of its answer. None where the host speaks HTTP/1.1 only."""
        head = _head(method, target, headers, body, coding)
        origin = self._origins.get(target.origin) or self._open_origin(target)
        again, began = True, time.monotonic()
        while (session := await origin.place()) is not None:
            if time.monotonic() - began > delays.LATE:
                delays.late.set(True)
            try:
                return await session.begin(head, body)
            except CutError as error:
                if not (again and error.unprocessed):  # else it was left undone, by the server's own word
                    raise unreachable(target, error) from error
                again = False
            except MalformedError as error:
                raise malformed(target, error) from error
        return None

    def _open_origin(self, target: Target) -> Origin:
        async def connect(changed: Callable[[Session], None]) -> Session | Connection:
            made = await self._connect(target, lambda: Connection(self._direct), changed)
            if isinstance(made, Connection):
                self._direct.adopt(made, target)
            return made

        origin = self._origins[target.origin] = Origin(str(target), connect)
        return origin

    async def _connect_plain(self, make: Callable[[], Connection], target: Target) -> Connection:
        """Make a connection for HTTP/1.1. SwitchedError if the host picks HTTP/2 now, unlike the last time."""
        origin = self._origins[target.origin]
        made = await self._connect(target, make, origin.changed)
        if isinstance(made, Session):
            origin.adopt(made)
            raise SwitchedError
        return made

    async def _connect(
        self, target: Target, make: Callable[[], Connection], changed: Callable[[Session], None]
    ) -> Session | Connection:
        made = (await self._dialer.connect(lambda: Undecided(make, changed), target, self._proxy)).picked
        if isinstance(made, Session):
            try:
                await made.wait_greeted(self._dialer.connect_seconds)
            except OSError as error:
                why = clip(str(error)) or f"no HTTP/2 settings within {self._dialer.connect_seconds:g} s"
                raise ProviderUnreachableError(f"cannot connect to {target}: {why}") from error
            if self._closed:
                made.abort()
                raise NotOpenError("the connections were closed while one was being made")
        return made


class SwitchedError(Exception):
    """The host picked HTTP/2 for a connection that was made for HTTP/1.1."""


class Undecided(asyncio.Protocol):
    """A connection until it is known what the server picked; then `picked` has it."""

    picked: Session | Connection

    def __init__(self, plain: Callable[[], Connection], changed: Callable[[Session], None]) -> None:
        self._plain, self._changed = plain, changed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen: Any = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        self.picked = Session(self._changed) if chosen == "h2" else self._plain()
        cast(asyncio.Transport, transport).set_protocol(self.picked)  # uvloop's is one in all but name
        self.picked.connection_made(transport)


def _head(
    method: str, target: Target, headers: Mapping[str, str], body: bytes | None, coding: str
) -> list[tuple[str, str]]:
    head = [(":method", method), (":authority", target.authority), (":scheme", target.scheme), (":path", target.path)]
    head.append(("accept-encoding", coding))
    head += [(name.lower(), value) for name, value in headers.items()]
    if body is not None:
        head.append(("content-length", str(len(body))))
    if any("\r" in text or "\n" in text for pair in head for text in pair):
        raise SettingsError("a header of the request has a line break in its name or value")
    return head
