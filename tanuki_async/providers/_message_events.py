"""Reads a streamed answer of Anthropic's Messages API: the text as it comes, then a completion like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from tanuki_async._errors import ProviderUnreachableError
from tanuki_async._records import Completion, Reply
from tanuki_async.providers._chunks import Chunks
from tanuki_async.providers._errors import error_from
from tanuki_async.providers._json import mapping
from tanuki_async.providers._messages import STATUSES, message_from


class MessageEvents(Chunks):
    """Feed it the data of the events of one answer; each says of what type it is."""

    read: Callable[..., Completion] = staticmethod(message_from)

    def __init__(self, headers: Mapping[str, str], *, provider: str, model: str, secrets: Sequence[str] = ()) -> None:
        super().__init__(headers, provider=provider, model=model, secrets=secrets)
        self._texts: list[str] = []
        self._inputs: list[str] = []  # of a tool that the model had to use
        self._message: dict[str, Any] = {}
        self._uses_tool = False

    def feed(self, data: str) -> str:
        """Take one event; return the text that it adds to the answer. Raises an error that it brings."""
        try:
            event = mapping(from_json(data))
        except ValueError as error:
            raise self._unavailable(f"a part of the answer is no JSON: {self._quoted(data)}") from error
        match event.get("type"):
            case "content_block_delta":
                return self._delta(mapping(event.get("delta")))
            case "content_block_start":
                block = mapping(event.get("content_block"))
                self._uses_tool = self._uses_tool or block.get("type") == "tool_use"
                return self._said_text(block.get("text"))
            case "message_start":
                self._message |= mapping(event.get("message"))
            case "message_delta":
                usage = {**mapping(self._message.get("usage")), **mapping(event.get("usage"))}  # it counts up
                self._message |= {**mapping(event.get("delta")), "usage": usage}
            case "message_stop":
                self.done = True
            case "error":
                raise self._failure(data, mapping(event.get("error")))
            case _:
                pass  # a ping, the end of a block, and whatever comes one day
        return ""

    def completion(self) -> Completion:
        """The whole answer, once the stream has ended. ProviderUnreachableError where it was cut."""
        if not self.done and not self._message.get("stop_reason"):
            raise ProviderUnreachableError("the stream ended before its answer was whole", self._provider, self._model)
        text = "".join(self._texts) or "".join(self._inputs) or ("{}" if self._uses_tool else "")
        message = {**self._message, "content": [{"type": "text", "text": text}]}
        return self.whole(json.dumps(message).encode())

    def _delta(self, delta: Mapping[str, Any]) -> str:
        if delta.get("type") == "text_delta":
            return self._said_text(delta.get("text"))
        text = delta.get("partial_json")
        if delta.get("type") == "input_json_delta" and isinstance(text, str) and not self._texts:
            self._inputs.append(text)
            return text
        return ""  # thoughts and their signatures

    def _said_text(self, text: object) -> str:
        if not isinstance(text, str) or not text:
            return ""
        self._texts.append(text)
        return text

    def _failure(self, data: str, told: Mapping[str, Any]) -> Exception:
        reply = Reply(status=200, headers=self._headers, body=data.encode())
        return error_from(replace(reply, status=STATUSES.get(str(told.get("type")), 200)), **self._names)
