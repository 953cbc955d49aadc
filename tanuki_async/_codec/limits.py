"""How large a strict schema may be (OpenAI's published limits, the narrowest of those known)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from tanuki_async._codec.shapes import is_object
from tanuki_async._records import JsonSchema

PROPERTIES = 5_000
DEPTH = 10
NAME_CHARACTERS = 120_000  # over all names and enum and const values
OPTIONS = 1_000  # enum values in total
LONG_ENUM = 250  # from here on, one enum of strings has at most:
LONG_ENUM_CHARACTERS = 15_000


def within_limits(schema: JsonSchema) -> bool:
    """Tell whether a strict server would take a schema of this size."""
    properties = options = characters = 0
    for part in _parts(schema):
        names: dict[str, Any] = {**part.get("properties", {}), **part.get("$defs", {})}
        values = [str(value) for value in part.get("enum", [])]
        properties += len(part.get("properties", {}))
        options += len(values)
        characters += sum(map(len, names)) + sum(map(len, values)) + len(str(part.get("const", "")))
        if len(values) > LONG_ENUM and sum(map(len, values)) > LONG_ENUM_CHARACTERS:
            return False
    small = properties <= PROPERTIES and options <= OPTIONS and characters <= NAME_CHARACTERS
    return small and depth(schema) <= DEPTH


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Walk every subschema as it is written, definitions included."""
    if not is_object(schema):
        return
    yield schema
    for word in ("properties", "$defs"):
        for each in schema.get(word, {}).values():
            yield from _parts(each)
    for each in (*schema.get("anyOf", []), schema.get("items")):
        yield from _parts(each)


def depth(schema: JsonSchema) -> int:
    """Count the levels of objects; a type inside itself counts once."""
    defs: dict[str, Any] = cast("dict[str, Any]", schema.get("$defs", {}))
    known: dict[Any, int] = {}

    def measure(part: Any) -> int:
        if not is_object(part):
            return 0
        if "$ref" in part:
            name: str = part["$ref"].rpartition("/")[2]
            if name not in known:
                known[name] = 0
                known[name] = measure(defs.get(name))
            return known[name]
        inner: list[Any] = [*part.get("properties", {}).values(), *part.get("anyOf", []), part.get("items")]
        return max(map(measure, inner), default=0) + (part.get("type") == "object")

    return measure(schema)
