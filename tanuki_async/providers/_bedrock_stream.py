"""Reads an answer of ConverseStream while it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

from pydantic_core import from_json

from tanuki_async._errors import ProviderError, ProviderUnavailableError, ProviderUnreachableError, RefusalError
from tanuki_async._records import Completion
from tanuki_async.abc import Streamed
from tanuki_async.providers._aws_errors import streamed_error
from tanuki_async.providers._aws_events import BrokenFrameError, Event, Frames
from tanuki_async.providers._bedrock_converse import CUT, REFUSED, completion_from, usage_from
from tanuki_async.providers._chunks import whole_reply

EVENTS = "application/vnd.amazon.eventstream"


async def pieces_from(
    answer: Streamed, *, provider: str, model: str, by_tool: bool
) -> AsyncGenerator[str | Completion]:
    """Yield the text of an answer with status 200 as it comes, then its Completion.

    `by_tool`: the answer is what a tool is given, and other texts count only if there is no such thing. A server that
    does not stream answers as ever; that is read as well.
    """
    if not answer.headers.get("content-type", EVENTS).startswith(EVENTS):
        completion = completion_from(await whole_reply(answer), provider=provider, model=model)
        yield completion.text
        yield completion
        return
    frames, reader = Frames(), Reader(answer.headers, provider=provider, model=model, by_tool=by_tool)
    async for piece in answer.pieces:  # to its end, or the connection could not serve another
        try:
            events = frames.feed(piece)
        except BrokenFrameError as error:
            raise reader.failed(ProviderUnavailableError, f"the stream is broken: {error}") from error
        for event in events:
            if text := reader.feed(event):
                yield text
    completion = reader.completion()
    if not reader.told and completion.text:
        yield completion.text
    yield completion


class Reader:
    """Feed it the events of one answer."""

    def __init__(self, headers: Mapping[str, str], *, provider: str, model: str, by_tool: bool) -> None:
        self._provider, self._model, self._by_tool = provider, model, by_tool
        self._request_id = headers.get("x-amzn-requestid")
        self._texts: list[str] = []
        self._inputs: list[str] = []
        self._reason: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._tool_block: object = None  # the first tool use; a model may add others
        self.told = False
        """Whether something of the answer was handed over."""

    def feed(self, event: Event) -> str:
        """Take one event; return the text that it adds to the answer. Raises an error that it brings."""
        kind = event.headers.get(":message-type", "event")
        if kind != "event":
            name = event.headers.get(":exception-type") or event.headers.get(":error-code") or "internalServerException"
            payload = event.payload or event.headers.get(":error-message", "").encode()
            raise streamed_error(name, payload, provider=self._provider, model=self._model, request_id=self._request_id)
        fields = self._fields(event)
        match event.headers.get(":event-type"):
            case "contentBlockDelta":
                return self._delta(fields)
            case "messageStop":
                self._reason = str(fields.get("stopReason", ""))
            case "metadata":
                self._usage = _mapping(fields.get("usage"))
            case _:
                pass
        return ""

    def completion(self) -> Completion:
        """The whole answer, once the stream has ended. ProviderUnreachableError where it was cut."""
        if self._reason is None:
            raise self.failed(ProviderUnreachableError, "the stream ended before its answer was whole")
        if why := REFUSED.get(self._reason):
            raise RefusalError(why, self._provider, self._model, None, self._request_id)
        return Completion(
            text="".join(self._inputs or self._texts),
            usage=usage_from(self._usage),
            truncated=self._reason in CUT,
            model=self._model,
            request_id=self._request_id,
        )

    def failed(self, kind: type[ProviderError], message: str) -> ProviderError:
        """Make an error about this stream."""
        return kind(message, self._provider, self._model, None, self._request_id)

    def _delta(self, fields: Mapping[str, Any]) -> str:
        delta = _mapping(fields.get("delta"))
        given = _mapping(delta.get("toolUse")).get("input")
        added = ""
        if isinstance(given, str):
            self._tool_block = fields.get("contentBlockIndex") if self._tool_block is None else self._tool_block
            if fields.get("contentBlockIndex") == self._tool_block:
                self._inputs.append(given)
                added = given
        elif isinstance(text := delta.get("text"), str):
            self._texts.append(text)
            added = "" if self._by_tool else text
        self.told = self.told or bool(added)
        return added

    def _fields(self, event: Event) -> Mapping[str, Any]:
        try:
            return _mapping(from_json(event.payload or b"{}"))
        except ValueError as error:
            raise self.failed(ProviderUnavailableError, "a part of the stream is no JSON") from error


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
