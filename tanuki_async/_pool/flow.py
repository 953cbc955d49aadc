"""One answer that is read in pieces, as they come, over a connection of `wire.py`."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Self

from tanuki_async._pool.parser import LARGEST_BODY, Answer, MalformedError

AHEAD = 256 * 1024
"""Bytes that may wait to be read before the server is made to wait."""


class Flow:
    """An answer on its way. Iterate it for the pieces of its body once `head` has returned.

    A reader that is slow slows the server down: the socket is not read while much waits.
    """

    def __init__(self, transport: Any, broken: Callable[[bool, Exception | None], Exception]) -> None:
        self._transport, self._broken = transport, broken
        self._wake: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._paused = False
        self._unpack: Any = None
        self.answer = Answer()
        self.ended = False

    async def head(self) -> None:
        """Wait for status and headers."""
        while not self.answer.status:
            if self._error is not None:
                raise self._error
            await self._wait()
        self._unpack = unpacker(self.answer.headers)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if piece := self.answer.take():
                self._resume()
                if plain := unpack(self._unpack, piece):
                    return plain
            elif self._error is not None:
                raise self._error
            elif self.ended:
                raise StopAsyncIteration
            else:
                await self._wait()

    def fed(self, data: bytes) -> None:
        """Take what has arrived."""
        try:
            self.ended = self.answer.feed(data)
        except MalformedError as error:
            self._error = error
        if self.answer.waiting > AHEAD and not self._paused and not self._transport.is_closing():
            self._transport.pause_reading()
            self._paused = True
        self._tell()

    def lost(self, error: Exception | None) -> None:
        """Take note that the connection has gone."""
        if error is None and self.answer.ends_with_connection:
            self.ended = True
        elif not self.ended and self._error is None:
            self._error = self._broken(self.answer.begun, error)
        self._tell()

    def release(self) -> bool:
        """Stop. True if the answer was read to its end and the connection may serve another."""
        self._resume()
        return self.ended and self.answer.reusable and self._error is None and not self.answer.waiting

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    async def _wait(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _tell(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def unpacker(headers: Mapping[str, str]) -> Any:
    """What undoes the compression of an answer, or None. MalformedError where nobody asked for it and we cannot."""
    coding = headers.get("content-encoding", "identity").lower()
    if coding in ("gzip", "x-gzip", "deflate"):  # some do not ask what is accepted
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    if coding != "identity":
        raise MalformedError(f"its content-encoding is {coding[:60]!r}, which nobody asked for")
    return None


def unpack(unpacker: Any, piece: bytes) -> bytes:
    """Undo the compression of a piece, if there is any. MalformedError where the bytes are something else."""
    if unpacker is None:
        return piece
    try:
        plain: bytes = unpacker.decompress(piece, LARGEST_BODY)
    except zlib.error as error:
        raise MalformedError("it does not decompress") from error
    return plain
