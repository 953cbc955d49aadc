"""One HTTP/2 connection, over which many exchanges go at once. Needs the package h2 (the extra `http2`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from tanuki_async._errors import own
from tanuki_async._pool.exchange import AHEAD, Exchange, name_of
from tanuki_async._pool.goodbyes import Goodbyes
from tanuki_async._pool.parser import MalformedError
from tanuki_async._pool.quiet import has_ended
from tanuki_async._pool.targets import CutError

ANSWER_SECONDS = 5.0  # in which a server must say anything at all, where there is doubt that it still listens
LAST_ID = 2**31 - 3


class Session(asyncio.Protocol):
    """One connection. Whoever has taken a place on it may begin one exchange; `changed` hears when places get free.

    An exchange that is left before its end is reset, so that the server stops working on it; the others go on.
    """

    def __init__(self, changed: Callable[[Session], None]) -> None:
        self._changed = changed
        self._http = _speaker()
        self._goodbyes = Goodbyes()
        self._exchanges: dict[int, Exchange] = {}
        self._transport: Any = None
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushing = False
        self._full = False  # more was written than the socket takes
        self._heard = 0  # how often anything came
        self._doubt: asyncio.TimerHandle | None = None
        self._leaving = False
        self.taken = 0
        self.lost = False
        self.idle_since = time.monotonic()

    @property
    def places(self) -> int:
        """How many exchanges the server takes at once."""
        return self._http.remote_settings.max_concurrent_streams

    @property
    def is_open(self) -> bool:
        """Whether exchanges may still begin."""
        return not (self.lost or self._leaving)

    @property
    def has_room(self) -> bool:
        return self.is_open and self.taken < self.places

    def take(self) -> None:
        """Take a place."""
        self.taken += 1

    def give_back(self) -> None:
        """Give a place back."""
        self.taken -= 1
        if not self.taken:
            self.idle_since = time.monotonic()
            if self._leaving:
                self.close()
        self._changed(self)

    def has_ended(self, now: float) -> bool:
        """Whether it was closed while nothing was on its way, perhaps unheard."""
        return self.lost or has_ended(self._transport, now - self.idle_since)

    async def wait_greeted(self, seconds: float) -> None:
        """Wait until the server has told its settings. OSError, which TimeoutError is, where it does not."""
        try:
            async with asyncio.timeout(seconds):
                await self._greeted
        except BaseException:
            self.abort()
            raise
        if self.lost:
            raise ConnectionError("it closed the connection before it began to speak HTTP/2")

    async def begin(self, head: Sequence[tuple[str, str]], body: bytes | None) -> Exchange:
        """Send a request, on a place that was taken, and wait for the head of its answer. Then: `exchange.leave()`."""
        exchange = self._open(head, body)
        try:
            if body:
                await self._upload(exchange, body)
            await exchange.head()
        except BaseException:
            exchange.leave()
            raise
        return exchange

    def leave(self, exchange: Exchange) -> None:
        """End an exchange, whole or not, and give its place back."""
        del self._exchanges[exchange.id]
        if not self.lost:
            self._http.acknowledge_received_data(exchange.unread, exchange.id)
            if not exchange.over:
                with suppress(StreamClosedError):
                    self._http.reset_stream(exchange.id, ErrorCodes.CANCEL)
                self._ask_whether_it_lives(exchange.began)
            self._flush_soon()
        self.give_back()

    def acknowledge(self, exchange: Exchange, size: int) -> None:
        """Let the server send `size` more bytes."""
        if not self.lost:
            self._http.acknowledge_received_data(size, exchange.id)
            self._flush_soon()

    def close(self) -> None:
        """Say goodbye and close."""
        if not self.lost:
            with suppress(ProtocolError):
                self._http.close_connection()
                self._flush()
        self.abort()

    def abort(self) -> None:
        """Close without a word."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._http.initiate_connection()
        self._http.increment_flow_control_window(2**30)  # who reads slowly is held up alone, by its own window
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._heard += 1
        try:
            for event in self._http.receive_data(self._goodbyes.sift(data)):
                self._hear(event)
        except ProtocolError as error:
            self._break(MalformedError(f"it breaks the rules of HTTP/2: {error}"))
            return
        for last, code in self._goodbyes.take():
            self._part(last, code)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._doubt is not None:
            self._doubt.cancel()
        if not self._greeted.done():
            self._greeted.set_result(None)
        for exchange in self._exchanges.values():
            exchange.fail(CutError(begun=exchange.status != 0, cause=exc))
        self._changed(self)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._tell_all()

    def _open(self, head: Sequence[tuple[str, str]], body: bytes | None) -> Exchange:
        try:
            if self.lost:
                raise CutError(begun=False, unprocessed=True)
            number = self._http.get_next_available_stream_id()
            self._http.send_headers(number, head, end_stream=not body)
        except ProtocolError as error:  # fewer at once than a moment ago
            self.give_back()
            raise CutError(begun=False, cause=error, unprocessed=True) from error
        except BaseException:
            self.give_back()
            raise
        self._flush_soon()
        self._leaving = self._leaving or number >= LAST_ID
        exchange = self._exchanges[number] = Exchange(self, number, began=self._heard, sent=not body)
        return exchange

    async def _upload(self, exchange: Exchange, body: bytes) -> None:
        rest = memoryview(body)
        while rest and not exchange.settled:
            room = min(self._http.local_flow_control_window(exchange.id), self._http.max_outbound_frame_size)
            if room <= 0 or self._full:
                await exchange.wait()
                continue
            piece, rest = rest[:room], rest[room:]
            self._http.send_data(exchange.id, piece, end_stream=not rest)
            self._flush()
        exchange.sent = not rest

    def _hear(self, event: Event) -> None:
        match event:
            case RemoteSettingsChanged():
                if not self._greeted.done():
                    self._greeted.set_result(None)
                self._tell_all()
                self._changed(self)
            case WindowUpdated(stream_id=0):
                self._tell_all()
            case ResponseReceived() | DataReceived() | StreamEnded() | StreamReset() | WindowUpdated():
                if exchange := self._exchanges.get(event.stream_id or 0):
                    exchange.hear(event)
            case _:
                pass

    def _part(self, last: int, code: int) -> None:
        """The server takes no more exchanges, and none after `last` that were sent: those may go elsewhere."""
        self._leaving = True
        why = f"it says goodbye with {name_of(code)}"
        for exchange in self._exchanges.values():
            if exchange.id > last:
                exchange.fail(CutError(begun=False, cause=why, unprocessed=True))
        if not self.taken:
            self.close()
        self._changed(self)

    def _break(self, error: MalformedError) -> None:
        for exchange in self._exchanges.values():
            exchange.fail(own(error))
        self._flush()
        self.abort()

    def _ask_whether_it_lives(self, began: int) -> None:
        """Close soon if nothing comes: many calls would wait for a server that is gone, each until its own end."""
        if self._heard == began and self._doubt is None:
            self._http.ping(b"tanuki??")
            loop = asyncio.get_running_loop()
            self._doubt = loop.call_later(ANSWER_SECONDS, self._judge, self._heard)

    def _judge(self, heard: int) -> None:
        self._doubt = None
        if self._heard == heard:
            self.abort()

    def _tell_all(self) -> None:
        for exchange in self._exchanges.values():
            exchange.tell()

    def _flush_soon(self) -> None:
        """Write at the end of this round of the loop, together with what other calls have to say in it."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if (data := self._http.data_to_send()) and not self._transport.is_closing():
            self._transport.write(data)


def _speaker() -> H2Connection:
    speaker = H2Connection(H2Configuration(client_side=True))
    wishes = {
        SettingCodes.ENABLE_PUSH: 0,
        SettingCodes.INITIAL_WINDOW_SIZE: AHEAD,
        SettingCodes.MAX_HEADER_LIST_SIZE: H2Connection.DEFAULT_MAX_HEADER_LIST_SIZE,
    }
    speaker.local_settings = Settings(client=True, initial_values=wishes)
    return speaker
