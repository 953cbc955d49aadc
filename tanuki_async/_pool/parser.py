"""Reads one HTTP/1.1 answer out of the pieces in which it arrives. Pure: no await, no I/O."""

from __future__ import annotations

import zlib

from tanuki_async._errors import clip
from tanuki_async._records import Reply

LARGEST_HEAD = 256 * 1024
LARGEST_BODY = 2**27

_UNTIL_CLOSED = -1
_CHUNKED = -2
_HEX = frozenset(b"0123456789abcdefABCDEF")


class MalformedError(Exception):
    """What arrived is not an HTTP/1.1 answer."""


class Answer:
    """One answer on its way: feed it pieces until it says that it is whole."""

    __slots__ = ("_chunks", "_parts", "_raw", "_received", "_size", "_without_body", "headers", "reusable", "status")

    def __init__(self, *, without_body: bool = False) -> None:
        self._without_body = without_body  # the answer to HEAD
        self._raw = b""
        self._parts: list[bytes] = []
        self._size = 0  # bytes of the body still to come, or how its end will be known
        self._received = 0  # where its end is not known before
        self._chunks: Chunks | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.reusable = False

    @property
    def begun(self) -> bool:
        """Whether anything has arrived."""
        return bool(self._raw) or self.status != 0

    @property
    def ends_with_connection(self) -> bool:
        """Whether the closing of the connection is the regular end of this answer."""
        return self.status != 0 and self._size == _UNTIL_CLOSED

    def feed(self, data: bytes) -> bool:
        """Take the next piece; True when the answer is whole. MalformedError when it cannot be one."""
        if self.status:
            return self._feed_body(data)
        raw = self._raw + data if self._raw else data
        while True:
            end = raw.find(b"\r\n\r\n")
            if end < 0:
                if len(raw) > LARGEST_HEAD:
                    raise MalformedError("its headers never end")
                if b"\n\n" in raw:
                    raise MalformedError("its lines end without a carriage return")
                if not b"HTTP/1.".startswith(raw[:7]):
                    raise MalformedError(f"it begins with {clip(repr(raw), 60)}")
                self._raw = raw
                return False
            status = self._read_head(raw[:end])
            raw = raw[end + 4 :]
            if status == 101:
                raise MalformedError("it switches to a protocol that nobody asked for")
            if not 100 <= status <= 199:
                break  # the others are notes in advance; the answer follows
        self.status = status
        self._raw = b""
        self._frame()
        return self._feed_body(raw)

    @property
    def waiting(self) -> int:
        """Bytes of the body that have come and were not taken."""
        return len(self._chunks.body) if self._chunks else sum(map(len, self._parts))

    def take(self) -> bytes:
        """Return what has come of the body since the last time, as it was sent, for whoever reads it in pieces."""
        if self._chunks:
            piece = bytes(self._chunks.body)
            self._chunks.body.clear()
        else:
            piece = b"".join(self._parts)
            self._parts.clear()
        return piece

    def reply(self) -> Reply:
        """The whole answer, its body decompressed."""
        body = bytes(self._chunks.body) if self._chunks else b"".join(self._parts)
        coding = self.headers.get("content-encoding")
        if coding and coding != "identity" and body:
            body = decompress(body, coding)
        return Reply(status=self.status, headers=self.headers, body=body)

    def _read_head(self, head: bytes) -> int:
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        code = rest[:3]
        if not version.startswith("HTTP/1.") or len(code) != 3 or not (code.isascii() and code.isdigit()):
            raise MalformedError(f"it begins with {clip(first, 60)!r}")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name[-1] in " \t" or name[0] in " \t":
                raise MalformedError(f"it has the header line {clip(line, 60)!r}")
            name, value = name.lower(), value.strip(" \t")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self.headers = headers
        connection = headers.get("connection", "").lower()
        self.reusable = "close" not in connection and (version == "HTTP/1.1" or "keep-alive" in connection)
        return int(code)

    def _frame(self) -> None:
        """Find out how the end of the body will be known."""
        headers = self.headers
        if self._without_body or self.status in (204, 304):
            self._size = 0
        elif coding := headers.get("transfer-encoding"):
            if coding.lower() != "chunked":
                raise MalformedError(f"its transfer-encoding is {clip(coding, 60)!r}")
            self._size, self._chunks = _CHUNKED, Chunks()
            self.reusable = self.reusable and "content-length" not in headers
        elif (length := headers.get("content-length")) is not None:
            lengths = {part.strip() for part in length.split(",")}
            only = lengths.pop()
            if lengths or not (only.isascii() and only.isdigit()) or len(only) > 12 or int(only) > LARGEST_BODY:
                raise MalformedError(f"its content-length is {clip(length, 60)!r}")
            self._size = int(only)
        else:
            self._size, self.reusable = _UNTIL_CLOSED, False

    def _feed_body(self, data: bytes) -> bool:
        if self._chunks is not None:
            whole = self._chunks.feed(data)
            if whole and self._chunks.beyond:
                self.reusable = False
            return whole
        if self._size == _UNTIL_CLOSED:
            self._parts.append(data)
            self._received += len(data)
            if self._received > LARGEST_BODY:
                raise MalformedError(f"it is larger than {LARGEST_BODY} bytes")
            return False
        if len(data) > self._size:
            self.reusable = False  # bytes that nobody asked for
            data = data[: self._size]
        self._parts.append(data)
        self._size -= len(data)
        return self._size == 0


class Chunks:
    """Takes the chunked transfer coding apart."""

    __slots__ = ("_left", "_raw", "_state", "body")

    def __init__(self) -> None:
        self._raw = bytearray()
        self._state = "size"  # size, data, gap, trailer
        self._left = 0
        self.body = bytearray()

    @property
    def beyond(self) -> bool:
        """Whether more has arrived than the body."""
        return bool(self._raw)

    def feed(self, data: bytes) -> bool:
        """Take the next piece; True when the body is whole."""
        raw = self._raw
        raw += data
        while True:
            if self._state == "data":
                piece = raw[: self._left]
                self.body += piece
                del raw[: len(piece)]
                self._left -= len(piece)
                if self._left:
                    return False
                self._state = "gap"
            end = raw.find(b"\r\n")
            if end < 0:
                if len(raw) > LARGEST_HEAD:
                    raise MalformedError("a chunk of it has no size")
                return False
            line = bytes(raw[:end])
            del raw[: end + 2]
            if self._line(line):
                return True

    def _line(self, line: bytes) -> bool:
        if self._state == "trailer":
            return not line
        if self._state == "gap":
            if line:
                raise MalformedError("a chunk of it is longer than it says")
            self._state = "size"
            return False
        size = line.partition(b";")[0].strip()
        if not size or len(size) > 12 or not _HEX.issuperset(size):
            raise MalformedError(f"a chunk of it has the size {clip(repr(size), 60)}")
        self._left = int(size, 16)
        if len(self.body) + self._left > LARGEST_BODY:
            raise MalformedError(f"it is larger than {LARGEST_BODY} bytes")
        self._state = "data" if self._left else "trailer"
        return False


def decompress(body: bytes, coding: str) -> bytes:
    """Undo gzip or deflate. MalformedError where the bytes are something else."""
    if coding.lower() not in ("gzip", "x-gzip", "deflate"):
        raise MalformedError(f"its content-encoding is {clip(coding, 60)!r}, which nobody asked for")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, whichever it is
    try:
        plain = unpacker.decompress(body, LARGEST_BODY)
    except zlib.error as error:
        raise MalformedError(f"its content-encoding is {coding!r}, but it does not decompress") from error
    if not unpacker.eof:
        raise MalformedError("its compressed body is cut off or far too large")
    return plain
