"""How JSON as pydantic writes it (natural) is turned into JSON that a strict schema can express (wire), and back.

A shape is made beside each strict schema. The two forms differ in four places: a dict travels as an array of
`{key, value}`, a tuple as an object of `item_0` …, an absent key as null, and some branches of a union in a labelled
object. `decode` also takes the natural form, place by place; what fits neither is left as it is for pydantic to refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

KEY, VALUE, REST = "key", "value", "rest"
_MISSING: Any = object()


class Shape(Protocol):
    """The two forms of one type. `encode` goes to the wire, `decode` comes from it."""

    def encode(self, value: Any) -> Any: ...
    def decode(self, value: Any) -> Any: ...
    def natural(self, value: Any) -> bool:
        """Tell whether `value` could be this type as pydantic writes it."""
        ...

    def wired(self, value: Any) -> bool:
        """Tell whether `value` could be this type as a strict schema has it."""
        ...


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether parsed JSON is an object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Tell whether parsed JSON is an array."""
    return isinstance(value, list)


def kind(value: Any) -> str:
    """Name the JSON type of a value, whole numbers apart."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value that is the same in both forms."""

    kinds: frozenset[str]
    options: tuple[Any, ...] | None = None

    def encode(self, value: Any) -> Any:
        return value

    def decode(self, value: Any) -> Any:
        return value

    def natural(self, value: Any) -> bool:
        found = kind(value)
        known = found in self.kinds or (found == "integer" and "number" in self.kinds)
        return known and (self.options is None or value in self.options)

    def wired(self, value: Any) -> bool:
        return self.natural(value)


@dataclass(frozen=True, slots=True)
class Array:
    """A list; one made from a set is put in a fixed order, so that the same set is always the same text."""

    item: Shape
    unordered: bool = False

    def encode(self, value: Any) -> Any:
        return self._each(self.item.encode, value)

    def decode(self, value: Any) -> Any:
        return self._each(self.item.decode, value)

    def natural(self, value: Any) -> bool:
        return is_array(value) and all(map(self.item.natural, value))

    def wired(self, value: Any) -> bool:
        return is_array(value) and all(map(self.item.wired, value))

    def _each(self, step: Callable[[Any], Any], value: Any) -> Any:
        if not is_array(value):
            return value
        items = [step(item) for item in value]
        return sorted(items, key=_order) if self.unordered else items


def _order(item: Any) -> str:
    return json.dumps(item, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Field:
    """One property of an object.

    `required`: it is always there in natural JSON, as a model's fields are even where they have defaults.
    `droppable`: a null stands for absent, because None is no legal value. `maybe`: None is legal and so is absence, so
    that a present value travels inside `{"value": …}`. `default` is what an absent value means, where known.
    """

    shape: Shape
    required: bool = True
    droppable: bool = False
    maybe: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Object:
    """A model, a dataclass or a typed dict: on the wire every key is there, in the order of the schema."""

    fields: Mapping[str, Field]

    def encode(self, value: Any) -> Any:
        if not is_object(value):
            return value
        known = {name: self._encode(field, value.get(name, _MISSING)) for name, field in self.fields.items()}
        return {**known, **{name: each for name, each in value.items() if name not in known}}

    def _encode(self, field: Field, value: Any) -> Any:
        if value is _MISSING:
            return None if field.maybe or field.default is None else field.shape.encode(field.default)
        return {VALUE: field.shape.encode(value)} if field.maybe else field.shape.encode(value)

    def decode(self, value: Any) -> Any:
        if not is_object(value):
            return value
        whole = self.fields.keys() <= value.keys()  # else it is no wire form, and a null is what it says
        result: dict[str, Any] = {}
        for name, each in value.items():
            field = self.fields.get(name)
            if field is None:
                result[name] = each
            elif each is not None or not (field.droppable or (field.maybe and whole)):
                result[name] = field.shape.decode(_unwrapped(each) if field.maybe else each)
        return result

    def natural(self, value: Any) -> bool:
        if not is_object(value) or any(name not in self.fields for name in value):
            return False
        return all(
            field.shape.natural(value[name]) if name in value else not field.required
            for name, field in self.fields.items()
        )

    def wired(self, value: Any) -> bool:
        if not is_object(value) or value.keys() != self.fields.keys():
            return False
        return all(self._wired(field, value[name]) for name, field in self.fields.items())

    def _wired(self, field: Field, value: Any) -> bool:
        if value is None and (field.droppable or field.maybe):
            return True
        if field.maybe:
            return is_object(value) and value.keys() == {VALUE} and field.shape.wired(value[VALUE])
        return field.shape.wired(value)


def _unwrapped(value: Any) -> Any:
    return value[VALUE] if is_object(value) and value.keys() == {VALUE} else value


@dataclass(frozen=True, slots=True)
class Entries:
    """A dict: an array of `{key, value}` on the wire."""

    value: Shape
    pattern: re.Pattern[str] | None = None  # of its keys

    def encode(self, value: Any) -> Any:
        if not is_object(value):
            return value
        return [{KEY: key, VALUE: self.value.encode(each)} for key, each in value.items()]

    def decode(self, value: Any) -> Any:
        if is_object(value):
            return {key: self.value.decode(each) for key, each in value.items()}
        if is_array(value) and all(map(_is_entry, value)):
            return {_text(entry[KEY]): self.value.decode(entry[VALUE]) for entry in value}
        return value

    def natural(self, value: Any) -> bool:
        return is_object(value) and all(self._key(key) and self.value.natural(each) for key, each in value.items())

    def wired(self, value: Any) -> bool:
        return is_array(value) and all(
            _is_entry(entry) and self._key(entry[KEY]) and self.value.wired(entry[VALUE]) for entry in value
        )

    def _key(self, key: Any) -> bool:
        return self.pattern is None or self.pattern.search(_text(key)) is not None


def _is_entry(value: Any) -> bool:
    return is_object(value) and value.keys() == {KEY, VALUE} and not isinstance(value[KEY], dict | list)


def _text(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key)


@dataclass(frozen=True, slots=True)
class Places:
    """A tuple: an object of `item_0`, `item_1` … on the wire. Places from `needed` on may be absent at the end."""

    items: tuple[Field, ...]
    needed: int

    def encode(self, value: Any) -> Any:
        if not is_array(value) or len(value) > len(self.items):
            return value
        present = {
            f"item_{n}": item.shape.encode(each) for n, (item, each) in enumerate(zip(self.items, value, strict=False))
        }
        return {**present, **{f"item_{n}": None for n in range(len(value), len(self.items))}}

    def decode(self, value: Any) -> Any:
        if is_object(value) and self._named(value):
            value = self._cut([value[f"item_{n}"] for n in range(len(value))])
        if not is_array(value) or len(value) > len(self.items):
            return value
        return [item.shape.decode(each) for item, each in zip(self.items, value, strict=False)]

    def natural(self, value: Any) -> bool:
        if not is_array(value) or not self.needed <= len(value) <= len(self.items):
            return False
        return all(item.shape.natural(each) for item, each in zip(self.items, value, strict=False))

    def wired(self, value: Any) -> bool:
        if not is_object(value) or len(value) != len(self.items) or not self._named(value):
            return False
        return self.natural_places([value[f"item_{n}"] for n in range(len(value))])

    def natural_places(self, values: list[Any]) -> bool:
        """Tell whether each value is wire JSON of its place, or null where the place may be absent."""
        return all(
            (each is None and item.droppable) or item.shape.wired(each)
            for item, each in zip(self.items, values, strict=False)
        )

    def _named(self, value: dict[str, Any]) -> bool:
        return len(value) >= self.needed and all(f"item_{n}" in value for n in range(len(value)))

    def _cut(self, values: list[Any]) -> list[Any]:
        absent = (n for n, item in enumerate(self.items[: len(values)]) if item.droppable and values[n] is None)
        return values[: next(absent, len(values))]


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch of a union, in an object `{label: …}` where its wire form could be taken for another branch's."""

    shape: Shape
    label: str | None = None

    def encode(self, value: Any) -> Any:
        inner = self.shape.encode(value)
        return inner if self.label is None else {self.label: inner}

    def decode(self, value: Any) -> Any:
        return self.shape.decode(value if self.label is None or not self.wired(value) else value[self.label])

    def natural(self, value: Any) -> bool:
        return self.shape.natural(value)

    def wired(self, value: Any) -> bool:
        if self.label is None:
            return self.shape.wired(value)
        return is_object(value) and value.keys() == {self.label} and self.shape.wired(value[self.label])


@dataclass(frozen=True, slots=True)
class Union:
    """Several shapes, of which the first that fits is meant. Natural dicts are tried last: any object may be one."""

    branches: tuple[Branch, ...]
    naturals: tuple[Branch, ...]  # the same, in the order to try for natural JSON

    def encode(self, value: Any) -> Any:
        return next((branch.encode(value) for branch in self.naturals if branch.natural(value)), value)

    def decode(self, value: Any) -> Any:
        for branch in self.branches:
            if branch.wired(value):
                return branch.decode(value)
        return next((branch.decode(value) for branch in self.naturals if branch.natural(value)), value)

    def natural(self, value: Any) -> bool:
        return any(branch.natural(value) for branch in self.branches)

    def wired(self, value: Any) -> bool:
        return any(branch.wired(value) for branch in self.branches)


class Ref:
    """A shape that is known by name before it is made, so that a type may contain itself."""

    def __init__(self) -> None:
        self.target: Shape = Scalar(frozenset())

    def encode(self, value: Any) -> Any:
        return self.target.encode(value)

    def decode(self, value: Any) -> Any:
        return self.target.decode(value)

    def natural(self, value: Any) -> bool:
        return self.target.natural(value)

    def wired(self, value: Any) -> bool:
        return self.target.wired(value)
