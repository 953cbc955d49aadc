"""A proxy before a server: it answers 503 itself, or cuts the connection before or after the server has done its work."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Faults:
    """Does `plan`, one kind per request, then one of `kinds` at each `every`-th request; an empty kind does nothing."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = parts.hostname, parts.port
        self.plan: list[str] = []
        self.kinds = ["503", "cut before", "cut after"]
        self.every = 0
        self.done: list[str] = []
        self.requests: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def _next(self) -> str:
        if self.plan:
            return self.plan.pop(0)
        if self.every and len(self.requests) % self.every == 0:
            return self.kinds[len(self.done) % len(self.kinds)]
        return ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b"100-continue" in head.lower():
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(_length(head))
                self.requests.append(head)
                kind = self._next()
                if kind:
                    self.done.append(kind)
                if kind == "cut before":
                    break
                if kind == "503":
                    writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n" % len(SLOW_DOWN) + SLOW_DOWN)
                    continue
                answer = await self._ask(head, body)
                if kind == "cut after":
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._target)
        try:
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"expect:"))]
            writer.write(b"\r\n".join([*lines[:-2], b"Connection: close", b"", b""]) + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            return answer + await reader.readexactly(0 if head.startswith(b"HEAD") else _length(answer))
        finally:
            writer.close()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
