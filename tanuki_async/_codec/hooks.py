"""What our rewritten annotations tell pydantic: how to build subclasses of containers, and plain classes."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from typing import Any, cast

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema, to_json

# A subclass of one of these is made from a value of its base; the narrower ones come first.
BUILT_FROM_BASE: tuple[Any, ...] = (
    *(list, set, frozenset, tuple, deque),
    *(OrderedDict, defaultdict, Counter, dict),
    *(str, int, float, bytes),
)


@dataclass(frozen=True, slots=True)
class EmbeddingMarker:
    """Marks a return annotation as an embedding."""


@dataclass(frozen=True, slots=True)
class Root:
    """Reads a whole annotation. A config may stand beside it even where the annotation is a dataclass or TypedDict."""

    annotation: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(self.annotation)


@dataclass(frozen=True, slots=True)
class Ordered:
    """Writes a set in one order: its own changes from process to process, and a record or prompt would with it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        write = core_schema.wrap_serializer_function_ser_schema(self._write, schema=schema, when_used="json")
        return cast(CoreSchema, {**schema, "serialization": write})

    def _write(self, value: Any, handler: core_schema.SerializerFunctionWrapHandler) -> Any:
        return sorted(handler(value), key=to_json)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Takes a str for bytes as UTF-8 where Python calls, though in JSON it is base64."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._validate, handler(source))

    def _validate(self, value: Any, info: core_schema.ValidationInfo) -> Any:
        return value.encode() if isinstance(value, str) and info.mode == "python" else value


@dataclass(frozen=True, slots=True)
class Members:
    """Takes options by their JSON, where pydantic takes them by their Python values only."""

    by_json: tuple[tuple[bytes, Any], ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._validate, handler(source))

    def _validate(self, value: Any, info: core_schema.ValidationInfo) -> Any:
        return dict(self.by_json).get(to_json(value), value) if info.mode == "json" else value


@dataclass(frozen=True, slots=True)
class AsSubclass:
    """Validates as the base that it annotates, then builds the subclass from it."""

    cls: type
    reference: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        write = None
        if issubclass(self.cls, deque):  # pydantic 2.11 writes a deque by its own class, and no other
            write = core_schema.wrap_serializer_function_ser_schema(_as_deque, schema=schema, when_used="json")
        return core_schema.no_info_wrap_validator_function(
            self._validate, schema, ref=self.reference, serialization=write
        )

    def _validate(self, value: Any, handler: core_schema.ValidatorFunctionWrapHandler) -> Any:
        checked = handler(value)
        if isinstance(value, self.cls) and checked == value:
            return value
        built = _construct(self.cls, _arguments(checked), {})
        if built != checked:
            raise PydanticCustomError(
                "construct", "{cls}(…) does not keep what it is given", {"cls": self.cls.__name__}
            )
        return built


def _as_deque(value: Any, handler: core_schema.SerializerFunctionWrapHandler) -> Any:
    return handler(deque(value))


def _arguments(checked: Any) -> tuple[Any, ...]:
    """Return what to call the subclass with, as its base would be called."""
    given: Any = checked
    if isinstance(checked, deque):
        return (given, given.maxlen)
    if isinstance(checked, defaultdict):
        return (given.default_factory, given)
    return (checked,)


def _construct(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return cls(*args, **kwargs)
    except (TypeError, ValueError) as error:
        reason = {"cls": cls.__name__, "error": str(error)}
        raise PydanticCustomError("construct", "{cls} cannot be built from this: {error}", reason) from error


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter of a plain class: its rewritten annotation, and whether it must be given."""

    annotation: Any
    required: bool


@dataclass(frozen=True, slots=True, eq=False)
class ByInit:
    """Builds an instance from validated `__init__` arguments, and writes it by the attributes of the same names."""

    cls: type
    fields: dict[str, Field]
    reference: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = core_schema.typed_dict_schema(
            {
                name: core_schema.typed_dict_field(handler.generate_schema(field.annotation), required=field.required)
                for name, field in self.fields.items()
            },
            cls_name=self.cls.__name__,
        )
        write = core_schema.wrap_serializer_function_ser_schema(self._attributes, schema=inner)
        return core_schema.no_info_wrap_validator_function(
            self._validate, inner, ref=self.reference, serialization=write
        )

    def _validate(self, value: Any, handler: core_schema.ValidatorFunctionWrapHandler) -> Any:
        return value if isinstance(value, self.cls) else _construct(self.cls, (), handler(value))

    def _attributes(self, value: Any, handler: core_schema.SerializerFunctionWrapHandler) -> Any:
        return handler({name: getattr(value, name) for name in self.fields})


@dataclass(frozen=True, slots=True)
class Again:
    """Stands for a class of ours inside itself."""

    reference: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.definition_reference_schema(self.reference)
