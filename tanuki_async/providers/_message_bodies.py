"""Writes requests for Anthropic's Messages API; what stays the same from call to call is encoded once."""

from __future__ import annotations

import binascii
import json
import logging
from collections.abc import Sequence
from typing import Any

from tanuki_async._errors import AttachmentRefusedError
from tanuki_async._records import Attachment, Head, JsonValue, Model, Turn
from tanuki_async.providers._abilities import Abilities
from tanuki_async.providers._bodies import ROLES, ROOM, Bodies, quote, room, schema_of
from tanuki_async.providers._claude import form_of

logger = logging.getLogger("tanuki_async.providers")

_NO_EXAMPLES = b'"messages":['
_CACHED = b',"cache_control":{"type":"ephemeral"}'
_UNKNOWN = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty")
"""What may be asked of a sampler, but not of Anthropic's."""


class MessageBodies(Bodies):
    """Makes the bodies of requests for /v1/messages. The provider is asked to cache what comes before the turns."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def begin(self, head: Head, model: Model, abilities: Abilities) -> bytes:
        """Everything before the first turn."""
        mark = b"" if "cache_control" in abilities.dropped else _CACHED
        system = _texts(head.system, b"" if head.examples else mark)
        parts = [b'{"model":', quote(model.name), b',"system":', system, b',"messages":[']
        examples: list[bytes] = []
        for turn in head.examples[:-1]:
            examples += self.seen(turn, model, abilities)
        for turn in head.examples[-1:]:  # what is cached ends here
            examples += self.seen(turn, model, abilities, mark)
        return b"".join(parts) + b"".join(examples)[1:]

    def end(self, head: Head, model: Model, abilities: Abilities, max_tokens: int | None) -> bytes:
        """Everything after the last turn."""
        self._warn(head, model)
        params, output = head.params, dict[str, JsonValue]()
        if model.reasoning_effort and "effort" not in abilities.dropped:
            output["effort"] = model.reasoning_effort
        fields: dict[str, Any] = {"max_tokens": max_tokens or room(model) or ROOM}  # always wanted here
        if params.stop and "stop_sequences" not in abilities.dropped:
            fields["stop_sequences"] = list(params.stop)
        match form_of(head.answer, abilities):
            case "json_schema":
                output["format"] = {"type": "json_schema", "schema": schema_of(head.answer, abilities)}
            case "tool":
                fields |= _tool(head, abilities)
            case _:
                pass  # the instructions hold the schema in words
        if output:
            fields["output_config"] = output
        return b"]," + json.dumps(fields, separators=(",", ":")).encode("ascii")[1:]

    def joined(self, parts: Sequence[bytes]) -> bytes:
        """Put the parts together; the first turn has no comma before it."""
        begin, first, *others = parts
        return b"".join((begin, first[1:] if begin.endswith(_NO_EXAMPLES) else first, *others))

    def streamed(self, body: bytes, abilities: Abilities) -> bytes:
        """Make of a request one whose answer comes in pieces."""
        return body if "stream" in abilities.dropped else body[:-1] + b',"stream":true}'

    def seen(self, turn: Turn, model: Model, abilities: Abilities, mark: bytes = b"") -> Sequence[bytes]:
        """One message with what is attached to it before its text, as the vendor advises."""
        if not (turn.attachments or mark):
            return ROLES[turn.role], quote(turn.text), b"}"
        attached = b"".join(_attachment(each, model, abilities) + b"," for each in turn.attachments)
        return ROLES[turn.role], _texts(turn.text, mark, attached), b"}"

    def _warn(self, head: Head, model: Model) -> None:
        """Say once of each parameter that it is left out."""
        for name in _UNKNOWN:
            if getattr(head.params, name) is not None and name not in self._told:
                self._told.add(name)
                logger.warning("%s: Anthropic's models take no %s; it is left out", model, name)


def _texts(text: str, mark: bytes, before: bytes = b"") -> bytes:
    """Write content as blocks: `before`, and the text, if there is one, with `mark` in it."""
    if not text:
        return b"[" + before.rstrip(b",") + b"]"
    return b"".join((b"[", before, b'{"type":"text","text":', quote(text), mark, b"}]"))


def _attachment(attachment: Attachment, model: Model, abilities: Abilities) -> bytes:
    if attachment.kind in abilities.untaken:
        raise AttachmentRefusedError(f"it takes no {attachment.kind}s", model.provider, model.name)
    begin = b'{"type":"%b","source":' % attachment.kind.encode()
    if attachment.url is not None:
        return b"".join((begin, b'{"type":"url","url":', quote(attachment.url), b"}}"))
    data, media_type = attachment.data or b"", quote(attachment.media_type)
    if attachment.media_type == "text/plain":
        try:
            text = quote(data.decode())
        except UnicodeDecodeError as error:
            reason = f"a document of {attachment.media_type} is no UTF-8: {error.reason}"
            raise AttachmentRefusedError(reason, model.provider, model.name) from error
        return b"".join((begin, b'{"type":"text","media_type":', media_type, b',"data":', text, b"}}"))
    encoded = binascii.b2a_base64(data, newline=False)
    return b"".join((begin, b'{"type":"base64","media_type":', media_type, b',"data":"', encoded, b'"}}'))


def _tool(head: Head, abilities: Abilities) -> dict[str, JsonValue]:
    """Make the model answer by using a tool; one that is not strict may have any schema."""
    answer = head.answer
    tool: dict[str, JsonValue] = {"name": answer.name, "description": "Takes the answer."}
    if answer.strict:
        tool |= {"input_schema": schema_of(answer, abilities), "strict": True}
    else:
        tool["input_schema"] = answer.schema
    choice: JsonValue = {"type": "tool", "name": answer.name, "disable_parallel_tool_use": True}
    return {"tools": [tool], "tool_choice": choice}
