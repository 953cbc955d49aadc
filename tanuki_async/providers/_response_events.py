"""Reads a streamed answer of the Responses API: named events, of which the last brings the whole answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import from_json

from tanuki_async._errors import ProviderUnreachableError
from tanuki_async._records import Completion, Reply
from tanuki_async.providers._chunks import Chunks
from tanuki_async.providers._responses import failure, response_from

ENDS = ("response.completed", "response.incomplete", "response.failed")


class ResponseEvents(Chunks):
    """Feed it the data of the events of one answer. There is no [DONE]: one of `ENDS` is the last."""

    read = staticmethod(response_from)

    _whole: Mapping[str, Any] | None = None

    def feed(self, data: str) -> str:
        try:
            event = from_json(data)
        except ValueError as error:
            raise self._unavailable(f"a part of the answer is no JSON: {self._quoted(data)}") from error
        if not isinstance(event, dict):
            return ""
        fields = cast("dict[str, Any]", event)
        kind = fields.get("type")
        if kind == "response.output_text.delta":
            text = fields.get("delta")
            return self._thoughts.feed(text) if isinstance(text, str) else ""
        if kind == "error":
            raise failure(
                fields.get("error") or fields, Reply(status=200, headers=self._headers, body=b""), **self._names
            )
        if kind in ENDS and isinstance(fields.get("response"), dict):
            self._whole, self.done = fields["response"], True
        return ""

    def completion(self) -> Completion:
        if self._whole is None:
            raise ProviderUnreachableError("the stream ended before its answer was whole", self._provider, self._model)
        reply = Reply(status=200, headers=self._headers, body=json.dumps(self._whole).encode())
        return response_from(reply, **self._names)
