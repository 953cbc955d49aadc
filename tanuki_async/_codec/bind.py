"""From the arguments of one call to checked values and their JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from tanuki_async._codec.core import kinds_in
from tanuki_async._codec.finite import NUMBERS, is_finite, may_overflow
from tanuki_async._codec.media import RECORD
from tanuki_async._errors import InputError, clip
from tanuki_async._records import Attached, JsonValue, Turn

Kind = Literal["positional_only", "positional_or_keyword", "var_positional", "keyword_only", "var_keyword"]

_SHOWN = 80
_SCALARS = ("str", "int", "float", "bool", "none")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parameter:
    """One parameter of a stub. For *args and **kwargs, annotation and adapter are those of one item."""

    name: str
    kind: Kind
    text: str
    adapter: TypeAdapter[Any]
    has_default: bool = False
    default: Any = None
    media: frozenset[Attached] = frozenset()  # what its values may hold beside text


class Call:
    """The checked arguments of one call. Rendered as JSON when they were checked, so later changes do not show."""

    __slots__ = ("_binder", "_parts", "_values")

    def __init__(self, binder: Binder, values: list[Any], parts: list[bytes]) -> None:
        self._binder, self._values, self._parts = binder, values, parts

    @property
    def values(self) -> dict[str, Any]:
        """Each parameter's checked Python value."""
        return dict(zip(self._binder.names, self._values, strict=True))

    @property
    def args_json(self) -> bytes:
        """A JSON list: what may be given by place, then what *args took."""
        count, rest = self._binder.places, self._binder.rest
        items = self._parts[:count]
        if rest is not None and (inside := self._parts[rest][1:-1]):
            items = [*items, inside]
        return b"[%b]" % b",".join(items)

    @property
    def kwargs_json(self) -> bytes:
        """A JSON object: keyword-only parameters, then what **kwargs took."""
        if self._binder.only_places:
            return b"{}"
        items = [self._binder.keys[place] + self._parts[place] for place in self._binder.keyword_only]
        more = self._binder.more
        if more is not None and (inside := self._parts[more][1:-1]):
            items.append(inside)
        return b"{%b}" % b",".join(items)

    @property
    def text(self) -> str:
        """A JSON object from parameter name to value, in the order of declaration."""
        items = map(bytes.__add__, self._binder.keys, self._parts)
        return (b"{%b}" % b",".join(items)).decode()

    def turn(self) -> Turn:
        """Return the message that shows the arguments to a model."""
        return Turn("user", self.text)

    def inputs(self) -> dict[str, JsonValue]:
        """Return each parameter's value as plain JSON."""
        decoded: dict[str, JsonValue] = from_json(self.text)
        return decoded


class Binder:
    """Matches arguments with parameters as Python does, checks each, and writes it as JSON."""

    def __init__(self, name: str, signature: str, parameters: Sequence[Parameter], receiver: str | None) -> None:
        kinds = [parameter.kind for parameter in parameters]
        self._name, self._signature, self._receiver = name, signature, receiver
        self.parameters = tuple(parameters)
        self.names = tuple(parameter.name for parameter in parameters)
        self.keys = tuple(json.dumps(name, ensure_ascii=False).encode() + b":" for name in self.names)
        self.places = sum(kind in ("positional_only", "positional_or_keyword") for kind in kinds)
        self.rest = kinds.index("var_positional") if "var_positional" in kinds else None
        self.more = kinds.index("var_keyword") if "var_keyword" in kinds else None
        self.keyword_only = tuple(place for place, kind in enumerate(kinds) if kind == "keyword_only")
        self.only_places = self.places == len(kinds)
        self._codecs = tuple(map(_codec, parameters))
        self._by_name = {
            item.name: place
            for place, item in enumerate(parameters)
            if item.kind in ("positional_or_keyword", "keyword_only")
        }
        self._defaults = {place: self._default(place) for place, item in enumerate(parameters) if item.has_default}

    def _default(self, place: int) -> tuple[Any, bytes]:
        parameter = self.parameters[place]
        return self._checked(place, parameter.default)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Check the arguments of one call. InputError names the parameter that does not fit."""
        if self._receiver is not None:
            args, kwargs = self._without_receiver(args, kwargs)
        if kwargs or len(args) != self.places or not self.only_places:
            return self._bind_any(args, kwargs)
        values: list[Any] = []
        parts: list[bytes] = []
        try:
            for (validate, write), value in zip(self._codecs, args, strict=True):
                checked = validate(value)
                values.append(checked)
                parts.append(write(checked))
        except (ValidationError, PydanticSerializationError) as error:
            place = len(parts)
            raise self._misfit(place, args[place], error) from error
        return Call(self, values, parts)

    def fit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Check the arguments of a recorded call, which never hold self or cls."""
        return self._bind_any(args, kwargs)

    def _without_receiver(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        if args:
            return args[1:], kwargs
        if self._receiver not in kwargs:
            raise self._wrong(None, f"{self._receiver!r} is missing: call it on an instance")
        return args, {name: value for name, value in kwargs.items() if name != self._receiver}

    def _bind_any(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        given, rest, more = self._match(args, kwargs)
        values: list[Any] = []
        parts: list[bytes] = []
        value: Any
        for place, parameter in enumerate(self.parameters):
            if place == self.rest:
                value, part = self._checked_rest(place, rest)
            elif place == self.more:
                value, part = self._checked_more(place, more)
            elif place in given:
                value, part = self._checked(place, given[place])
            elif place in self._defaults:
                value, part = self._defaults[place]
            else:
                raise self._wrong(parameter.name, "is missing")
            values.append(value)
            parts.append(part)
        return Call(self, values, parts)

    def _match(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[dict[int, Any], tuple[Any, ...], dict[str, Any]]:
        given: dict[int, Any] = dict(enumerate(args[: self.places]))
        if len(args) > self.places and self.rest is None:
            raise self._wrong(None, f"takes {self.places} arguments by place, but got {len(args)}")
        more: dict[str, Any] = {}
        for name, value in kwargs.items():
            place = self._by_name.get(name)
            if place is None:
                more[name] = value
            elif place in given:
                raise self._wrong(name, "is given twice, by place and by name")
            else:
                given[place] = value
        if more and self.more is None:
            raise self._wrong(next(iter(more)), "is not a parameter that may be given by name")
        return given, args[self.places :], more

    def _checked(self, place: int, value: Any) -> tuple[Any, bytes]:
        validate, write = self._codecs[place]
        try:
            checked = validate(value)
            return checked, write(checked)
        except (ValidationError, PydanticSerializationError) as error:
            raise self._misfit(place, value, error) from error

    def _checked_rest(self, place: int, rest: tuple[Any, ...]) -> tuple[tuple[Any, ...], bytes]:
        pairs = [self._checked(place, value) for value in rest]
        return tuple(value for value, _ in pairs), b"[%b]" % b",".join([part for _, part in pairs])

    def _checked_more(self, place: int, more: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        pairs = {name: self._checked(place, value) for name, value in more.items()}
        inside = b",".join([to_json(name) + b":" + part for name, (_, part) in pairs.items()])
        return {name: value for name, (value, _) in pairs.items()}, b"{%b}" % inside

    def inputs_of(self, args: Sequence[JsonValue], kwargs: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Give recorded arguments their names. What the stub has no place for is left out."""
        inputs: dict[str, JsonValue] = {}
        for place, name in enumerate(self.names):
            if place == self.rest:
                inputs[name] = list(args[self.places :])
            elif place == self.more:
                inputs[name] = {key: value for key, value in kwargs.items() if key not in self._by_name}
            elif place < self.places and place < len(args):
                inputs[name] = args[place]
            elif name in kwargs:
                inputs[name] = kwargs[name]
            elif place in self._defaults:
                inputs[name] = from_json(self._defaults[place][1])
        return inputs

    def text_of(self, args: Sequence[JsonValue], kwargs: Mapping[str, JsonValue]) -> str:
        """Return what `Call.text` was for recorded arguments, byte for byte."""
        return to_json(self.inputs_of(args, kwargs)).decode()

    def turn_of(self, args: Sequence[JsonValue], kwargs: Mapping[str, JsonValue]) -> Turn | None:
        """Return what `Call.turn` was for recorded arguments; None where a record has not kept all that it shows."""
        return Turn("user", self.text_of(args, kwargs))

    def _wrong(self, parameter: str | None, reason: str) -> InputError:
        return InputError(self._name, parameter, f"{reason}; the signature is {clip(self._signature)}")

    def _misfit(self, place: int, value: Any, error: Exception) -> InputError:
        parameter = self.parameters[place]
        shown = clip(_shown(value), _SHOWN)
        return InputError(
            self._name, parameter.name, f"should be {clip(parameter.text)}, got {shown}: {complaint_text(error)}"
        )


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  # a user's repr may fail in any way; the message matters more
        return f"<{type(value).__name__}>"


def complaint_text(error: Exception) -> str:
    """Say in one line what pydantic found wrong first, and how much more there is."""
    if not isinstance(error, ValidationError):
        return f"cannot be written as JSON ({clip(' '.join(str(error).split()))})"
    first, *others = error.errors(include_url=False, include_context=False, include_input=False)
    where = ".".join(str(step) for step in first["loc"])
    also = f", and {len(others)} more" if others else ""
    return f"{f'at {where}: ' if where else ''}{clip(first['msg'])}{also}"


Codec = tuple[Callable[[Any], Any], Callable[[Any], bytes]]


def _codec(parameter: Parameter) -> Codec:
    """Return a parameter's validator, and its writer of JSON that validates again."""
    adapter = parameter.adapter
    if parameter.media:
        return adapter.validator.validate_python, writer(adapter, RECORD)
    to_bytes: Callable[..., bytes] = adapter.serializer.to_json
    if adapter.core_schema["type"] in _SCALARS:
        return adapter.validator.validate_python, to_bytes
    # Aliases and `round_trip`, because records are validated again. No warnings: a model's own defaults need not fit.
    write = partial(to_bytes, by_alias=True, round_trip=True, warnings=False)
    return adapter.validator.validate_python, _finite(adapter, write) if kinds_in(
        adapter.core_schema
    ) & NUMBERS else write


def _finite(adapter: TypeAdapter[Any], write: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Refuse numbers that JSON does not have, and would be null there."""

    def checked(value: Any) -> bytes:
        output = write(value)
        if may_overflow(output) and not is_finite(adapter.serializer.to_python(value, warnings=False)):
            raise PydanticSerializationError("a number in it is not finite")
        return output

    return checked


def writer(adapter: TypeAdapter[Any], context: object) -> Callable[[Any], bytes]:
    """Return a writer as `_codec` has it, for values that hold media: `context` tells how these are written."""
    to_bytes: Callable[..., bytes] = adapter.serializer.to_json
    return partial(to_bytes, by_alias=True, round_trip=True, warnings=False, context=context)
