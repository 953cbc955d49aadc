"""Answers a chat in pieces, as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tanuki_async._records import Reply
from tanuki_async.testing import _openai
from tanuki_async.testing._http import HttpConnection
from tanuki_async.testing.answers import Answer, ChatRequest, Fault, count_usage

PIECE = 12
"""Characters of one piece of an answer."""


class BrokenOffError(Exception):
    """The connection was closed in the middle of the answer, on purpose."""


async def pieces_of(answer: Answer) -> AsyncIterator[str]:
    """Cut the text of an answer into pieces."""
    text = answer.text or ""
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


def is_streamed(asked: object, answer: object) -> bool:
    """Tell whether a request asks for a stream and gets one."""
    asks = isinstance(asked, ChatRequest) and bool(asked.body.get("stream"))
    return asks and not isinstance(answer, Reply | Fault)


async def joined(pieces: AsyncIterator[object]) -> str:
    """Put the pieces of an answer together, for who does not ask for a stream."""
    return "".join([str(piece) async for piece in pieces])


class Streaming:
    """Writes one answer to one connection, with the chunks that OpenAI sends."""

    def __init__(
        self, connection: HttpConnection, request: ChatRequest, number: int, headers: Mapping[str, str]
    ) -> None:
        self._connection, self._request, self._number = connection, request, number
        self._headers = {**headers, "content-type": "text/event-stream; charset=utf-8"}
        self._said: list[str] = []

    async def send(self, pieces: AsyncIterator[object], whole: Answer | None, *, pause: float = 0.0) -> None:
        """Send the pieces as they come. A Fault among them is sent as an error event, or closes the connection."""
        self._connection.begin(200, self._headers)
        self._open()
        async for piece in pieces:
            if isinstance(piece, Fault):
                await self._fail(piece)
                return
            self._said.append(str(piece))
            self._piece(str(piece))
            if pause:
                await asyncio.sleep(pause)
        self._close(whole or Answer("".join(self._said)))

    def _open(self) -> None:
        self._delta({"role": "assistant", "content": ""})

    def _piece(self, text: str) -> None:
        self._delta({"content": text})

    def _close(self, answer: Answer) -> None:
        if answer.refusal is not None:
            self._delta({"refusal": answer.refusal})
        self._delta({}, answer.finish_reason)
        options: Mapping[str, Any] = self._request.body.get("stream_options") or {}
        if options.get("include_usage"):
            self._event({"choices": [], "usage": _openai.usage_fields(count_usage(self._request.messages, answer))})
        self._connection.chunk(b"data: [DONE]\n\n")

    async def _fail(self, fault: Fault) -> None:
        if fault.reply is not None:
            self._error(fault.reply.body)
            return
        if fault.then == "hang":
            await asyncio.get_running_loop().create_future()
        self._connection.close(at_once=fault.then == "abort")
        raise BrokenOffError

    def _error(self, body: bytes) -> None:
        self._connection.chunk(b"data: " + body + b"\n\n")

    def _delta(self, delta: Mapping[str, Any], finish: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        self._event({"choices": [choice], "usage": None})

    def _event(self, fields: Mapping[str, Any]) -> None:
        chunk = {
            "id": f"chatcmpl-{self._number:08x}",
            "object": "chat.completion.chunk",
            "created": _openai.CREATED,
            "model": self._request.model,
            **fields,
        }
        self._connection.chunk(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")
