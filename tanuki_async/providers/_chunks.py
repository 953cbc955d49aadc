"""Reads a streamed chat completion: chunk by chunk the text, at the end a completion like any other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from pydantic_core import from_json

from tanuki_async._errors import ProviderError, ProviderUnavailableError, ProviderUnreachableError
from tanuki_async._records import Completion, Reply
from tanuki_async.abc import Streamed
from tanuki_async.providers._answers import completion_from
from tanuki_async.providers._errors import error_from, readable
from tanuki_async.providers._secrets import without
from tanuki_async.providers._sse import Events, TooLargeError

DONE = "[DONE]"
LINGER = 0.1
"""Seconds to wait for the end of the body once the answer is whole, so that its connection may serve another."""
LARGEST_ERROR = 2**20


async def pieces_from(answer: Streamed, chunks: Chunks) -> AsyncGenerator[str | Completion]:
    """Yield the text of an answer with status 200 as it comes, then its Completion.

    A server that does not know how to stream answers as ever, with one JSON object; that is read as well.
    """
    events = Events()
    said, kept = False, b""
    async for piece in answer.pieces:
        if not chunks.begun and (kept := (kept + piece).lstrip())[:1] in (b"{", b""):
            continue  # no stream, or nothing yet
        for data in chunks.split(events, kept or piece):
            if text := chunks.feed(data):
                said = True
                yield text
        kept, chunks.begun = b"", True
        if chunks.done:
            await _drain(answer)
            break
    if kept:
        completion = chunks.whole(kept)
    else:
        for data in () if chunks.done else events.end():
            if text := chunks.feed(data):
                said = True
                yield text
        completion = chunks.completion()
    if not said and completion.text:
        yield completion.text
    yield completion


async def whole_reply(answer: Streamed) -> Reply:
    """Read an answer that is no stream, such as an error."""
    body = bytearray()
    async for piece in answer.pieces:
        body += piece
        if len(body) > LARGEST_ERROR:
            break
    return Reply(status=answer.status, headers=answer.headers, body=bytes(body))


async def _drain(answer: Streamed) -> None:
    with suppress(TimeoutError, ProviderError):
        async with asyncio.timeout(LINGER):
            async for _ in answer.pieces:
                pass


class Chunks:
    """Feed it the data of the events of one answer. `secrets` never appear in an error."""

    read: Callable[..., Completion] = staticmethod(completion_from)
    """Reads an answer that is whole."""

    def __init__(self, headers: Mapping[str, str], *, provider: str, model: str, secrets: Sequence[str] = ()) -> None:
        self._headers, self._provider, self._model, self._secrets = headers, provider, model, secrets
        self._names: dict[str, Any] = {"provider": provider, "model": model, "secrets": secrets}
        self._said: dict[str, list[str]] = {"content": [], "refusal": [], "reasoning": [], "arguments": []}
        self._finish: str | None = None
        self._usage: object = None
        self._name: object = None
        self.begun = self.done = False

    def split(self, events: Events, piece: bytes) -> list[str]:
        """Take the next piece of the body apart."""
        try:
            return events.feed(piece)
        except TooLargeError as error:
            raise self._unavailable(str(error)) from error

    def feed(self, data: str) -> str:
        """Take one event; return the text that it adds to the answer. Raises an error that it brings."""
        if data.strip() == DONE:
            self.done = True
            return ""
        try:
            chunk = _mapping(from_json(data))
        except ValueError as error:
            raise self._unavailable(f"a part of the answer is no JSON: {self._quoted(data)}") from error
        if chunk.get("error"):
            reply = Reply(status=200, headers=self._headers, body=data.encode())
            raise error_from(reply, **self._names)
        self._usage = chunk.get("usage") or self._usage
        self._name = chunk.get("model") or self._name
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            return ""
        choice = _mapping(cast("list[object]", choices)[0])
        finish = choice.get("finish_reason")
        self._finish = finish if isinstance(finish, str) else self._finish
        return self._delta(_mapping(choice.get("delta") or choice.get("message")))

    def whole(self, body: bytes) -> Completion:
        """Read the body of an answer that was no stream after all."""
        return self.read(Reply(status=200, headers=self._headers, body=body), **self._names)

    def completion(self) -> Completion:
        """The whole answer, once the stream has ended. ProviderUnreachableError where it was cut."""
        if not self.done and self._finish is None:
            raise ProviderUnreachableError("the stream ended before its answer was whole", self._provider, self._model)
        said = {name: "".join(parts) for name, parts in self._said.items()}
        message = {
            "content": said["content"] or said["arguments"],
            "refusal": said["refusal"] or None,
            "reasoning_content": said["reasoning"] or None,
        }
        envelope = {
            "model": self._name if isinstance(self._name, str) else None,
            "choices": [{"message": message, "finish_reason": self._finish}],
            "usage": self._usage,
        }
        return self.whole(json.dumps(envelope).encode())

    def _delta(self, delta: Mapping[str, Any]) -> str:
        for name, key in (("refusal", "refusal"), ("reasoning", "reasoning_content"), ("reasoning", "reasoning")):
            if isinstance(text := delta.get(key), str):
                self._said[name].append(text)
        added = ""
        if isinstance(text := delta.get("content"), str):
            added += text
            self._said["content"].append(text)
        calls = delta.get("tool_calls")
        if isinstance(calls, list) and calls and not any(self._said["content"]):  # the answer came as a tool call
            call = _mapping(cast("list[object]", calls)[0])
            text = _mapping(call.get("function")).get("arguments")
            if isinstance(text, str) and call.get("index") in (0, None):
                added += text
                self._said["arguments"].append(text)
        return added

    def _quoted(self, data: str) -> str:
        return readable(without(Reply(status=200, headers={}, body=data.encode()), self._secrets).body)

    def _unavailable(self, message: str) -> ProviderUnavailableError:
        return ProviderUnavailableError(message, self._provider, self._model, 200, self._headers.get("x-request-id"))


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
