"""Values recorded elsewhere, fitted into the types of a function: what fits becomes a line, what does not a reason."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from tanuki_async._codec.bind import complaint_text
from tanuki_async._codec.describe import Call, FunctionSpec
from tanuki_async._errors import InputError, clip
from tanuki_async._lines import compact, encode_example, encode_line
from tanuki_async._records import Example, JsonValue

__all__ = ["MisfitError", "Names", "fit_example", "line_of", "names_in", "pair_of"]


class MisfitError(ValueError):
    """A value does not fit the function's types; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the parameters of a recorded function were called."""

    places: tuple[str, ...]
    rest: str | None = None
    by_name: tuple[str, ...] = ()
    more: str | None = None

    def inputs(self, args: Sequence[JsonValue], kwargs: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Give recorded arguments their names."""
        inputs = dict(zip(self.places, args, strict=False))
        if self.rest is not None and len(args) > len(self.places):
            inputs[self.rest] = list(args[len(self.places) :])
        return {**inputs, **kwargs}

    @property
    def all(self) -> tuple[str, ...]:
        """Every name there is."""
        return (*self.places, *filter(None, (self.rest,)), *self.by_name, *filter(None, (self.more,)))


def names_in(signature: str) -> Names | None:
    """Read the names of the parameters in a card's signature; None where it cannot be read."""
    try:
        (function,) = ast.parse(f"{signature.rstrip().removesuffix(':')}: ...").body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return None
    given = function.args
    return Names(
        places=tuple(each.arg for each in (*given.posonlyargs, *given.args)),
        rest=given.vararg.arg if given.vararg else None,
        by_name=tuple(each.arg for each in given.kwonlyargs),
        more=given.kwarg.arg if given.kwarg else None,
    )


def line_of(
    spec: FunctionSpec,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    outputs: Sequence[Any],
    *,
    source: Literal["align", "call"],
    at: str,
) -> bytes:
    """Make a line of Python values. The first of `outputs` that fits is taken. MisfitError where something does not."""
    call = _fitted(spec, args, kwargs)
    complaint: Exception | None = None
    for output in outputs:
        try:
            written = _output(spec, spec.output.validate_python(output))
        except (ValidationError, PydanticSerializationError, ValueError) as error:
            complaint = complaint or error
            continue
        return encode_line(
            args=call.args_json,
            kwargs=call.kwargs_json,
            output=written,
            source=source,
            repaired=False,
            model=None,
            at=at,
        )
    assert complaint is not None
    raise MisfitError(f"what it returns should be {clip(spec.output_text)}: {complaint_text(complaint)}")


def pair_of(
    spec: FunctionSpec, sides: Sequence[tuple[Sequence[Any], Mapping[str, Any]]], *, alike: bool, at: str
) -> bytes:
    """Make the line of a pair of inputs of an embedding."""
    if not spec.embedding:
        raise MisfitError(f"{spec.name}() returns no embedding, and this is a pair of inputs")
    calls = [_fitted(spec, args, kwargs) for args, kwargs in sides]
    if not alike and calls[0].text == calls[1].text:
        raise MisfitError("an input cannot differ from itself")
    parts: list[JsonValue] = [[*from_json(call.args_json), from_json(call.kwargs_json)] for call in calls]
    return encode_example(Example(args=tuple(parts), kwargs={}, output=alike, source="align", at=at))


def fit_example(spec: FunctionSpec, example: Example, names: Names | None) -> bytes:
    """Make the line that `example`, recorded by a function with parameters `names`, has under another function."""
    if spec.wire is None:
        raise MisfitError(f"{spec.name}() embeds its input; it has no answers")
    args, kwargs = _placed(spec, example, names)
    call = _fitted(spec, _read_args(spec, args), _read_kwargs(spec, kwargs))
    try:
        output = _output(spec, spec.wire.load(compact(example.output)))
    except ValueError as error:
        raise MisfitError(f"what it returns should be {clip(spec.output_text)}: {complaint_text(error)}") from error
    return encode_line(
        args=call.args_json,
        kwargs=call.kwargs_json,
        output=output,
        source=example.source,
        repaired=example.repaired,
        model=example.model,
        at=example.at,
        redacted=example.redacted,
    )


def _placed(spec: FunctionSpec, example: Example, names: Names | None) -> tuple[list[JsonValue], dict[str, JsonValue]]:
    """Put recorded arguments where the new function has the parameters of their names."""
    if names is None:
        return list(example.args), dict(example.kwargs)
    inputs = names.inputs(example.args, example.kwargs)
    kinds = {each.name: each.kind for each in spec.parameters}
    if not any(kind == "var_keyword" for kind in kinds.values()) and (gone := inputs.keys() - kinds.keys()):
        raise MisfitError(f"{spec.name}() has no parameter {min(gone)!r}")
    args: list[JsonValue] = []
    for each in spec.parameters:
        if each.kind in ("positional_only", "positional_or_keyword") and each.name in inputs:
            if len(args) < list(kinds).index(each.name):
                break  # one before it is left to its default; this one is given by name
            args.append(inputs.pop(each.name))
        elif each.kind == "var_positional":
            rest = inputs.pop(each.name, [])
            args += rest if isinstance(rest, list) else [rest]
    return args, inputs


def _fitted(spec: FunctionSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    try:
        return spec.fit(tuple(args), kwargs)
    except InputError as error:
        raise MisfitError(str(error)) from error


def _read_args(spec: FunctionSpec, args: Sequence[JsonValue]) -> list[Any]:
    places = [each for each in spec.parameters if each.kind in ("positional_only", "positional_or_keyword")]
    rest = [each for each in spec.parameters if each.kind == "var_positional"] * max(0, len(args) - len(places))
    read = [_read_back(each.adapter, value, each.name) for each, value in zip(places + rest, args, strict=False)]
    return read + list(args[len(read) :])  # one too many is told when they are matched


def _read_kwargs(spec: FunctionSpec, kwargs: Mapping[str, JsonValue]) -> dict[str, Any]:
    known = {each.name: each.adapter for each in spec.parameters}
    more = next((each.adapter for each in spec.parameters if each.kind == "var_keyword"), None)
    read: dict[str, Any] = {}
    for name, value in kwargs.items():
        adapter = known.get(name, more)
        read[name] = value if adapter is None else _read_back(adapter, value, name)
    return read


def _read_back(adapter: TypeAdapter[Any], value: JsonValue, name: str) -> Any:
    """Return the value that JSON stands for; recorded JSON is read by its own rules, as strict types want it."""
    try:
        return adapter.validator.validate_json(to_json(value))
    except ValidationError as error:
        raise MisfitError(f"{name!r}: {complaint_text(error)}") from error


def _output(spec: FunctionSpec, value: Any) -> bytes:
    if spec.wire is None:
        raise MisfitError(f"{spec.name}() embeds its input; it has no answers")
    return spec.wire.dump(value)
