"""From pydantic's JSON schema to the subset that strict structured outputs take, with the shape that reads it back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from tanuki_async._codec.natural import BOUNDS, COUNTS, FORMATS, OPEN, Schema, in_words
from tanuki_async._codec.reader import PREFIX, InexpressibleError, Reader, choices, definition, is_map
from tanuki_async._codec.shapes import (
    KEY,
    VALUE,
    Array,
    Branch,
    Entries,
    Field,
    Object,
    Places,
    Ref,
    Scalar,
    Shape,
    Union,
    is_object,
    kind,
)

INLINED = 500  # references with siblings that are copied out; beyond, the siblings are given up
SCALARS = frozenset({"string", "number", "integer", "boolean", "null"})
_SILENT = frozenset({"$ref", "$defs", "default", "title", "examples", "deprecated", "readOnly", "writeOnly"})
_WHOLE = re.compile("^-?[0-9]+$")
_LOOKS_AROUND = re.compile(r"\(\?[=!<]|\\[1-9]|\(\?P=")  # what constrained decoding cannot follow


def strict(natural: Schema) -> tuple[Schema, Shape, bool]:
    """Return the strict schema, the shape between the two forms, and whether that shape changes anything.

    The root may be of any type. Raises InexpressibleError where the strict subset cannot say it.
    """
    builder = _Builder(natural)
    schema, shape = builder.build(natural)
    schema = builder.inlined(schema)
    if builder.made:
        schema = {**schema, "$defs": builder.made}
    return schema, shape, Reader(natural).reshapes(natural) or builder.labelled


class _Builder:
    def __init__(self, root: Schema) -> None:
        self.made: dict[str, Schema] = {}
        self.labelled = False
        self._reader = Reader(root)
        self._refs: dict[str, Ref] = {}
        self._inlining: list[str] = []
        self._budget = INLINED

    def build(self, schema: Any) -> tuple[Schema, Shape]:
        if not is_object(schema):
            raise InexpressibleError("a value of any type")
        if "$ref" in schema:
            return self._reference(schema)
        schema = self._reader.merged(schema)
        if "anyOf" in schema or "oneOf" in schema:
            return self._union(schema)
        if "enum" in schema or "const" in schema:
            return _options(schema)
        match schema.get("type"):
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case str() as name if name in SCALARS:
                return _scalar(schema, name)
            case list():
                return self._union(
                    {**_described(schema), "anyOf": [{**schema, "type": each} for each in schema["type"]]}
                )
            case _:
                raise InexpressibleError("a value of any type")

    # References

    def inlined(self, schema: Schema) -> Schema:
        """Replace a reference by its target: the root must not be one."""
        while "$ref" in schema:
            schema = self.made[definition(schema)]
        return schema

    def _reference(self, schema: Schema) -> tuple[Schema, Shape]:
        name = definition(schema)
        told = {
            key: value for key, value in schema.items() if key not in {"$ref", "$defs", "default", "title", "examples"}
        }
        if told and name not in self._inlining and self._budget > 0:
            self._budget -= 1
            self._inlining.append(name)
            try:
                return self.build({**self._reader.target(name), **told})
            finally:
                self._inlining.pop()
        if name not in self._refs:
            ref = self._refs[name] = Ref()
            self.made[name] = {}  # keeps the order of first use
            self.made[name], ref.target = self.build(self._reader.target(name))
        return {"$ref": PREFIX + name}, self._refs[name]

    # Structures

    def _object(self, schema: Schema) -> tuple[Schema, Shape]:
        extra, properties = schema.get("additionalProperties"), schema.get("properties")
        if is_map(schema):
            return self._entries(schema)
        if is_object(extra) or properties is None or (extra is True and not properties):
            raise InexpressibleError("an object with any keys")
        required = schema.get("required", [])
        made: Schema = {}
        fields: dict[str, Field] = {}
        for name, each in properties.items():
            made[name], fields[name] = self._property(each, name in required, bool(schema.get(OPEN)))
        return {**_described(schema), **_closed(made)}, Object(fields)

    def _property(self, schema: Schema, required: bool, open_: bool) -> tuple[Schema, Field]:
        made, shape = self.build(schema)
        if required:
            return made, Field(shape)
        resolved = self._reader.resolved(schema)
        default = resolved.get("default")
        if "const" in resolved and not open_:  # the tag of a union: null in its place would tell no branch from another
            return made, Field(shape, default=default)
        if "null" not in self._reader.kinds(schema):
            return _or_null(made), Field(shape, required=not open_, droppable=True, default=default)
        if open_:
            return _or_null(_closed({VALUE: made})), Field(shape, required=False, maybe=True)
        return made, Field(shape, default=default)

    def _entries(self, schema: Schema) -> tuple[Schema, Shape]:
        values, patterns = schema.get("additionalProperties"), schema.get("patternProperties")
        if patterns:
            if len(patterns) > 1 or is_object(values):
                raise InexpressibleError("keys of several patterns")
            (pattern, values), *_ = patterns.items()
            schema = {**schema, "propertyNames": {**schema.get("propertyNames", {}), "pattern": pattern}}
        made, shape = self.build(values)
        key = self._key(schema.get("propertyNames", {}))
        entry = _closed({KEY: key, VALUE: made})
        counts = {"minItems": schema.get("minProperties"), "maxItems": schema.get("maxProperties")}
        bounds = {key: value for key, value in counts.items() if value is not None}
        return {**_described(schema), "type": "array", "items": entry, **bounds}, Entries(shape, _pattern(key))

    def _key(self, names: Any) -> Schema:
        names = self._reader.resolved(names)
        if names.get("type") == "integer" and "enum" not in names:
            return {"type": "string", "pattern": _WHOLE.pattern}
        if options := choices(names):
            return {"type": "string", "enum": [each if isinstance(each, str) else json.dumps(each) for each in options]}
        return _scalar(names, "string")[0]

    def _array(self, schema: Schema) -> tuple[Schema, Shape]:
        if "prefixItems" in schema:
            return self._places(schema)
        item, shape = self.build(schema.get("items"))
        counts = {key: schema[key] for key in COUNTS if key in schema}
        return {**_described(schema), "type": "array", "items": item, **counts}, Array(
            shape, unordered=bool(schema.get("uniqueItems"))
        )

    def _places(self, schema: Schema) -> tuple[Schema, Shape]:
        places: list[Schema] = schema["prefixItems"]
        if isinstance(schema.get("items"), dict):
            raise InexpressibleError("a tuple with a variable end")
        needed = schema.get("minItems", 0)
        made: Schema = {}
        items: list[Field] = []
        for number, place in enumerate(places):
            each, shape = self.build(place)
            if "title" in place and "$ref" not in each:
                each = {"description": place["title"].lower(), **each}
            absent = number >= needed and "null" not in self._reader.kinds(place)
            made[f"item_{number}"] = _or_null(each) if absent else each
            items.append(Field(shape, required=number < needed, droppable=absent))
        return {**_described(schema), **_closed(made)}, Places(tuple(items), needed)

    def _union(self, schema: Schema) -> tuple[Schema, Shape]:
        branches = list(self._reader.branches(schema))
        changing = any(self._reader.reshapes(branch) for branch in branches)
        made: list[Schema] = []
        forms: list[Branch] = []
        for number, branch in enumerate(branches):
            each, shape = self.build(branch)
            label = None
            if changing and self._reader.confusable(number, branches):
                label, self.labelled = f"option_{number}", True
                each = _closed({label: each})
            made.append(each)
            forms.append(Branch(shape, label))
        if len(made) == 1 and "$ref" not in made[0]:
            return {**made[0], **_described(schema)}, forms[0]
        by_branch = zip(branches, forms, strict=True)
        ordered = [form for _, form in sorted(by_branch, key=lambda each: is_map(self._reader.resolved(each[0])))]
        return {**_described(schema), "anyOf": made}, Union(tuple(forms), tuple(ordered))


def _pattern(key: Schema) -> re.Pattern[str] | None:
    """Tell keys by the names they may have. A pattern of the user's may be in another dialect than Python's."""
    if "enum" in key:
        return re.compile("|".join(f"^{re.escape(name)}$" for name in key["enum"]))
    return _WHOLE if key.get("pattern") == _WHOLE.pattern else None


def _closed(properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _or_null(schema: Schema) -> Schema:
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    told = _described(schema)
    rest = {key: value for key, value in schema.items() if key not in told}
    return {**told, "anyOf": [rest, {"type": "null"}]}


def _described(schema: Schema, words: Iterable[str] = ()) -> Schema:
    text = " ".join(part for part in (schema.get("description", ""), *words) if part)
    return {"description": text} if text else {}


def _scalar(schema: Schema, name: str) -> tuple[Schema, Shape]:
    made: Schema = {"type": name}
    spoken: list[str] = []
    if name == "string":
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            (spoken.append("pattern") if _LOOKS_AROUND.search(pattern) else made.update(pattern=pattern))
        if "format" in schema:
            (made.update(format=schema["format"]) if schema["format"] in FORMATS else spoken.append("format"))
        spoken += ["minLength", "maxLength"]
    elif name in {"number", "integer"}:
        made |= {key: schema[key] for key in BOUNDS if _is_finite(schema.get(key))}
    return {**_described(schema, in_words(schema, spoken)), **made}, Scalar(frozenset({name}))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _options(schema: Schema) -> tuple[Schema, Shape]:
    values = choices(schema)
    groups: dict[str, list[Any]] = {}
    for value in values:
        groups.setdefault(kind(value), []).append(value)
    if not groups or groups.keys() & {"array", "object"} or not all(map(_is_json, values)):
        raise InexpressibleError("a choice between structures")
    shape = Scalar(frozenset(groups), tuple(values))
    made = [{"type": name} if name == "null" else {"type": name, "enum": each} for name, each in groups.items()]
    if len(made) == 1:
        return {**_described(schema), **made[0]}, shape
    return {**_described(schema), "anyOf": made}, shape


def _is_json(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
