"""Whether a value is of a type, read from the annotation alone: neither pydantic nor the codec is asked."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import math
import re
import typing
from collections import Counter
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Required, Union, get_args, get_origin
from uuid import UUID

import typing_extensions
from pydantic import BaseModel, RootModel

EXACT = (int, bool, str, bytes, date, datetime, time, timedelta, Decimal, UUID, float)
READ_AS = {collections.abc.Iterable: list, collections.abc.Collection: list}
HINTS: Any = typing_extensions.get_type_hints


def fits(value: Any, of: Any) -> bool:
    """Tell whether `value` is an instance of `of`, in all its depth, and holds its constraints."""
    if of is Any or of is object or isinstance(of, typing.TypeVar):
        return True
    if type(of).__name__ == "TypeAliasType":
        return fits(value, of.__value__)
    if type(of).__name__ == "PydanticRecursiveRef":  # a generic model inside itself
        return isinstance(value, BaseModel) and fits(value, type(value))
    origin, args = get_origin(of), get_args(of)
    if origin in (Required, typing_extensions.Required, typing.NotRequired, typing_extensions.NotRequired):
        return fits(value, args[0])
    if origin is Annotated:
        return fits(value, args[0]) and all(holds(value, each) for each in args[1:])
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in args)
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in args)
    if of in (None, NoneType):
        return value is None
    return _of_class(value, origin or of, args, of)


def _of_class(value: Any, cls: Any, args: tuple[Any, ...], of: Any) -> bool:
    if typing_extensions.is_typeddict(cls):
        hints = HINTS(cls, include_extras=True)
        return type(value) is dict and cls.__required_keys__ <= value.keys() <= hints.keys() and _each(value, hints)
    if cls in EXACT:
        return type(value) is cls and not (isinstance(value, float) and not math.isfinite(value))
    if cls is Path:
        return isinstance(value, Path)
    if not isinstance(value, cls):
        return False
    if issubclass(cls, enum.Enum | str | int | float | bytes):
        return not isinstance(value, float) or math.isfinite(value)
    if issubclass(cls, RootModel):
        return fits(value.root, cls.model_fields["root"].annotation)
    if issubclass(cls, BaseModel):
        fields = cls.model_fields
        return all(
            fits(getattr(value, name), each.annotation)
            and all(holds(getattr(value, name), one) for one in each.metadata)
            for name, each in fields.items()
        )
    if dataclasses.is_dataclass(cls):
        return _each(
            {each.name: getattr(value, each.name) for each in dataclasses.fields(cls)}, HINTS(cls, include_extras=True)
        )
    if hasattr(cls, "_fields"):
        return _each(value._asdict(), HINTS(cls, include_extras=True))
    if issubclass(cls, collections.abc.Iterable):
        return _inside(value, cls, args, of)
    hints = HINTS(cls.__init__, include_extras=True)
    return all(fits(getattr(value, name), hints[name]) for name in list(inspect.signature(cls).parameters))


def _each(values: dict[str, Any], hints: dict[str, Any]) -> bool:
    return all(fits(each, hints[name]) for name, each in values.items())


def _inside(value: Any, cls: Any, args: tuple[Any, ...], of: Any) -> bool:
    if cls in READ_AS and not isinstance(value, list):
        return inspect.isgenerator(value) or type(value).__name__ == "ValidatorIterator"
    if not args:
        base = next(iter(getattr(cls, "__orig_bases__", ())), None)
        args = get_args(base)
        if not args or isinstance(value, str | bytes):
            return True
    if isinstance(value, tuple):
        if len(args) == 2 and args[1] is Ellipsis:
            return all(fits(each, args[0]) for each in value)
        args = () if args == ((),) else args
        return len(value) == len(args) and all(fits(each, arg) for each, arg in zip(value, args, strict=True))
    if isinstance(value, Counter):
        return all(fits(key, args[0]) and type(each) is int for key, each in value.items())
    if isinstance(value, collections.abc.Mapping):
        return all(fits(key, args[0]) and fits(each, args[1]) for key, each in value.items())
    return all(fits(each, args[0]) for each in value)


def holds(value: Any, constraint: Any) -> bool:
    """Tell whether `value` keeps to one of the constraints of an Annotated type."""
    inner = getattr(constraint, "metadata", None)
    if isinstance(inner, list):
        return all(holds(value, each) for each in inner)
    told = {name: getattr(constraint, name, None) for name in ("gt", "ge", "lt", "le", "multiple_of")}
    try:
        size = len(value)
    except TypeError:
        size = 0
    pattern = getattr(constraint, "pattern", None)
    return not any(
        (
            told["gt"] is not None and not value > told["gt"],
            told["ge"] is not None and not value >= told["ge"],
            told["lt"] is not None and not value < told["lt"],
            told["le"] is not None and not value <= told["le"],
            told["multiple_of"] is not None and value % told["multiple_of"] != 0,
            (getattr(constraint, "min_length", None) or 0) > size,
            (getattr(constraint, "max_length", None) or size) < size,
            isinstance(pattern, str) and re.search(pattern, value) is None,
        )
    )
