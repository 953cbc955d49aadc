"""Writes requests in OpenAI's manner as bytes; what stays the same from call to call is encoded once."""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from tanuki_async._errors import AttachmentRefusedError
from tanuki_async._records import FILE_NAME, AnswerSchema, Attachment, Head, JsonSchema, JsonValue, Model, Request, Turn
from tanuki_async.providers._abilities import Abilities

ROOM = 8_192
"""Tokens that an answer may have where nobody said how many, in a format that wants a limit or sets it aside."""
THOUGHTS = 8_192
"""How many more for a model that thinks first: thoughts count towards the limit."""

Known = TypeVar("Known")
"""What is known of a model: its abilities."""
Edges: TypeAlias = Callable[[Head, Model, Known], tuple[bytes, bytes]]

ROLES = {"user": b',{"role":"user","content":', "assistant": b',{"role":"assistant","content":'}


@dataclass(slots=True)
class _Encoded(Generic[Known]):
    """The beginning and end of all bodies with one head, for one model of which certain things are known."""

    model: Model
    known: Known
    begin: bytes
    end: bytes


class Heads(Generic[Known]):
    """Keeps what stands before and after the turns of requests, for as long as their head lives."""

    def __init__(self) -> None:
        self.kept: WeakKeyDictionary[Head, dict[str, _Encoded[Known]]] = WeakKeyDictionary()

    def of(self, head: Head, model: Model, known: Known, edges: Edges[Known]) -> _Encoded[Known]:
        """Return it for this very model and what is known of it; `edges` writes it where it is not there."""
        by_model = self.kept.get(head)
        if by_model is None:
            by_model = self.kept[head] = {}
        kept = by_model.get(model.name)
        if kept is None or kept.model is not model or kept.known is not known:
            kept = by_model[model.name] = _Encoded(model, known, *edges(head, model, known))
        return kept


class Bodies:
    """Makes the bodies of chat requests. Keeps the encoded head for as long as the head lives."""

    roles: Mapping[str, bytes] = ROLES
    """How a message of each role begins, with a comma before it."""

    def __init__(self) -> None:
        self._heads: Heads[Abilities] = Heads()

    def encode(self, request: Request, abilities: Abilities) -> bytes:
        """Write one request. The same request and abilities give the same bytes."""
        head, model = request.head, request.model
        kept = self._heads.of(head, model, abilities, self._edges)
        parts, roles = [kept.begin], self.roles
        for turn in request.turns:
            if turn.attachments:
                parts += self.seen(turn, model, abilities)
            else:
                parts += (roles[turn.role], quote(turn.text), b"}")
        if request.max_tokens is None:
            parts.append(kept.end)
        else:
            parts.append(self.end(head, model, abilities, request.max_tokens))
        return self.joined(parts)

    def _edges(self, head: Head, model: Model, abilities: Abilities) -> tuple[bytes, bytes]:
        end = self.end(head, model, abilities, head.params.max_new_tokens)
        return self.begin(head, model, abilities), end

    def begin(self, head: Head, model: Model, abilities: Abilities) -> bytes:
        """Everything before the first turn."""
        return encode_begin(head, model, abilities)

    def end(self, head: Head, model: Model, abilities: Abilities, max_tokens: int | None) -> bytes:
        """Everything after the last turn."""
        return encode_end(head, model, abilities, max_tokens)

    def seen(self, turn: Turn, model: Model, abilities: Abilities) -> Sequence[bytes]:
        """One message with what is attached to it."""
        return _seen(turn, model, abilities)

    def joined(self, parts: Sequence[bytes]) -> bytes:
        """Put the parts together."""
        return b"".join(parts)

    def streamed(self, body: bytes, abilities: Abilities) -> bytes:
        """Make of a request one whose answer comes in pieces, where the server knows that."""
        return streamed(body, abilities)


def streamed(body: bytes, abilities: Abilities) -> bytes:
    """Make of a request one whose answer comes in pieces, where the server knows that."""
    fields: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    dropped = abilities.dropped | {"stream_options"} if "stream" in abilities.dropped else abilities.dropped
    sent = {name: value for name, value in fields.items() if name not in dropped}
    if not sent:
        return body
    return body[:-1] + b"," + json.dumps(sent, separators=(",", ":")).encode("ascii")[1:]


def encode_begin(head: Head, model: Model, abilities: Abilities) -> bytes:
    """Everything before the first turn: the model, the instructions, the examples."""
    parts = [b'{"model":', quote(model.name), b',"messages":[{"role":"', abilities.role.encode(), b'","content":']
    parts += (quote(head.system), b"}")
    for turn in head.examples:
        parts += (ROLES[turn.role], quote(turn.text), b"}") if not turn.attachments else _seen(turn, model, abilities)
    return b"".join(parts)


def _seen(turn: Turn, model: Model, abilities: Abilities) -> list[bytes]:
    """Write a message with what is attached to it. AttachmentRefusedError for what cannot be sent."""
    parts = [ROLES[turn.role], b'[{"type":"text","text":', quote(turn.text), b"}"]
    for attachment in turn.attachments:
        if attachment.kind in abilities.untaken:
            raise AttachmentRefusedError(f"it takes no {attachment.kind}s", model.provider, model.name)
        parts += _image(attachment) if attachment.kind == "image" else _document(attachment, model)
    return [*parts, b"]}"]


def _image(attachment: Attachment) -> tuple[bytes, ...]:
    begin, end = b',{"type":"image_url","image_url":{"url":', b"}}"
    return (begin, quote(attachment.url), end) if attachment.url else (begin, *data_url(attachment), end)


def _document(attachment: Attachment, model: Model) -> tuple[bytes, ...]:
    if attachment.url:
        reason = "this format takes a document's bytes, not its address: give `await Document.open(path)`"
        raise AttachmentRefusedError(reason, model.provider, model.name)
    begin = b',{"type":"file","file":{"filename":"%b","file_data":' % FILE_NAME.encode("ascii")
    return (begin, *data_url(attachment), b"}}")


def data_url(attachment: Attachment) -> tuple[bytes, ...]:
    """Write the bytes of an attachment as an address of its own."""
    data = binascii.b2a_base64(attachment.data or b"", newline=False)
    return (b'"data:', attachment.media_type.encode("ascii"), b";base64,", data, b'"')


def encode_end(head: Head, model: Model, abilities: Abilities, max_tokens: int | None) -> bytes:
    """Everything after the last turn: what was asked of the sampler, and the form of the answer."""
    params = head.params
    fields: dict[str, Any] = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": params.seed,
        "stop": list(params.stop) if params.stop else None,
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
        "reasoning_effort": model.reasoning_effort,
        "response_format": _response_format(head, abilities),
    }
    if abilities.token_field:
        fields[abilities.token_field] = max_tokens
    sent = {name: value for name, value in fields.items() if value is not None and name not in abilities.dropped}
    if not sent:
        return b"]}"
    return b"]," + json.dumps(sent, separators=(",", ":"), ensure_ascii=True).encode("ascii")[1:]


def _response_format(head: Head, abilities: Abilities) -> JsonValue:
    answer = head.answer
    if abilities.structured == "none":
        return None
    if abilities.structured == "json_object" or not answer.strict:
        return {"type": "json_object"}
    schema = schema_of(answer, abilities)
    return {"type": "json_schema", "json_schema": {"name": answer.name, "strict": True, "schema": schema}}


def schema_of(answer: AnswerSchema, abilities: Abilities) -> JsonSchema:
    """Write the schema of an answer with the keywords that the model takes."""
    from tanuki_async._codec.schema import dialect

    return dialect(answer.schema, abilities.dialect)


def encode_embedding(model: Model, texts: list[str], encoding: str | None) -> bytes:
    """Write a request for vectors, of fewer dimensions where that is asked for in this way."""
    fields: dict[str, Any] = {"model": model.name, "input": texts}
    if model.shorten_to is not None and model.shortening == "sent":
        fields["dimensions"] = model.shorten_to
    if encoding:
        fields["encoding_format"] = encoding
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def room(model: Model) -> int | None:
    """Tokens that an answer may have, thoughts included, where nobody said how many; None for an unknown model."""
    thinks = model.reasoning_effort not in (None, "none")
    return model.max_output and min(model.max_output, ROOM + THOUGHTS * thinks)


def quote(text: str) -> bytes:
    """Write a text as a JSON string, as UTF-8 where that is possible."""
    try:
        return encode_basestring(text).encode()
    except UnicodeEncodeError:  # half of a surrogate pair has no UTF-8, but JSON can escape it
        return encode_basestring_ascii(text).encode("ascii")
