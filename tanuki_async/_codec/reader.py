"""Questions about a natural schema: what it refers to, what changes on the wire, what could be mixed up there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tanuki_async._codec.natural import OPEN, Schema
from tanuki_async._codec.shapes import is_object, kind

PREFIX = "#/$defs/"


class InexpressibleError(ValueError):
    """The strict subset has no words for this type."""


class Reader:
    """Answers questions about a natural schema and the definitions that it refers to."""

    def __init__(self, root: Schema) -> None:
        self._defs: dict[str, Schema] = root.get("$defs", {})

    def target(self, name: str) -> Schema:
        """Return the definition called `name`."""
        if name not in self._defs:
            raise InexpressibleError(f"a reference to {name!r}, which is not there")
        return self._defs[name]

    def merged(self, schema: Schema) -> Schema:
        """Fold `allOf` into its parent: one of any kind, or several plain objects."""
        if "allOf" not in schema:
            return schema
        rest = {key: value for key, value in schema.items() if key != "allOf"}
        parts = [self.merged(self.resolved(part)) for part in schema["allOf"]]
        if len(parts) == 1:
            return {**parts[0], **rest}
        merged: Schema = {"type": "object", "properties": {}, "required": []}
        for part in [*parts, rest]:
            if part.get("type", "object") != "object" or "anyOf" in part or "enum" in part:
                raise InexpressibleError("several types at once")
            merged["properties"].update(part.get("properties", {}))
            merged["required"] += part.get("required", [])
            merged |= {key: value for key, value in part.items() if key not in {"properties", "required"}}
        return merged

    def resolved(self, schema: Any) -> Schema:
        """Follow references; what stands beside them wins."""
        seen: set[str] = set()
        while is_object(schema) and "$ref" in schema:
            name = definition(schema)
            if name in seen:
                raise InexpressibleError("a type that is only itself")
            seen.add(name)
            siblings = {key: value for key, value in schema.items() if key not in {"$ref", "$defs"}}
            schema = {**self.target(name), **siblings}
        return schema if is_object(schema) else {}

    def branches(self, schema: Schema) -> Iterable[Schema]:
        """Walk the branches of a union, and of unions directly in it."""
        branches: list[Any] = schema.get("anyOf") or schema.get("oneOf") or []
        for branch in branches:
            if is_object(branch) and ("anyOf" in branch or "oneOf" in branch) and "$ref" not in branch:
                yield from self.branches(branch)
            else:
                yield branch

    def reshapes(self, schema: Any, seen: set[str] | None = None) -> bool:
        """Tell whether the wire form of this type, or of anything in it, differs from the natural one."""
        seen = set() if seen is None else seen
        if not is_object(schema):
            return False
        if "$ref" in schema:
            name = definition(schema)
            return self._new(name, seen) and self.reshapes(self.target(name), seen)
        if "prefixItems" in schema or is_map(schema):
            return True
        properties: Mapping[str, Any] = schema.get("properties", {})
        if schema.get(OPEN) and len(schema.get("required", [])) < len(properties):
            return True
        inner = [*properties.values(), schema.get("items")]
        for word in ("anyOf", "oneOf", "allOf"):
            inner += schema.get(word, [])
        return any(self.reshapes(each, seen) for each in inner)

    @staticmethod
    def _new(name: str, seen: set[str]) -> bool:
        fresh = name not in seen
        seen.add(name)
        return fresh

    def kinds(self, schema: Any, seen: set[str] | None = None) -> frozenset[str]:
        """Return the JSON types that this type has on the wire."""
        seen = set() if seen is None else seen
        if is_object(schema) and "$ref" in schema:
            name = definition(schema)
            return self.kinds(self.target(name), seen) if self._new(name, seen) else frozenset()
        schema = self.merged(schema) if is_object(schema) else {}
        if "anyOf" in schema or "oneOf" in schema:
            return frozenset(name for branch in self.branches(schema) for name in self.kinds(branch, seen))
        if "enum" in schema or "const" in schema:
            return frozenset(map(kind, choices(schema)))
        if is_map(schema):
            return frozenset({"array"})
        if "prefixItems" in schema:
            return frozenset({"object"})
        names: Any = schema.get("type", [])
        return frozenset([names] if isinstance(names, str) else names)

    def confusable(self, number: int, branches: list[Schema]) -> bool:
        """Tell whether this branch changes on the wire and could there be taken for another."""
        one = branches[number]
        return self._changes(one) and any(
            not self._distinct(one, other) for place, other in enumerate(branches) if place != number
        )

    def _changes(self, schema: Schema) -> bool:
        resolved = self.resolved(schema)
        return self.reshapes(schema) or len(resolved.get("required", [])) < len(resolved.get("properties", {}))

    def _distinct(self, one: Schema, other: Schema) -> bool:
        if not _overlap(self.kinds(one), self.kinds(other)):
            return True
        first, second = self._keys(one), self._keys(other)
        if first is None or second is None:
            return False
        if first.keys() != second.keys():
            return True
        return any(self._apart(each, second[key]) for key, each in first.items() if each and second[key])

    def _apart(self, one: Schema, other: Schema) -> bool:
        if not _overlap(self.kinds(one), self.kinds(other)):
            return True
        first, second = self.resolved(one), self.resolved(other)
        some, others = choices(first), choices(second)
        return bool(some and others) and not any(value in others for value in some)

    def _keys(self, schema: Schema) -> dict[str, Schema] | None:
        """Return the keys of an object on the wire, or None for what is no single object.

        What may be absent has no schema here: as null it looks the same whatever its type is.
        """
        resolved = self.merged(self.resolved(schema))
        if "prefixItems" in resolved:
            needed = resolved.get("minItems", 0)
            places = enumerate(resolved["prefixItems"])
            return {f"item_{number}": place if number < needed else {} for number, place in places}
        if is_map(resolved) or "properties" not in resolved:
            return None
        required = resolved.get("required", [])
        return {name: each if name in required else {} for name, each in resolved["properties"].items()}


def _overlap(one: frozenset[str], other: frozenset[str]) -> bool:
    number = {"integer", "number"}
    return bool(one & other) or bool(one & number and other & number)


def definition(schema: Schema) -> str:
    """Return the name of the definition that a reference is to."""
    ref: str = schema["$ref"]
    if not ref.startswith(PREFIX):
        raise InexpressibleError(f"a reference to {ref!r}")
    return ref.removeprefix(PREFIX)


def is_map(schema: Schema) -> bool:
    """Tell whether this is a dict: any keys, values of one type."""
    extra = schema.get("additionalProperties")
    return not schema.get("properties") and (is_object(extra) or bool(schema.get("patternProperties")))


def choices(schema: Schema) -> list[Any]:
    """Return the values of an enum or a const, or none."""
    values: list[Any] = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return values
