"""One request over HTTP/2 and its answer on its way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, WindowUpdated

from tanuki_async._pool.flow import unpack, unpacker
from tanuki_async._pool.parser import LARGEST_BODY, MalformedError, decompress
from tanuki_async._pool.targets import CutError
from tanuki_async._records import Reply

if TYPE_CHECKING:
    from tanuki_async._pool.session import Session

AHEAD = 2**20
"""Bytes of one answer that may wait to be read before the server is made to wait."""


class Exchange:
    """One of many over a session. Take the whole `reply`, or iterate it for the pieces of the body; then leave it."""

    __slots__ = (
        "_error", "_parts", "_session", "_size", "_unpack", "_wake",
        "began", "ended", "headers", "id", "sent", "status", "unread",
    )  # fmt: skip

    def __init__(self, session: Session, number: int, *, began: int, sent: bool) -> None:
        self._session = session
        self._wake: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._unpack: Any = None
        self.id = number
        self.began = began
        self.sent = sent
        self.ended = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.unread = 0
        """Bytes that came and that the server was not yet told to be taken, padding included."""

    @property
    def settled(self) -> bool:
        """Whether nothing more will come."""
        return self.ended or self._error is not None

    @property
    def over(self) -> bool:
        """Whether both sides have said all, or the server has given it up."""
        return (self.ended and self.sent) or isinstance(self._error, CutError)

    async def head(self) -> None:
        """Wait for status and headers."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self.wait()

    async def reply(self) -> Reply:
        """Wait for the whole answer, its body decompressed."""
        while not self.ended:
            self._take()
            if self._error is not None:
                raise self._error
            await self.wait()
        body = b"".join(self._parts)
        coding = self.headers.get("content-encoding")
        if coding and coding != "identity" and body:
            body = decompress(body, coding)
        return Reply(status=self.status, headers=self.headers, body=body)

    def pieces(self) -> Self:
        """Read the answer in pieces. MalformedError if it is packed in a way that nobody asked for."""
        self._unpack = unpacker(self.headers)
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if self._parts:
                piece = b"".join(self._parts)
                self._parts.clear()
                self._take()
                if plain := unpack(self._unpack, piece):
                    return plain
            elif self.ended:
                raise StopAsyncIteration
            elif self._error is not None:
                raise self._error
            else:
                await self.wait()

    def leave(self) -> None:
        """Let go, whether it is over or not."""
        self._session.leave(self)

    def hear(self, event: ResponseReceived | DataReceived | StreamEnded | StreamReset | WindowUpdated) -> None:
        """Take note of what came for this exchange."""
        match event:
            case ResponseReceived():
                self._read_head(event)
            case DataReceived():
                self._parts.append(event.data or b"")
                self.unread += event.flow_controlled_length or 0
                self._size += len(event.data or b"")
                if self._size > LARGEST_BODY:
                    self.fail(MalformedError(f"it is larger than {LARGEST_BODY} bytes"))
            case StreamEnded():
                self.ended = True
            case StreamReset():
                code = event.error_code or 0
                refused = code == ErrorCodes.REFUSED_STREAM
                why = f"it reset the stream with {name_of(code)}"
                self.fail(CutError(begun=self.status != 0, cause=why, unprocessed=refused))
            case WindowUpdated():
                pass
        self.tell()

    def fail(self, error: Exception) -> None:
        """End with an error, unless it has ended already."""
        if not self.settled:
            self._error = error
        self.tell()

    async def wait(self) -> None:
        """Wait until something has happened."""
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def tell(self) -> None:
        """Wake who waits."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _read_head(self, event: ResponseReceived) -> None:
        for pair in event.headers or ():
            name, value = (part.decode("latin-1") for part in pair)
            if name == ":status":
                self.status = int(value) if value.isascii() and value.isdigit() else 0
            else:
                self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        if not 200 <= self.status <= 599:
            self.fail(MalformedError("its status is no number between 200 and 599"))

    def _take(self) -> None:
        """Tell the server that what came was taken, so that it sends more."""
        if self.unread:
            self._session.acknowledge(self, self.unread)
            self.unread = 0


def name_of(code: int) -> str:
    """What a code of HTTP/2 is called."""
    return ErrorCodes(code).name if code in set(ErrorCodes) else str(code)
