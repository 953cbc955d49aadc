"""Writes annotations and the types they name as canonical text, the same on every Python and pydantic version."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import types
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, cast, get_args, get_origin

import typing_extensions
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tanuki_async._codec.constraints import attributes, constraints, field_texts
from tanuki_async._codec.hints import (
    Namespace,
    Unresolved,
    bases_of,
    class_hints_of,
    init_hints_of,
    is_alias_type,
    is_bare,
    is_library,
    is_named_tuple,
    is_plain,
    members,
)
from tanuki_async._codec.hooks import BUILT_FROM_BASE, EmbeddingMarker
from tanuki_async._codec.media import Media
from tanuki_async._codec.shapes import is_object


class Renderer:
    """Renders annotations, and remembers the classes met so that `definitions` can spell them out.

    With `canonical`, alternatives are sorted: typing's caches may hand out `Literal["b", "a"]` where `Literal["a",
    "b"]` was written, depending on what ran before.
    """

    def __init__(self, namespace: Namespace, *, canonical: bool) -> None:
        self._namespace = namespace
        self._canonical = canonical
        self._met: list[Any] = []
        self._seen: set[int] = set()

    def text(self, annotation: Any) -> str:
        """Render one annotation."""
        if annotation is None or annotation is NoneType:
            return "None"
        if isinstance(annotation, str):
            return annotation
        if isinstance(annotation, ForwardRef):
            return annotation.__forward_arg__
        if isinstance(annotation, list):  # the parameters of a Callable
            return f"[{', '.join(map(self.text, cast(Any, annotation)))}]"
        if get_origin(annotation) is None or is_bare(annotation, get_origin(annotation)):
            return self._named(get_origin(annotation) or annotation)
        return self._parameterised(annotation)

    def _named(self, annotation: Any) -> str:
        if annotation is ...:
            return "..."
        if isinstance(annotation, TypeVar):
            return annotation.__name__
        generic = getattr(annotation, "__pydantic_generic_metadata__", None)
        if generic and generic["origin"]:
            self._meet(annotation)
            return f"{generic['origin'].__name__}[{', '.join(map(self.text, generic['args']))}]"
        if isinstance(annotation, type) or is_alias_type(annotation) or hasattr(annotation, "__supertype__"):
            self._meet(annotation)
            return str(annotation.__name__)
        return _special_name(annotation)

    def _parameterised(self, annotation: Any) -> str:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Literal:
            return f"Literal[{', '.join(self._ordered([value_text(value) for value in arguments]))}]"
        if origin is Annotated:
            return self._annotated(annotation)
        if (alternatives := members(annotation)) is not None:
            return self._union([self.text(item) for item in alternatives])
        inside = ", ".join(map(self.text, arguments)) or "()"
        return f"{self._named(origin)}[{inside}]"

    def _annotated(self, annotation: Any) -> str:
        inner, *metadata = get_args(annotation)
        if any(isinstance(item, EmbeddingMarker) for item in metadata):
            return f"Embedding[{self.text(inner)}]"
        notes = self.notes(metadata)
        return f"Annotated[{', '.join([self.text(inner), *notes])}]" if notes else self.text(inner)

    def _union(self, alternatives: list[str]) -> str:
        named = self._ordered([text for text in dict.fromkeys(alternatives) if text != "None"])
        return " | ".join([*named, "None"] if "None" in alternatives else named)

    def _ordered(self, texts: list[str]) -> list[str]:
        return sorted(texts) if self._canonical else texts

    def notes(self, metadata: Iterable[Any]) -> list[str]:
        """Render constraints, sorted."""
        return sorted(
            f"{name}={value_text(value)}" if name else value_text(value) for name, value in constraints(metadata)
        )

    def _meet(self, cls: Any) -> None:
        if id(cls) not in self._seen:
            self._seen.add(id(cls))
            self._met.append(cls)

    def definitions(self) -> list[str]:
        """Spell out every class met so far and those met on the way, sorted."""
        texts: list[str] = []
        for cls in self._met:  # grows while it is walked
            text = self._definition(cls)
            if text is not None:
                texts.append(text)
        return sorted(texts)

    def _definition(self, cls: Any) -> str | None:
        if is_alias_type(cls):
            return f"type {cls.__name__} = {self.text(cls.__value__)}"
        if hasattr(cls, "__supertype__"):
            return f"newtype {cls.__name__} = {self.text(cls.__supertype__)}"
        if is_library(cls) or issubclass(cls, Media):
            return None
        kind, lines = self._fields(cls)
        return "\n".join([f"{kind} {self._title(cls)}", *_doc_lines(cls), *lines])

    def _title(self, cls: type) -> str:
        generic = getattr(cls, "__pydantic_generic_metadata__", None)
        return self._named(cls) if generic and generic["origin"] else cls.__name__

    def _fields(self, cls: Any) -> tuple[str, list[str]]:
        if issubclass(cls, enum.Enum):
            return "enum", [f"{member.name} = {value_text(member.value)}" for member in cls]
        if issubclass(cls, BaseModel):
            config = [f"config {name}={value_text(value)}" for name, value in sorted(cls.model_config.items())]
            return "model", config + [self._model_field(name, field) for name, field in cls.model_fields.items()]
        if dataclasses.is_dataclass(cls):
            return "dataclass", self._dataclass(cls)
        if typing_extensions.is_typeddict(cls):
            return "typeddict", self._typed_dict(cls)
        if is_named_tuple(cls):
            hints, defaults = self._hints(cls), cls._field_defaults
            return "namedtuple", [self._line(name, hints.get(name, "Any"), defaults) for name in cls._fields]
        if is_plain(cls) and not issubclass(cls, BUILT_FROM_BASE):
            return "class", self._bases(cls) + self._init(cls)
        return "class", self._bases(cls)

    def _hints(self, cls: Any) -> Mapping[str, Any]:
        try:
            return class_hints_of(cls, self._namespace)
        except Unresolved:
            return dict(getattr(cls, "__annotations__", {}))  # as it is written

    def _line(self, name: str, hint: Any, defaults: Mapping[str, Any]) -> str:
        default = f" = {value_text(defaults[name])}" if name in defaults else ""
        return f"{name}: {self.text(hint)}{default}"

    def _model_field(self, name: str, field: FieldInfo) -> str:
        texts = [f"{key}={value_text(value)}" for key, value in field_texts(field)]
        inner = self.text(field.annotation)
        notes = sorted({*self.notes(field.metadata), *texts})
        hint = f"Annotated[{', '.join([inner, *notes])}]" if notes else inner
        return f"{name}: {hint}{_field_default(field)}"

    def _dataclass(self, cls: Any) -> list[str]:
        hints, lines = self._hints(cls), list[str]()
        for field in dataclasses.fields(cls):
            hint = hints.get(field.name, field.type)
            if isinstance(field.default, FieldInfo):
                lines.append(
                    f"{field.name}: {self.text(Annotated[hint, field.default])}{_field_default(field.default)}"
                )
            elif field.default_factory is not dataclasses.MISSING:
                lines.append(f"{field.name}: {self.text(hint)} = {value_text(field.default_factory)}()")
            else:
                defaults = {} if field.default is dataclasses.MISSING else {field.name: field.default}
                lines.append(self._line(field.name, hint, defaults))
        return lines

    def _typed_dict(self, cls: Any) -> list[str]:
        hints, lines = self._hints(cls), list[str]()
        for name, hint in hints.items():
            optional = name in cls.__optional_keys__ and get_origin(hint) not in (
                typing_extensions.Required,
                typing_extensions.NotRequired,
            )
            lines.append(f"{name}: {f'NotRequired[{self.text(hint)}]' if optional else self.text(hint)}")
        return lines

    def _bases(self, cls: Any) -> list[str]:
        bases = [base for base in bases_of(cls, self._namespace) if base is not object]
        return [f"is {self.text(base)}" for base in bases]

    def _init(self, cls: Any) -> list[str]:
        hints = init_hints_of(cls, self._namespace)
        parameters = list(inspect.signature(cls).parameters.values())
        return [
            self._line(
                item.name, hints.get(item.name, "Any"), {} if item.default is item.empty else {item.name: item.default}
            )
            for item in parameters
        ]


def _special_name(annotation: Any) -> str:
    name = getattr(annotation, "_name", None) or getattr(annotation, "__name__", None)
    return str(name) if name else type(annotation).__name__


def _doc_lines(cls: Any) -> list[str]:
    """Return the class's own docstring, leaving out what `dataclass` and `NamedTuple` write themselves."""
    doc = cls.__dict__.get("__doc__")
    if not doc or doc.startswith(f"{cls.__name__}("):
        return []
    return [f'"""{tidy(doc)}"""']


def tidy(doc: str) -> str:
    """Return a docstring without indentation and without blanks at the end of lines."""
    return "\n".join(line.rstrip() for line in inspect.cleandoc(doc).split("\n"))


def _field_default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return f" = {value_text(field.default_factory)}()"
    return "" if field.is_required() else f" = {value_text(field.default)}"


_PLAIN_VALUES = (bool, int, float, complex, str, bytes, NoneType)
_NAMED_VALUES = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def value_text(value: Any) -> str:
    """Write a default or a constraint's value in a way that no address, hash seed or version changes."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if type(value) in _PLAIN_VALUES:
        return repr(value)
    if isinstance(value, _NAMED_VALUES):
        return str(value.__name__)
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(_value_texts(value)))}}}"
    if isinstance(value, list):
        return f"[{', '.join(_value_texts(value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(_value_texts(value))})"
    if isinstance(value, Mapping):
        return _mapping_text(cast(Any, value))
    return _object_text(value)


def _mapping_text(mapping: Mapping[Any, Any]) -> str:
    return f"{{{', '.join(f'{value_text(key)}: {value_text(value)}' for key, value in mapping.items())}}}"


def _value_texts(values: Any) -> list[str]:
    return [value_text(value) for value in values]


def _object_text(value: Any) -> str:
    cls: Any = value.__class__
    if isinstance(value, Media):
        return f"{cls.__name__}({value.url or value.sha256!r})"
    if isinstance(value, re.Pattern):
        return value_text(cast("re.Pattern[str]", value).pattern)
    if cls.__module__ in ("datetime", "decimal", "uuid", "fractions"):
        return repr(value)
    if cls.__module__.startswith("pathlib"):
        return f"Path({value.as_posix()!r})"
    if isinstance(value, BaseModel):
        dumped: Any = value.model_dump(warnings=False)  # of a RootModel: anything
        inside: Mapping[str, Any] = dumped if is_object(dumped) else {"root": dumped}
    elif dataclasses.is_dataclass(value):
        inside = attributes(value)
    else:  # any object at all: only what is surely plain and has an end
        inside = {name: item for name, item in attributes(value).items() if type(item) in _PLAIN_VALUES}
    return f"{cls.__name__}({', '.join(f'{name}={value_text(item)}' for name, item in inside.items())})"
