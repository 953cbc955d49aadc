"""A proxy on this machine that connects (CONNECT), forwards (absolute URLs) or speaks SOCKS5, and may refuse."""

from __future__ import annotations

import asyncio
import ssl
from typing import Self
from urllib.parse import urlsplit


class LoopbackProxy:
    """`password` is what it wants to hear as `user:password` in base64; `refuses` a status that it answers with."""

    def __init__(
        self, *, password: str = "", refuses: int = 0, says: bytes | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._password, self._refuses, self._says, self._tls = password, refuses, says, tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.heads: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.closed_by_client = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.host = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if (first := await reader.readexactly(1)) == b"\x05":
                await self._socks(reader, writer)
            head = first + await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            self.asked.set()
            if self._says is not None:
                writer.write(self._says)
                await reader.read()
            elif status := self._refusal(head):
                writer.write(f"HTTP/1.1 {status} No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno".encode())
                await reader.read()
            elif head.startswith(b"CONNECT "):
                host, _, port = head.split()[1].decode().rpartition(":")
                await self._join(reader, writer, host, int(port), b"HTTP/1.1 200 Fine\r\n\r\n", b"")
            else:
                await self._join(reader, writer, *_forwarded(head))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed_by_client.set()
            writer.transport.abort()

    def _refusal(self, head: bytes) -> int:
        wanted = f"proxy-authorization: Basic {self._password}\r\n".encode()
        return 407 if self._password and wanted not in head else self._refuses

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly((await reader.readexactly(1))[0])
        writer.write(b"\x05\x00")
        *_, kind, size = await reader.readexactly(5)
        assert kind == 3
        host, port = (await reader.readexactly(size)).decode(), int.from_bytes(await reader.readexactly(2), "big")
        self.heads.append(f"SOCKS {host}:{port}".encode())
        await self._join(reader, writer, host, port, b"\x05\x00\x00\x01\0\0\0\0\0\0", b"")

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, said: bytes, sent: bytes
    ) -> None:
        there, back = await asyncio.open_connection(host, port)
        writer.write(said)
        back.write(sent)
        copies = [asyncio.ensure_future(_copy(*way)) for way in ((reader, back), (there, writer))]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            back.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def _forwarded(head: bytes) -> tuple[str, int, bytes, bytes]:
    """Where to, and the head as the server wants it. What follows on the connection is copied as it is."""
    first, *lines = head.decode().split("\r\n")
    method, url, version = first.split()
    parts = urlsplit(url)
    lines = [line for line in lines if not line.lower().startswith("proxy-")]
    rest = "\r\n".join([f"{method} {parts.path}?{parts.query} {version}", *lines])
    return str(parts.hostname), parts.port or 80, b"", rest.encode()
