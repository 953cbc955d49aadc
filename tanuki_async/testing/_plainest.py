"""The plainest value that a JSON schema allows: what fakes answer when nobody told them what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from tanuki_async._records import JsonSchema, JsonValue

_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT0S",
    "email": "a@example.com",
    "hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


_TOLD = "JSON schema of the answer:\n"


def told_schema(system: str) -> JsonSchema | None:
    """Return the schema at the end of our own instructions: with all constraints, of which a wire format may say fewer.

    None where these instructions are somebody else's.
    """
    _, told, text = system.rpartition(_TOLD)
    try:
        schema: Any = json.loads(text) if told else None
    except ValueError:
        return None
    return cast("JsonSchema", schema) if isinstance(schema, dict) else None


def simplest(schema: JsonSchema, root: JsonSchema | None = None, depth: int = 0) -> JsonValue:
    """Return the plainest value that a JSON schema allows; what a server without a script answers.

    Knows the strict subset of structured outputs, but no `pattern`.
    """
    root = schema if root is None else root
    if isinstance(reference := schema.get("$ref"), str):
        node: Any = root
        for part in reference.removeprefix("#").split("/")[1:]:
            node = node[part]
        return simplest(cast("JsonSchema", node), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if isinstance(choices := schema.get("enum"), list):
        return choices[0]
    for union in ("anyOf", "oneOf", "allOf"):
        if isinstance(branches := schema.get(union), list):
            ordered = branches[::-1] if depth > 12 else branches  # recursion ends in its null branch, written last
            return simplest(cast("JsonSchema", ordered[0]), root, depth + 1)
    return _simplest_of_type(schema, root, depth)


def _simplest_of_type(schema: JsonSchema, root: JsonSchema, depth: int) -> JsonValue:
    kind: Any = schema.get("type", "object" if "properties" in schema else "null")
    if isinstance(kind, list):
        kind = cast("list[str]", kind)[0]
    if kind == "object":
        properties = cast("dict[str, JsonSchema]", schema.get("properties", {}))
        return {name: simplest(inner, root, depth + 1) for name, inner in properties.items()}
    if kind == "array":
        count = cast("int", schema.get("minItems", 0))
        return [simplest(cast("JsonSchema", schema.get("items", {})), root, depth + 1) for _ in range(count)]
    if kind in ("integer", "number"):
        return _simplest_number(cast("dict[str, float]", schema))
    if kind == "string":
        return _FORMATS.get(cast("str", schema.get("format")), "")
    return False if kind == "boolean" else None


def _simplest_number(schema: Mapping[str, float]) -> float:
    low = schema.get("minimum", 0)
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + 1
    return min(low, schema.get("maximum", low))
