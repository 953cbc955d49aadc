"""Reads what stands behind a type in `Annotated[…]`, so that equal constraints are equal however they were written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic.fields import FieldInfo

_TEXTS = ("title", "description", "examples", "discriminator", "json_schema_extra", "deprecated")
_ALIASES = ("alias", "validation_alias", "serialization_alias")
_PLAIN = {"Strict", "AllowInfNan", "FailFast", "UuidVersion", "PathType"}


def constraints(metadata: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each constraint; `Field(gt=0)`, `Gt(0)` and `Interval(gt=0)` are all `gt` and 0.

    What is no constraint that we know comes with an empty name.
    """
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from constraints(item.metadata)
            yield from field_texts(item)
        elif hasattr(item, "__is_annotated_types_grouped_metadata__"):
            yield from constraints(item)
        elif _is_plain(item):
            yield from ((name, value) for name, value in attributes(item).items() if value is not None)
        elif hasattr(item, "documentation"):
            yield "description", item.documentation
        elif item is not None:
            yield "", item


def _is_plain(item: Any) -> bool:
    cls: Any = item.__class__
    if cls.__name__ == "Predicate":
        return False
    return (
        cls.__module__.partition(".")[0] == "annotated_types"
        or cls.__name__ in _PLAIN
        or cls.__name__.endswith("GeneralMetadata")
    )


def attributes(item: Any) -> Mapping[str, Any]:
    """Return the public attributes of a metadata object."""
    if dataclasses.is_dataclass(item):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    return {name: value for name, value in sorted(getattr(item, "__dict__", {}).items()) if name[0] != "_"}


def field_texts(field: FieldInfo) -> Iterator[tuple[str, Any]]:
    """Yield what a pydantic field says besides its constraints."""
    for name in _TEXTS:
        if (value := getattr(field, name, None)) is not None:
            yield name, value
    for name in _ALIASES:
        value = getattr(field, name, None)
        if value is not None and (name == "alias" or value != field.alias):
            yield name, value
