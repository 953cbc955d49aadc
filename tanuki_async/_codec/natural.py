"""A type's JSON schema as pydantic writes it, made more exact, and its constraints in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

Schema = dict[str, Any]

FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
BOUNDS = ("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
COUNTS = ("minItems", "maxItems")
OPEN = "x-absent"  # our own mark: keys of this object may really be absent

_WORDS = {
    "minLength": "At least {} characters.",
    "maxLength": "At most {} characters.",
    "pattern": "Matches the regular expression {}.",
    "multipleOf": "A multiple of {}.",
    "minimum": "At least {}.",
    "maximum": "At most {}.",
    "exclusiveMinimum": "Greater than {}.",
    "exclusiveMaximum": "Less than {}.",
    "minItems": "At least {} items.",
    "maxItems": "At most {} items.",
}
_FORMATS = {"base64url": "Bytes in base64.", "path": "A file path.", "uri": "A URL.", "binary": "", "password": ""}


class Natural(GenerateJsonSchema):
    """Pydantic's own schema, made more exact where the plain one does not say enough to turn an answer back."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  # as the base class has it

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        words = [_WORDS[long].format(schema[short]) for short, long in _DECIMAL.items() if short in schema]
        return {"type": "string", "description": " ".join(["A decimal number, as a string.", *words])}

    def tuple_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().tuple_schema(schema)
        return made if made.get("prefixItems") or "items" in made else {**made, "prefixItems": []}

    def typed_dict_schema(self, schema: Any) -> JsonSchemaValue:
        return {**super().typed_dict_schema(schema), OPEN: True}

    def dict_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        if schema.get("keys_schema", {}).get("type") == "int":
            made.setdefault("propertyNames", {"type": "integer"})
        return made


_DECIMAL = {
    "multiple_of": "multipleOf",
    "ge": "minimum",
    "le": "maximum",
    "gt": "exclusiveMinimum",
    "lt": "exclusiveMaximum",
}


def in_words(schema: Schema, keys: Iterable[str]) -> list[str]:
    """Say the constraints under `keys` as sentences, for a reader whose schema cannot hold them."""
    words = [_WORDS[key].format(schema[key]) for key in keys if key in schema and key in _WORDS]
    if "format" in keys and "format" in schema:
        words.append(_FORMATS.get(schema["format"], f"Format: {schema['format']}."))
    return words
