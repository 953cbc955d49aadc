"""Just enough of HTTP/1.1, server side, to speak with real clients: keep-alive, lengths and chunks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import cast

MAX_HEAD = 64 * 1024
MAX_BODY = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request as it came: header names in lower case, the body whole, the path without its query."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool


class BadRequestError(Exception):
    """The bytes are not a request; `status` says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    length: int | None  # None: the body comes in chunks
    keep_alive: bool


@lru_cache(maxsize=256)  # a client repeats its head byte for byte
def _parse_head(head: bytes) -> _Head:
    first, *rest = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequestError(400, f"not a request line: {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in rest:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequestError(400, f"not a header: {line[:80]!r}")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    path, _, query = parts[1].partition("?")
    options = headers.get("connection", "").lower()
    keep_alive = "close" not in options if parts[2] == "HTTP/1.1" else "keep-alive" in options
    return _Head(parts[0], path, query, headers, _length(headers), keep_alive)


def _length(headers: Mapping[str, str]) -> int | None:
    if (coding := headers.get("transfer-encoding")) is not None:
        if coding.lower() != "chunked" or "content-length" in headers:
            raise BadRequestError(400, f"transfer-encoding {coding!r} is not understood here")
        return None
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise BadRequestError(400, f"not a content-length: {text[:80]!r}")
    if int(text) > MAX_BODY:
        raise BadRequestError(413, "the body is too large")
    return int(text)


class RequestParser:
    """Makes requests out of bytes, however they are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._chunks: list[bytes] = []
        self._trailer = False

    def feed(self, data: bytes) -> None:
        """Add what came."""
        self._buffer += data

    def next_request(self) -> HttpRequest | None:
        """Take the next whole request, or None until more came."""
        if self._head is None and not self._take_head():
            return None
        head = self._head
        assert head is not None
        body = self._take_chunked() if head.length is None else self._take(head.length)
        if body is None:
            return None
        self._head = None
        return HttpRequest(head.method, head.path, head.query, head.headers, body, head.keep_alive)

    def _take_head(self) -> bool:
        while self._buffer.startswith(b"\r\n"):  # some clients end a body with a line break too many
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD or (end < 0 and len(self._buffer) > MAX_HEAD):
            raise BadRequestError(431, "the headers are too large")
        if end < 0:
            return False
        self._head = _parse_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        return True

    def _take(self, length: int) -> bytes | None:
        if len(self._buffer) < length:
            return None
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def _take_chunked(self) -> bytes | None:
        while (line := self._buffer.find(b"\r\n")) >= 0:
            if self._trailer:
                del self._buffer[: line + 2]
                if line == 0:
                    body, self._chunks, self._trailer = b"".join(self._chunks), [], False
                    return body
                continue
            size = _chunk_size(bytes(self._buffer[:line]))
            if size == 0:
                del self._buffer[: line + 2]
                self._trailer = True
                continue
            if len(self._buffer) < line + 2 + size + 2:
                return None
            self._chunks.append(bytes(self._buffer[line + 2 : line + 2 + size]))
            del self._buffer[: line + 2 + size + 2]
        return None


def _chunk_size(line: bytes) -> int:
    try:
        size = int(line.partition(b";")[0], 16)
    except ValueError:
        raise BadRequestError(400, f"not the size of a chunk: {line[:80]!r}") from None
    if not 0 <= size <= MAX_BODY:
        raise BadRequestError(413, "a chunk is too large")
    return size


@lru_cache(maxsize=1024)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def encode_response(status: int, headers: Mapping[str, str], body: bytes, *, keep_alive: bool = True) -> bytes:
    """Write a whole response."""
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    tail = (
        f"content-length: {len(body)}\r\n\r\n"
        if keep_alive
        else f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return b"".join((_status_line(status), fields.encode("latin-1"), tail.encode(), body))


class HttpConnection(asyncio.Protocol):
    """One client's connection: hands over its requests one at a time, the next when the last is answered."""

    def __init__(
        self,
        on_request: Callable[[HttpConnection, HttpRequest], None],
        on_change: Callable[[HttpConnection, bool], None],
    ) -> None:
        self._on_request, self._on_change = on_request, on_change
        self._parser = RequestParser()
        self._transport: asyncio.Transport | None = None
        self._current: HttpRequest | None = None
        self.on_lost: Callable[[], None] | None = None
        """Called when the client goes away while its request is being answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the new connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._on_change(self, True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._transport = None
        self._on_change(self, False)
        if self.on_lost is not None:
            lost, self.on_lost = self.on_lost, None
            lost()

    def data_received(self, data: bytes) -> None:
        """Take bytes, and hand over a request when it is whole."""
        self._parser.feed(data)
        if self._current is None:
            self._hand_over()

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Answer the current request with a body that comes in chunks: `chunk`, as often as needed, then `end`."""
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        self.write(_status_line(status) + f"{fields}transfer-encoding: chunked\r\n\r\n".encode("latin-1"))

    def chunk(self, data: bytes) -> None:
        """Send a part of the body."""
        self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """End the body, and go on with the next request."""
        self.write(b"0\r\n\r\n")
        self._next()

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer the current request, and go on with the next."""
        keep_alive = self._current is None or self._current.keep_alive
        self.write(encode_response(status, headers, body, keep_alive=keep_alive))
        self._next()

    def _next(self) -> None:
        keep_alive = self._current is None or self._current.keep_alive
        self._current = None
        self.on_lost = None
        if keep_alive:
            self._hand_over()
        else:
            self.close()

    def write(self, data: bytes) -> None:
        """Send bytes as they are; nothing once the client is gone."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self, *, at_once: bool = False) -> None:
        """Close after what was written, or `at_once` without it."""
        if self._transport is not None:
            if at_once:
                self._transport.abort()
            else:
                self._transport.close()

    def _hand_over(self) -> None:
        try:
            request = self._parser.next_request()
        except BadRequestError as error:
            self.write(encode_response(error.status, {}, error.message.encode(), keep_alive=False))
            self.close()
            return
        if request is not None:
            self._current = request
            self._on_request(self, request)
