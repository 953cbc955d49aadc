"""An HTTP/2 server under TLS whose answers, faults and limits a test decides, stream by stream."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, PingAckReceived, RequestReceived, StreamEnded, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

CERTIFICATE = Path(__file__).parent / "fixtures" / "tls" / "localhost.pem"


def tls(*protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    context.set_alpn_protocols(list(protocols))
    return context


class Asked(asyncio.Protocol):
    """One connection. `answer(asked, number, stream)` is called when the request `number` is whole."""

    def __init__(self, server: H2Server) -> None:
        self.server = server
        self.http = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        wishes = {SettingCodes.MAX_CONCURRENT_STREAMS: server.places}
        self.http.local_settings = Settings(client=False, initial_values=wishes)
        self.headers: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.unsent: dict[int, memoryview] = {}
        self.pings = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.server.connections.append(self)
        if not self.server.silent:
            self.http.initiate_connection()
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.ended += 1

    def data_received(self, data: bytes) -> None:
        self.server.heard = True
        if self.server.silent:
            return
        with suppress(ProtocolError):
            for event in self.http.receive_data(data):
                self.hear(event)
        self.flush()

    def hear(self, event: object) -> None:
        match event:
            case RequestReceived():
                self.headers[event.stream_id] = dict(event.headers)
                self.bodies[event.stream_id] = bytearray()
            case DataReceived():
                self.bodies[event.stream_id] += event.data
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                self.server.requests.append((self.headers[event.stream_id], bytes(self.bodies[event.stream_id])))
                self.server.answer(self, len(self.server.requests), event.stream_id)
            case StreamReset():
                self.server.resets.append(int(event.error_code))
                self.server.reset.set()
            case PingAckReceived():
                self.pings += 1
            case WindowUpdated():
                for stream in list(self.unsent):
                    self.pump(stream)

    def reply(self, stream: int, body: bytes = b"{}", *, end: bool = True, **headers: str) -> None:
        more = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.http.send_headers(stream, [(":status", "200"), *more])
        self.send(stream, body, end=end)

    def send(self, stream: int, body: bytes, *, end: bool = True) -> None:
        self.unsent[stream] = memoryview(body)
        self.pump(stream, end=end)

    def pump(self, stream: int, *, end: bool = True) -> None:
        """Send as much as the windows let through; the rest when they open."""
        rest = self.unsent.pop(stream)
        with suppress(ProtocolError):  # it was reset meanwhile
            while True:
                room = min(self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size, len(rest))
                if rest and not room:
                    self.unsent[stream] = rest
                    break
                piece, rest = rest[:room], rest[room:]
                self.http.send_data(stream, bytes(piece), end_stream=end and not rest)
                self.server.sent += len(piece)
                if not rest:
                    break
        self.flush()

    def goodbye(self, last: int, code: int = 0) -> None:
        """Write GOAWAY by hand: h2 would end the connection for us."""
        self.flush()
        payload = last.to_bytes(4, "big") + code.to_bytes(4, "big")
        self.transport.write(len(payload).to_bytes(3, "big") + b"\x07\x00" + b"\0\0\0\0" + payload)

    def flush(self) -> None:
        self.transport.write(self.http.data_to_send())


class H2Server:
    """`answer` defaults to `{}` with status 200."""

    def __init__(
        self,
        answer: Callable[[Asked, int, int], None] = lambda asked, number, stream: asked.reply(stream),
        *,
        places: int = 100,
        silent: bool = False,
        protocols: tuple[str, ...] = ("h2",),
    ) -> None:
        self.answer, self.places, self.silent, self._protocols = answer, places, silent, protocols
        self.connections: list[Asked] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.resets: list[int] = []
        self.reset = asyncio.Event()
        self.ended = 0
        self.heard = False
        self.sent = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Asked(self), "127.0.0.1", 0, ssl=tls(*self._protocols))
        self.url = f"https://localhost:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for each in self.connections:
            each.transport.abort()
        await asyncio.sleep(0)


async def until(happened: Callable[[], object]) -> None:
    """Wait for something that other tasks and the kernel bring about soon."""
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110  # what it waits for is not ours to signal
            await asyncio.sleep(0.002)
