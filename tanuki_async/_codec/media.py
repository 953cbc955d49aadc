"""What an argument may hold beside text: checked, recognised by its content, written as JSON in three ways."""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, NoReturn, Self, TypeVar, cast
from urllib.parse import unquote_to_bytes

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from tanuki_async._codec.formats import by_ending, is_address, kind_of, recognised
from tanuki_async._codec.pixels import document_tokens, image_tokens
from tanuki_async._errors import InputError, clip
from tanuki_async._records import FILE_NAME, Attached, Attachment, JsonValue, Turn

KEPT: Final = 256 * 1024
"""Bytes of one image or document that a record keeps; of a larger one it keeps only what it can be recognised by."""

MARK = "tanuki_async"  # in the metadata of a core schema, with the kind
_LONGEST_URL = 8_192
_TOKENS = {"image": image_tokens, "document": document_tokens}


class Media:
    """An image or a document, given as bytes or by the address where the model's provider fetches it.

    Immutable; equal to another with the same content or address.
    """

    # No dataclass: pydantic would write its fields, where a model that holds one is dumped.
    __slots__ = ("data", "media_type", "sha256", "size", "tokens", "url")

    kind: ClassVar[Attached]
    most: ClassVar[int]
    formats: ClassVar[str]

    media_type: str
    """`"image/png"` and the like. `"image/*"` where an address does not tell."""
    url: str | None
    sha256: str | None
    """Of the bytes, as 64 hex digits; None for an address."""
    size: int | None
    """In bytes; None for an address."""
    data: bytes | None
    tokens: int
    """About how many tokens of a prompt it takes."""

    def __init__(self, data: bytes | None = None, *, url: str | None = None) -> None:
        """Look at bytes, or at an address: `https:`, or `data:`, whose bytes are taken out. InputError says why not."""
        if (data is None) == (url is None):
            self._refuse(None, "takes its bytes or url=, one of the two")
        if url is None:
            self._set_data("data", data)
        elif str(url)[:5].lower() == "data:":
            self._set_data("url", self._within(str(url)))
        else:
            self._set_url(url)

    def _set_data(self, parameter: str, data: Any) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            self._refuse(
                parameter,
                f"is a {type(data).__name__}, not bytes; for an address write url=…, "
                f"for a file `await {type(self).__name__}.open(path)`",
            )
        size = memoryview(cast("bytes", data)).nbytes
        if size > self.most:
            self._refuse(parameter, f"has {size:,} bytes, and at most {self.most:,} are sent; make it smaller")
        data = bytes(cast("bytes", data))
        media_type = recognised(data)
        if media_type is None or kind_of(media_type) != self.kind:
            self._refuse(parameter, f"is no {self.formats}, by how it begins")
        self._set(media_type, None, hashlib.sha256(data).hexdigest(), size, data, _TOKENS[self.kind](data))

    def _set_url(self, url: Any) -> None:
        if not isinstance(url, str) or not is_address(url):
            self._refuse("url", f"is no https: or data: URL; for a file write `await {type(self).__name__}.open(path)`")
        if len(url) > _LONGEST_URL:
            self._refuse("url", f"has {len(url):,} characters, more than the {_LONGEST_URL:,} that servers take")
        self._set(by_ending(url, self.kind), url, None, None, None, _TOKENS[self.kind](None))

    def _set(self, *values: Any) -> None:
        for name, value in zip(("media_type", "url", "sha256", "size", "data", "tokens"), values, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an {type(self).__name__} cannot be changed; make another")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an {type(self).__name__} cannot be changed; make another")

    def _identity(self) -> tuple[object, ...]:
        return (self.kind, self.media_type, self.url or self.sha256)

    def __eq__(self, other: object) -> bool:
        return self._identity() == other._identity() if isinstance(other, Media) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.media_type, self.url, self.sha256, self.size, self.data, self.tokens)

    def _within(self, url: str) -> bytes:
        """Return the bytes that a `data:` URL holds (RFC 2397)."""
        head, comma, body = url.partition(",")
        if not comma:
            self._refuse("url", "is a data: URL without a comma")
        if len(body) > 3 * self.most:  # written as %xx, every byte; a longer one is not even decoded
            self._refuse("url", f"holds more than the {self.most:,} bytes that are sent; make it smaller")
        raw = unquote_to_bytes(body)
        if not head.lower().endswith(";base64"):
            return raw
        try:
            return b64decode(raw, validate=True)
        except binascii.Error as error:
            self._refuse("url", f"is a data: URL that is not base64 ({error})")

    def _refuse(self, parameter: str | None, reason: str) -> NoReturn:
        raise InputError(type(self).__name__, parameter, reason)

    def __repr__(self) -> str:
        if self.url is not None:
            return f"{type(self).__name__}(url={clip(self.url.partition('?')[0], 80)!r})"  # what follows may be a key
        return f"<{type(self).__name__} {self.media_type}, {self.size:,} bytes, sha256 {(self.sha256 or '')[:12]}>"

    def attachment(self) -> Attachment:
        """Return it as a message carries it."""
        return Attachment(kind=self.kind, media_type=self.media_type, data=self.data, url=self.url, tokens=self.tokens)

    def record(self, most: int | None = None) -> dict[str, JsonValue]:
        """Write it as plain JSON: self-contained, unless it has more than `most` bytes."""
        if self.url is not None:
            return {self.kind: {"url": self.url}}
        fields: dict[str, JsonValue] = {"media_type": self.media_type, "sha256": self.sha256}
        if self.data is None or (most is not None and len(self.data) > most):
            fields["size"] = self.size
        else:
            fields["data"] = b64encode(self.data).decode("ascii")
        return {self.kind: fields}

    @property
    def is_there(self) -> bool:
        """Whether it can be shown: what a record did not keep cannot."""
        return self.data is not None or self.url is not None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        write = core_schema.plain_serializer_function_ser_schema(_write, info_arg=True, when_used="json")
        return core_schema.with_info_plain_validator_function(
            cls._validate, metadata={MARK: cls.kind}, serialization=write
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "uri", "title": cls.__name__, "description": "An https: or data: URL."}

    @classmethod
    def _validate(cls, value: Any, info: core_schema.ValidationInfo) -> Self:
        if isinstance(value, cls):
            return value
        try:
            return cls._read(value, from_record=info.context is RECORD)
        except InputError as error:
            reason = "It " + error.reason
        except (KeyError, TypeError, ValueError) as error:
            reason = f"It is not a recorded {cls.kind}: {error!r}"
        raise PydanticCustomError(cls.kind, "{reason}", {"reason": reason})

    @classmethod
    def _read(cls, value: Any, *, from_record: bool) -> Self:
        if isinstance(value, str):
            return cls(url=value)
        if not isinstance(value, Mapping):
            return cls(value)
        fields: Any = cast("Mapping[str, Any]", value)[cls.kind]
        if "url" in fields:
            return cls(url=fields["url"])
        if "data" in fields:
            return cls(url=f"data:;base64,{fields['data']}")
        if not from_record:
            raise ValueError("its bytes are missing")
        return _restored(cls, fields["media_type"], None, fields["sha256"], fields["size"], None, 0)


M = TypeVar("M", bound=Media)


def _restored(cls: type[M], *values: Any) -> M:
    media = cls.__new__(cls)
    media._set(*values)  # noqa: SLF001  # it was checked when it was made
    return media


class Gallery:
    """Gathers the images and documents of one message while its arguments are written, each once."""

    def __init__(self) -> None:
        self._numbers: dict[Media, int] = {}

    def take(self, media: Media) -> dict[str, JsonValue]:
        """Return what stands for it in the text: its number among its kind."""
        if media not in self._numbers:
            self._numbers[media] = 1 + sum(each.kind == media.kind for each in self._numbers)
        return {media.kind: self._numbers[media]}

    @property
    def is_complete(self) -> bool:
        """Whether all can be shown."""
        return all(media.is_there for media in self._numbers)

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """What was gathered, in the order of its numbers."""
        return tuple(media.attachment() for media in self._numbers)


RECORD: Final = object()
"""The context in which arguments are written for a record, and read from one."""


def _write(media: Media, info: core_schema.SerializationInfo) -> dict[str, JsonValue]:
    if isinstance(info.context, Gallery):
        return info.context.take(media)
    return media.record(KEPT if info.context is RECORD else None)


def content_of(turn: Turn) -> str | list[dict[str, JsonValue]]:
    """Return the content of a message in OpenAI's form: its text, or parts where something is attached."""
    if not turn.attachments:
        return turn.text
    return [{"type": "text", "text": turn.text}, *map(_part, turn.attachments)]


def _part(attachment: Attachment) -> dict[str, JsonValue]:
    address = attachment.url or data_url(attachment)
    if attachment.kind == "image":
        return {"type": "image_url", "image_url": {"url": address}}
    return {"type": "file", "file": {"filename": FILE_NAME, "file_data": address}}


def data_url(attachment: Attachment) -> str:
    """Write an attachment as an address that holds it."""
    return f"data:{attachment.media_type};base64,{b64encode(attachment.data or b'').decode('ascii')}"


def kinds_in(schema: CoreSchema) -> frozenset[Attached]:
    """Tell which kinds of media the values of a type may hold, at any depth."""
    return frozenset(_kinds_in(schema, set()))


def _kinds_in(part: Any, seen: set[int]) -> Iterator[Attached]:
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, dict):
        fields = cast("dict[str, Any]", part)
        metadata = fields.get("metadata")
        if isinstance(metadata, dict) and MARK in metadata:
            yield metadata[MARK]
        for name, inside in fields.items():
            if name != "default":
                yield from _kinds_in(inside, seen)
    elif isinstance(part, (list, tuple)):
        for inside in cast("list[Any]", part):
            yield from _kinds_in(inside, seen)
