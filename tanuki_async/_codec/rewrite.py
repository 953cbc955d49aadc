"""Rewrites annotations that pydantic refuses, or reads lazily, into ones that it builds and that mean the same."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import enum
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Annotated, Any, ForwardRef, Literal, NotRequired, Required, Union, get_args, get_origin

import typing_extensions
from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError

from tanuki_async._codec.choices import as_key, by_json, literal
from tanuki_async._codec.hints import (
    Namespace,
    bases_of,
    class_hints_of,
    init_hints_of,
    is_alias_type,
    is_bare,
    is_library,
    is_named_tuple,
    is_plain,
    members,
    substitute,
    substitution,
)
from tanuki_async._codec.hooks import (
    BUILT_FROM_BASE,
    Again,
    AsSubclass,
    ByInit,
    EmbeddingMarker,
    Encoded,
    Field,
    Ordered,
)
from tanuki_async._errors import StubError

# What pydantic would hand over as a generator that can be read once, or does not know, is read into a list or a set.
_READ_AS: dict[Any, Any] = {
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.MutableSequence: list,
    collections.abc.MutableSet: set,
}
_OPAQUE = frozenset({typing.ClassVar, get_origin(Callable[[], None]), type})
_JSON_SCALARS = (str, int, float, bool, NoneType)
_SETS: tuple[Any, ...] = (set, frozenset, collections.abc.Set)


class Rewriter:
    """Rewrites the annotations of one stub. Types that were not in need of it come back as they are."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._open: list[Any] = []  # classes being rewritten, to see recursion
        self._done: dict[Any, Any] = {}
        self._polishes = True
        self._looping: set[Any] = set()  # names of types that contain themselves
        self._ours: set[Any] = set()  # dataclasses that pydantic would refuse

    def rewrite(self, annotation: Any) -> Any:
        """Return what to give to pydantic for `annotation`."""
        if annotation is bytes and self._polishes:
            return Annotated[bytes, Encoded()]
        if isinstance(annotation, type) and not get_args(annotation):
            return self._class(annotation, ())
        if is_alias_type(annotation):
            return self._named(annotation)
        origin = get_origin(annotation)
        if origin is Literal:
            return literal(annotation)
        if origin is None or origin in _OPAQUE:
            return annotation
        if is_bare(annotation, origin):
            return self._class(origin, ()) if isinstance(origin, type) else annotation
        if origin is Annotated:
            return self._annotated(annotation)
        return self._alias(annotation, origin)

    def _annotated(self, annotation: Any) -> Any:
        inner, *metadata = get_args(annotation)
        if any(isinstance(item, EmbeddingMarker) for item in metadata):
            raise StubError("Embedding[…] may only be the whole return annotation: write `-> Embedding[list[float]]`")
        if inner is bytes and self._polishes:
            return Annotated[(bytes, *metadata, Encoded())]  # constraints are those of bytes
        rewritten = self.rewrite(inner)
        return annotation if rewritten is inner else Annotated[(rewritten, *metadata)]

    def _named(self, alias: Any) -> Any:
        """Read `type X = …` as what it stands for, unless that names itself or what is only known where it stands."""
        if alias in self._open or _names_later(alias.__value__):
            self._looping.add(alias)
            return alias
        self._open.append(alias)
        try:
            meant = self.rewrite(alias.__value__)
        finally:
            self._open.pop()
        return alias if alias in self._looping else meant

    def _alias(self, annotation: Any, origin: Any) -> Any:
        arguments = get_args(annotation)
        plain = (str, bytes) if str in arguments else ()  # beside str, a str is no bytes
        rewritten = tuple(each if each in plain else self.rewrite(each) for each in arguments)
        if rewritten and _is_mapping(origin):
            rewritten = (as_key(arguments[0], rewritten[0]), *rewritten[1:])
        if members(annotation) is not None:
            return annotation if rewritten == arguments else Union[rewritten]  # noqa: UP007
        if origin in _READ_AS or origin in _SETS:
            return self._ordered(_READ_AS.get(origin, origin), rewritten)
        if not _is_known(origin):
            special = self._class(origin, rewritten)
            if special is not origin:
                return special
        return annotation if rewritten == arguments else origin[rewritten]

    def _ordered(self, cls: Any, arguments: tuple[Any, ...]) -> Any:
        alias = cls[arguments] if arguments else cls
        return Annotated[alias, Ordered()] if cls in _SETS and self._polishes else alias

    def _class(self, cls: Any, arguments: tuple[Any, ...]) -> Any:
        if cls in _READ_AS or cls in _SETS:
            return self._ordered(_READ_AS.get(cls, cls), ())
        if issubclass(cls, enum.Enum) and not all(type(each.value) in _JSON_SCALARS for each in cls):
            return Annotated[cls, by_json(cls)]
        if _is_known(cls):
            return cls
        key = (cls, arguments)
        if key in self._done:
            return self._done[key]
        if cls in self._open:
            return self._recursion(cls, arguments)
        self._open.append(cls)
        try:
            self._done[key] = done = self._unknown_class(cls, arguments)
        finally:
            self._open.pop()
        return done

    def _recursion(self, cls: Any, arguments: tuple[Any, ...]) -> Any:
        if typing_extensions.is_typeddict(cls):
            return ForwardRef(cls.__name__)
        if dataclasses.is_dataclass(cls) and cls not in self._ours:
            return cls
        return Annotated[Any, Again(_reference(cls, arguments))]

    def _unknown_class(self, cls: Any, arguments: tuple[Any, ...]) -> Any:
        if typing_extensions.is_typeddict(cls):
            return self._typed_dict(cls, arguments)
        if dataclasses.is_dataclass(cls):
            return self._dataclass(cls, arguments)
        if is_named_tuple(cls):
            return cls
        for base in BUILT_FROM_BASE:
            if issubclass(cls, base):
                return self._subclass(cls, base, arguments)
        if not is_plain(cls) or _pydantic_builds(cls):
            return cls
        return self._by_init(cls, arguments, init_hints_of(cls, self._namespace))

    def _subclass(self, cls: Any, base: Any, arguments: tuple[Any, ...]) -> Any:
        inner = self.rewrite(self._parameterised(cls, base, arguments))
        return Annotated[inner, AsSubclass(cls, _reference(cls, arguments))]

    def _parameterised(self, cls: Any, base: Any, arguments: tuple[Any, ...]) -> Any:
        """Find what `base` was given in the ancestry of `cls`: `list[str]` for `class Names(list[str])`."""
        values = substitution(cls, arguments)
        for written in bases_of(cls, self._namespace):
            origin = get_origin(written) or written
            given = tuple(substitute(argument, values) for argument in get_args(written))
            if origin is base:
                return base[given] if given else base
            if isinstance(origin, type) and issubclass(origin, base):
                return self._parameterised(origin, base, given)
        return base

    def _dataclass(self, cls: Any, arguments: tuple[Any, ...]) -> Any:
        """Leave a dataclass to pydantic, unless one of its fields is what pydantic refuses."""
        if hasattr(cls, "__pydantic_validator__"):
            return cls
        hints = class_hints_of(cls, self._namespace)
        polishes, self._polishes = (
            self._polishes,
            False,
        )  # sets and bytes are no reason to build it ourselves
        try:
            as_it_is = all(self.rewrite(hints[field.name]) is hints[field.name] for field in dataclasses.fields(cls))
        finally:
            self._polishes = polishes
        if as_it_is:
            return cls
        self._ours.add(cls)
        self._done.clear()  # what was said of classes around this one took it for pydantic's
        return self._by_init(cls, arguments, hints)

    def _by_init(self, cls: Any, arguments: tuple[Any, ...], hints: Mapping[str, Any]) -> Any:
        values = substitution(cls, arguments)
        fields: dict[str, Field] = {}
        for parameter in inspect.signature(cls).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name not in hints:
                raise StubError(
                    f"class {cls.__name__}: parameter {parameter.name!r} of its __init__ has no annotation or a star; "
                    "annotate each, or make it a dataclass or a pydantic model"
                )
            annotation = self.rewrite(substitute(hints[parameter.name], values))
            fields[parameter.name] = Field(annotation, parameter.default is parameter.empty)
        return Annotated[Any, ByInit(cls, fields, _reference(cls, arguments))]

    def _typed_dict(self, cls: Any, arguments: tuple[Any, ...]) -> Any:
        """Rebuild a TypedDict: before Python 3.12 pydantic takes only those of typing_extensions."""
        hints = class_hints_of(cls, self._namespace)
        values = substitution(cls, arguments)
        fields: dict[str, Any] = {}
        for name, hint in hints.items():
            bare, required = _requirement(hint, name in cls.__required_keys__)
            inner = self.rewrite(substitute(bare, values))
            fields[name] = Required[inner] if required else NotRequired[inner]
        foreign = sys.version_info < (3, 12) and type(cls).__module__ == "typing"
        if not foreign and not arguments and _same_fields(hints, fields):
            return cls
        make: Any = typing_extensions.TypedDict  # type checkers know it only as a statement
        clone = make(cls.__name__, fields)
        clone.__module__, clone.__doc__ = cls.__module__, cls.__doc__
        if config := getattr(cls, "__pydantic_config__", None):
            clone.__pydantic_config__ = config
        return clone


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, collections.abc.Mapping)


def _names_later(annotation: Any) -> bool:
    """Tell whether a type is written with names in quotes."""
    if get_origin(annotation) is Literal:
        return False
    return isinstance(annotation, (str, ForwardRef)) or any(map(_names_later, get_args(annotation)))


def _same_fields(hints: dict[str, Any], fields: dict[str, Any]) -> bool:
    return all(_requirement(hints[name], True)[0] == get_args(fields[name])[0] for name in hints)


def _requirement(hint: Any, default: bool) -> tuple[Any, bool]:
    """Split `Required[X]` and `NotRequired[X]` into X and whether the key must be there."""
    origin = get_origin(hint)
    if origin in (Required, NotRequired):
        return get_args(hint)[0], origin is Required
    return hint, default


def _is_known(annotation: Any) -> bool:
    """Tell a class that pydantic itself reads, without asking it."""
    cls: Any = annotation
    if not isinstance(annotation, type) or issubclass(annotation, (BaseModel, enum.Enum)):
        return True
    if hasattr(cls, "__get_pydantic_core_schema__"):
        return True
    return is_library(cls)


def _pydantic_builds(cls: type) -> bool:
    try:
        TypeAdapter(cls)
    except PydanticSchemaGenerationError:
        return False
    return True


def _reference(cls: Any, arguments: tuple[Any, ...]) -> str:
    """Name a class and its arguments, as pydantic names the schemas that refer to themselves."""
    inside = ",".join(f"{getattr(item, '__name__', type(item).__name__)}:{id(item)}" for item in arguments)
    return f"{cls.__module__}.{cls.__qualname__}:{id(cls)}" + (f"[{inside}]" if inside else "")
