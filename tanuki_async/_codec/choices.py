"""Literals and enums whose options are other things in JSON than in Python."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic_core import PydanticSerializationError, to_json

from tanuki_async._codec.hooks import Members
from tanuki_async._errors import StubError


def literal(annotation: Any) -> Any:
    """Return what to give to pydantic for a Literal."""
    values = get_args(annotation)
    if any(isinstance(value, bytes) for value in values):
        raise StubError("a Literal of bytes has no JSON; write a Literal of texts")
    enumerated = [value for value in values if isinstance(value, enum.Enum)]
    return Annotated[annotation, by_json(enumerated)] if enumerated else annotation


def by_json(enumerated: Iterable[enum.Enum]) -> Members:
    """Let members be told by the JSON of their values."""
    try:
        return Members(tuple((to_json(each.value), each) for each in enumerated))
    except PydanticSerializationError as error:
        raise StubError(f"an enum's value cannot be written as JSON: {error}") from error


def as_key(annotation: Any, rewritten: Any) -> Any:
    """Let numbers of a choice be keys of a dict, which are texts in JSON. Returns what to give to pydantic."""
    options: Iterable[Any] = ()
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        options = annotation
    elif get_origin(annotation) is Literal:
        options = get_args(annotation)
    told = tuple((to_json(to_json(each).decode()), each) for each in options if _is_number(each))
    return Annotated[rewritten, Members(told)] if told else rewritten


def _is_number(option: Any) -> bool:
    return isinstance(option.value if isinstance(option, enum.Enum) else option, (int, float))
