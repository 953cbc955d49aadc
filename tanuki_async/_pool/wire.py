"""HTTP/1.1 straight over asyncio: many small exchanges with few hosts, each cheap, each ended by its cancellation.

A cancelled call closes its connection at once, or the server would go on answering, and billing, unheard. (That is
why this is not left to a client whose requests run on after their caller is gone.) Who connects stands in `dial.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from tanuki_async._errors import SettingsError
from tanuki_async._pool import delays
from tanuki_async._pool.flow import Flow
from tanuki_async._pool.parser import Answer, MalformedError
from tanuki_async._pool.quiet import has_ended
from tanuki_async._pool.rounds import PIECES, Rounds
from tanuki_async._pool.targets import CutError, Target, malformed, split_url, unreachable
from tanuki_async._records import Reply
from tanuki_async.abc import Streamed

IDLE_SECONDS = 55.0  # below the minute after which load balancers commonly forget a silent connection
MANY = 8
"""Exchanges at once from which on their requests are sent together."""
READ_BYTES = 256 * 1024
_KNOWN_URLS = 512


class Direct:
    """Kept-alive connections to any number of hosts, on one event loop.

    Queues nothing, and has no deadline: how many requests there are at once is for the pool to say. `connect` brings
    a connection made by the function that it is given. `absolute` is for a proxy that is told whole URLs.
    """

    def __init__(self, connect: Connect, *, absolute: bool = False) -> None:
        self._dial, self._absolute = connect, absolute
        self._loop = asyncio.get_running_loop()
        self._targets: dict[str, Target] = {}
        self._idle: dict[tuple[str, str, int], dict[Connection, float]] = {}  # newest last
        self._closed = False
        self._outbox = Rounds(self._loop, _write, at_once=0)
        self.inbox = Rounds(self._loop, Connection.answered, at_once=PIECES)
        self.room = memoryview(bytearray(READ_BYTES))
        self.exchanges = 0
        """How many are on their way."""
        self.connections: set[Connection] = set()

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """Exchange one request for one whole answer. ProviderUnreachableError where that fails."""
        target = self._targets.get(url) or self._learn(url)
        request = _encode(method, target, headers, body)
        connection = self._take(target) or await self._connect(target)
        self.exchanges += 1
        try:
            answer = await connection.ask(request, without_body=method == "HEAD")
            reply = answer.reply()
        except BaseException as error:
            connection.transport.abort()
            if isinstance(error, MalformedError):
                raise malformed(target, error) from error
            if isinstance(error, CutError):
                raise unreachable(target, error) from error
            raise
        else:
            if answer.reusable and not connection.lost and not self._closed:
                self._keep(connection, target)
            else:
                connection.transport.abort()
            return reply
        finally:
            self.exchanges -= 1
            connection.asked()

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncGenerator[Streamed]:
        """Exchange one request for an answer that is read as it comes. Closes the connection unless read to its end."""
        target = self._targets.get(url) or self._learn(url)
        connection = await self._begin(target, _encode(method, target.unpacked(), headers, body))
        flow = connection.flow
        assert flow is not None
        try:
            yield Streamed(flow.answer.status, flow.answer.headers, flow)
        except CutError as error:
            raise unreachable(target, error) from error
        except MalformedError as error:
            raise malformed(target, error) from error
        finally:
            connection.flow = None
            if flow.release() and not connection.lost and not self._closed:
                self._keep(connection, target)
            else:
                connection.transport.abort()

    async def _begin(self, target: Target, request: bytes) -> Connection:
        """Send a request and wait for the head of its answer."""
        connection = self._take(target) or await self._connect(target)
        try:
            await connection.begin(request)
        except CutError as error:
            raise unreachable(target, error) from error
        except MalformedError as error:
            raise malformed(target, error) from error
        return connection

    async def aclose(self) -> None:
        """Close all connections. Requests that are still running fail, but for those whose answer is here already."""
        self._closed = True
        for connection in list(self.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the transports say goodbye in the loop's next round
        while self.exchanges:  # noqa: ASYNC110  # each ends by itself within a few rounds
            await asyncio.sleep(0)

    def target(self, url: str) -> Target:
        """Take a URL apart, once."""
        return self._targets.get(url) or self._learn(url)

    def adopt(self, connection: Connection, target: Target) -> None:
        """Keep a connection that was made elsewhere, for the next request."""
        if not connection.lost and not self._closed:
            self._keep(connection, target)

    def post(self, connection: Connection, request: bytes) -> None:
        """Send a request: at once, or with those of all other calls that run in this round of the loop.

        Between the work of two calls, a system call costs both of them what the processor had learnt of that work.
        """
        if self.exchanges < MANY and not self._outbox.waiting:
            connection.transport.write(request)
        else:
            self._outbox.put((connection, request))

    def _learn(self, url: str) -> Target:
        if len(self._targets) >= _KNOWN_URLS:  # URLs with ids in them; models have few others
            self._targets.clear()
        target = self._targets[url] = split_url(url, absolute=self._absolute)
        return target

    def _take(self, target: Target) -> Connection | None:
        """The youngest idle connection that still stands. The others are closed."""
        idle = self._idle.get(target.origin)
        while idle:
            connection, since = idle.popitem()
            seconds = time.monotonic() - since
            if seconds < IDLE_SECONDS and not has_ended(connection.transport, seconds):
                return connection
            connection.transport.abort()
        return None

    def _keep(self, connection: Connection, target: Target) -> None:
        idle = self._idle.setdefault(target.origin, {})
        now = time.monotonic()
        idle[connection] = now
        connection.row = idle
        oldest = next(iter(idle))
        if now - idle[oldest] > IDLE_SECONDS:
            del idle[oldest]
            oldest.transport.abort()

    async def _connect(self, target: Target) -> Connection:
        began = self._loop.time()
        connection = await self._dial(lambda: Connection(self), target)
        if self._loop.time() - began > delays.LATE:
            delays.late.set(True)
        return connection


class Connection(asyncio.BufferedProtocol):
    """One connection; one exchange at a time.

    Reads into room that all share. Else each read would take 256 KiB from the system and give them back: 12 µs.
    """

    def __init__(self, owner: Direct) -> None:
        self._owner = owner
        self._room = owner.room
        self._waiter: asyncio.Future[Answer] | None = None
        self._answer = Answer()
        self._whole = False
        self.flow: Flow | None = None
        """The answer, while it is one that is read in pieces."""
        self.transport: Any = None
        self.lost = False
        self.row: dict[Connection, float] = {}
        """Where it stands while it is idle."""

    def ask(self, request: bytes, *, without_body: bool) -> asyncio.Future[Answer]:
        """Send one request; what is returned waits for its whole answer. Ends with `asked`."""
        if self.lost:
            raise CutError(begun=False, cause=None)
        self._answer = Answer(without_body=without_body)
        self._whole = False
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        self._owner.post(self, request)
        return waiter

    def asked(self) -> None:
        """Wait for nothing any more."""
        self._waiter = None

    async def begin(self, request: bytes) -> None:
        """Send one request and wait for the head of its answer; the rest comes through `flow`."""
        if self.lost:
            raise CutError(begun=False, cause=None)
        self.flow = Flow(self.transport, lambda begun, cause: CutError(begun=begun, cause=cause))
        try:
            self.transport.write(request)
            await self.flow.head()
        except BaseException:
            self.flow = None
            self.transport.abort()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._owner.connections.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._room[:nbytes])
        waiter = self._waiter
        if self.flow is not None and not self.flow.ended:
            self.flow.fed(data)
            return
        if waiter is None or self._whole or waiter.done():
            self.lost = True  # nobody asked: this must not be taken for the answer to the next request
            self.transport.abort()
            return
        try:
            if self._answer.feed(data):
                self._whole = True
                self._owner.inbox.put(self)
        except MalformedError as error:
            waiter.set_exception(error)

    def answered(self) -> None:
        """Let the caller go on with an answer that is whole."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._owner.connections.discard(self)
        self.row.pop(self, None)
        if self.flow is not None:
            self.flow.lost(exc)
        waiter = self._waiter
        if waiter is None or self._whole or waiter.done():
            return
        if exc is None and self._answer.ends_with_connection:
            waiter.set_result(self._answer)
        else:
            waiter.set_exception(CutError(begun=self._answer.begun, cause=exc))


def _write(posted: tuple[Connection, bytes]) -> None:
    connection, request = posted
    if not connection.transport.is_closing():  # else its caller was cancelled meanwhile
        connection.transport.write(request)


class _Request(bytes):
    """What is sent. Holds a key, so a traceback that shows variables must not show it."""

    def __repr__(self) -> str:
        return f"<request of {len(self)} bytes>"


def _encode(method: str, target: Target, headers: Mapping[str, str], body: bytes | None) -> bytes:
    lines = [method, target.start]
    for name, value in headers.items():
        lines += (name, ": ", value, "\r\n")
    text = "".join(lines)
    if text.count("\n") != len(headers) + 3 or text.count("\r") != len(headers) + 3:
        raise SettingsError("a header of the request has a line break in its name or value")
    if body is None:
        return _Request(f"{text}\r\n".encode("latin-1"))
    return _Request(f"{text}content-length: {len(body)}\r\n\r\n".encode("latin-1") + body)


Connect: TypeAlias = Callable[[Callable[[], Connection], Target], Awaitable[Connection]]
