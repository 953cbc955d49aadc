"""A server on 127.0.0.1 that takes connections on the running loop, or on one of its own in a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tanuki_async.testing._http import HttpConnection, HttpRequest


class Listening(ABC):
    """Takes connections until it is closed, which cuts what is open and ends what is still being answered."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._open: set[HttpConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections_made = 0

    @abstractmethod
    def _on_request(self, connection: HttpConnection, request: HttpRequest) -> None:
        """Answer one request, now or in a task among `_tasks`."""

    @abstractmethod
    def raise_failure(self) -> None:
        """Raise the first thing that went wrong, once."""

    @property
    def url(self) -> str:
        """The base URL that a client is given; ends in /v1."""
        if self._port == 0:
            raise RuntimeError("the server has no address yet: write `async with LoopbackServer(...) as server:`")
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._open)

    async def start(self) -> None:
        """Listen."""
        if self._server is not None:
            raise RuntimeError("the server is running")
        self._server = await asyncio.get_running_loop().create_server(self._connect, sock=self._bind(), backlog=4096)

    async def aclose(self) -> None:
        """Stop listening and cut what is open. Safe to call twice."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for connection in list(self._open):
            connection.close(at_once=True)
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
        if kind is None:
            self.raise_failure()

    @contextmanager
    def _on_own_loop(self) -> Generator[None]:
        """Run on an event loop of its own, in a thread. Entering never waits; leaving does."""
        self._socket = self._bind()  # clients may connect from now on
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="tanuki-loopback", daemon=True)
        started = asyncio.run_coroutine_threadsafe(self.start(), loop)
        thread.start()
        try:
            yield
        finally:
            started.result()
            asyncio.run_coroutine_threadsafe(self.aclose(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _bind(self) -> socket.socket:
        bound, self._socket = self._socket, None
        if bound is None:
            bound = socket.create_server(("127.0.0.1", self._port), backlog=4096)
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a stream's second piece waits for nothing
            self._port = bound.getsockname()[1]
        return bound

    def _connect(self) -> HttpConnection:
        return HttpConnection(self._on_request, self._on_change)

    def _on_change(self, connection: HttpConnection, opened: bool) -> None:
        if opened:
            self._open.add(connection)
            self.connections_made += 1
        else:
            self._open.discard(connection)
