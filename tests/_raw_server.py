"""A server that says exactly the bytes that a test tells it to, HTTP or not."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Self

CLOSE = object()
"""In a list of pieces: close the connection here. Without it, it stays open for the next request."""
ABORT = object()
HANG = object()


def ok(body: bytes = b"{}", *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 200 OK\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


class RawServer:
    """`answer` gets the number of the request and gives the pieces to send, with CLOSE, ABORT or HANG among them."""

    def __init__(
        self, answer: Callable[[int], Iterable[object]] | Iterable[object], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._tls = tls
        self._answer = answer if callable(answer) else lambda _: answer
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed_by_client = asyncio.Event()
        self.asked = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        self.url = f"https://localhost:{port}/v1" if self._tls else f"http://{self.host}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()

    def shut_all(self) -> None:
        """Close every connection for good, before the loop goes on."""
        for writer in self._writers:
            writer.get_extra_info("socket").shutdown(socket.SHUT_WR)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                self.requests.append(head + await reader.readexactly(length))
                self.asked.set()
                for piece in self._answer(len(self.requests)):
                    if piece is CLOSE:
                        writer.close()
                        return
                    if piece is ABORT:
                        writer.transport.abort()
                        return
                    if piece is HANG:
                        await reader.read(1)
                        raise ConnectionResetError
                    assert isinstance(piece, bytes)
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.001)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed_by_client.set()
            writer.close()
