"""The JSON schema that an answer is asked to fit, and the way from its text to a Python value and back."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import mmh3
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import PydanticSerializationError, from_json, to_json

from tanuki_async._codec.core import kinds_in, parts
from tanuki_async._codec.finite import NUMBERS, is_finite, may_overflow
from tanuki_async._codec.limits import within_limits
from tanuki_async._codec.natural import BOUNDS, COUNTS, OPEN, Natural, Schema, in_words
from tanuki_async._codec.reader import InexpressibleError
from tanuki_async._codec.shapes import VALUE, Shape, is_array, is_object
from tanuki_async._codec.strict import strict
from tanuki_async._records import AnswerSchema, JsonSchema, JsonValue, SchemaDialect

_NAME = 64
_START = '{"value":'
_ENVELOPE = re.compile(r'\s*\{\s*"value"\s*:(.*)\}\s*', re.DOTALL)
_NOISE = frozenset({"title", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator", OPEN})


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Wire:
    """How values of one type travel: a schema, and text that fits it.

    Natural JSON is what pydantic writes for a value, and what records hold. Wire JSON is what a model answers: the
    natural form inside `{"value": …}` where its root is no object, and reshaped where a strict schema could not say it.
    """

    answer: AnswerSchema
    adapter: TypeAdapter[Any]
    prose: bool = False  # any text at all is a value of this type
    enveloped: bool = False
    shape: Shape | None = None  # None: natural and wire form are the same
    reshapes: bool = False  # the forms differ in more than nulls that stand for defaults
    unordered: bool = False  # there are sets in it
    floats: bool = False  # there may be numbers in it that JSON does not have
    lazy: bool = False  # a value may be a generator, which writing it down would use up
    by_alias: bool = True  # keys are aliases, or else names
    by_name: bool = False

    def encode(self, output: JsonValue) -> str:
        """Write natural JSON as the text that a model would answer."""
        value: Any = self.shape.encode(output) if self.shape else output
        return to_json({VALUE: value} if self.enveloped else value).decode()

    def decode(self, text: str) -> Any:
        """Return the validated value of wire JSON, or of natural JSON.

        Raises a ValueError (pydantic's ValidationError is one) where `text` is neither.
        """
        if self.reshapes:
            return self._reshaped(text)
        try:
            return self.load(self._inner(text))
        except ValidationError:
            return self._reshaped(text)

    def read(self, text: str) -> tuple[Any, bytes]:
        """Return the value of wire or natural JSON, and its natural JSON for the record. Raises as `decode` does."""
        if "NaN" in text or "Infinity" in text:
            from_json(text.encode(), allow_inf_nan=False)  # a record could not hold them
        value = self.decode(text)
        try:
            output = self.dump(value)
        except PydanticSerializationError as error:
            if self.lazy:
                raise ValueError(str(error)) from error
            output = self._naturals(text)[0]
        if self.floats and may_overflow(output) and not is_finite(self._plain(value)):
            raise ValueError("not a finite number")
        return (self.decode(text) if self.lazy else value), output

    def load(self, natural: str | bytes) -> Any:
        """Return the validated value of natural JSON, as a record holds it."""
        if self.by_name:
            return self.adapter.validator.validate_json(natural, by_alias=True, by_name=True)
        return self.adapter.validator.validate_json(natural)

    def dump(self, value: Any) -> bytes:
        """Write a value as natural JSON that `load` reads back. Sets are put in a fixed order."""
        output = self.adapter.serializer.to_json(value, by_alias=self.by_alias, round_trip=True, warnings=False)
        if self.unordered and self.shape:
            return to_json(self.shape.decode(self.shape.encode(from_json(output))))
        return output

    def _plain(self, value: Any) -> Any:
        try:
            return self.adapter.serializer.to_python(value, round_trip=True, warnings=False)
        except PydanticSerializationError:
            return value  # then it is recorded as it was answered

    def _inner(self, text: str) -> str:
        """Take what looks like an envelope off; if it was none, what is left is no JSON."""
        if not self.enveloped:
            return text
        if text.startswith(_START) and text.endswith("}"):
            return text[len(_START) : -1]
        found = _ENVELOPE.fullmatch(text)
        return found[1] if found else text

    def _reshaped(self, text: str) -> Any:
        """Read text that may have or lack an envelope: what this type calls for first, then the other."""
        first, *others = self._naturals(text)
        try:
            return self.load(first)
        except ValidationError:
            for other in others:
                with suppress(ValidationError):
                    return self.load(other)
            raise

    def _naturals(self, text: str) -> list[bytes]:
        value = from_json(text.encode(), allow_inf_nan=False)
        found = [value]
        if is_object(value) and value.keys() == {VALUE}:
            found = [value[VALUE], value] if self.enveloped else [value, value[VALUE]]
        try:
            return [to_json(self.shape.decode(each) if self.shape else each) for each in found]
        except RecursionError as error:
            raise ValueError("the answer is nested too deeply") from error


def wire(adapter: TypeAdapter[Any], *, name: str) -> Wire:
    """Make the wire of a type; `name` is the function's, from which the schema's name is made. Costly: do it once."""
    fields = list(_fields(adapter.core_schema))
    aliased = any(field.get("validation_alias") or field.get("serialization_alias") for field in fields)
    by_alias = all(field.get("validation_alias") == field.get("serialization_alias") for field in fields)
    kinds = kinds_in(adapter.core_schema)
    natural = _natural_schema(adapter, by_alias=by_alias)
    wired, shape, reshapes = _expressed(natural)
    schema, enveloped = _rooted(wired or natural)
    return Wire(
        answer=AnswerSchema(name=_legal(name), schema=schema, strict=wired is not None),
        adapter=adapter,
        prose=_takes_prose(natural),
        enveloped=enveloped,
        shape=shape,
        reshapes=reshapes,
        unordered="uniqueItems" in str(natural),
        floats=bool(kinds & NUMBERS),
        lazy="generator" in kinds,
        by_alias=by_alias,
        by_name=aliased,
    )


def dialect(schema: JsonSchema, which: SchemaDialect) -> JsonSchema:
    """Write a wire schema in a server's dialect: the shape is the same, the keywords may be fewer.

    What a keyword would have said is said in the description instead.
    """
    return cast(JsonSchema, _reduced(schema, which)) if which in _SPOKEN else schema


_SPOKEN: dict[SchemaDialect, tuple[str, ...]] = {
    "openai_strict_ft": ("pattern", "format", *BOUNDS, *COUNTS),
    "anthropic": ("pattern", *BOUNDS, *COUNTS),  # all formats that we use are known there
}
"""Keywords that a dialect does not have."""


def _reduced(schema: Schema, which: SchemaDialect) -> Schema:
    spoken = [word for word in _SPOKEN[which] if not (which == "anthropic" and _is_least_of_one(schema, word))]
    text = " ".join(filter(None, [schema.get("description", ""), *in_words(schema, spoken)]))
    kept: Schema = {"description": text} if text else {}
    for key, value in schema.items():
        if key in {"properties", "$defs"}:
            kept[key] = {name: _reduced(each, which) for name, each in value.items()}
        elif key == "anyOf":
            kept[key] = [_reduced(each, which) for each in value]
        elif key == "items":
            kept[key] = _reduced(value, which)
        elif key not in spoken and key != "description":
            kept[key] = value
    return kept


def _is_least_of_one(schema: Schema, word: str) -> bool:
    """Tell whether it says that a list may, or may not, be empty: the one count that Anthropic's dialect has."""
    return word == "minItems" and schema.get(word) in (0, 1)


def _expressed(natural: Schema) -> tuple[Schema | None, Shape | None, bool]:
    try:
        schema, shape, reshapes = strict(natural)
    except (InexpressibleError, RecursionError):
        return None, None, False
    rooted, _ = _rooted(schema)
    return (schema, shape, reshapes) if within_limits(rooted) else (None, None, False)


def _natural_schema(adapter: TypeAdapter[Any], *, by_alias: bool) -> Schema:
    try:
        return adapter.json_schema(by_alias=by_alias, schema_generator=Natural)
    except PydanticInvalidForJsonSchema:
        return {}  # a type of the user's that has no schema: pydantic still checks the answer


def _rooted(schema: Schema) -> tuple[JsonSchema, bool]:
    """Make the root an object: the schema itself, or an envelope around it."""
    defs = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    body = {key: value for key, value in schema.items() if key != "$defs"}
    if "$ref" in body:
        body = {**schema["$defs"][body["$ref"].rpartition("/")[2]]}
    if body.get("type") == "object" and "anyOf" not in body:
        return cast(JsonSchema, _quiet({**body, **defs})), False
    envelope = {"type": "object", "properties": {VALUE: body}, "required": [VALUE], "additionalProperties": False}
    return cast(JsonSchema, _quiet({**envelope, **defs})), True


def _quiet(schema: Any) -> Any:
    """Leave out what neither a server nor a model needs to know."""
    if is_array(schema):
        return [_quiet(each) for each in schema]
    if not is_object(schema):
        return schema
    kept: Schema = {}
    for key, value in schema.items():
        if key in {"properties", "$defs", "patternProperties"}:
            kept[key] = {name: _quiet(each) for name, each in value.items()}
        elif key not in _NOISE:
            kept[key] = value if key in {"enum", "const"} else _quiet(value)
    return kept


def _takes_prose(natural: Schema) -> bool:
    branches: list[Schema] = natural.get("anyOf", [natural])
    return any(
        branch.get("type") == "string" and not branch.keys() & {"enum", "const", "format"} for branch in branches
    )


def _legal(name: str) -> str:
    """Make a schema name: letters, digits, _ and -, at most 64; what was changed is told apart by a hash."""
    legal = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if legal == name and 0 < len(name) <= _NAME:
        return name
    return f"{legal[: _NAME - 9]}_{mmh3.hash(name, signed=False):08x}"


def _fields(core: Any) -> list[dict[str, Any]]:
    kinds = {"model-field", "dataclass-field", "typed-dict-field"}
    return [part for part in parts(core) if part.get("type") in kinds]
