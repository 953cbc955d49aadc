"""What must not be stored is replaced before it is queued; models see it, as they have to."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from pydantic_core import from_json

from tanuki_async._codec.describe import Call, FunctionSpec
from tanuki_async._errors import SettingsError
from tanuki_async._lines import decode_line, encode_example
from tanuki_async._records import Example, JsonValue
from tanuki_async._settings import nearest

__all__ = ["MARKER", "OUTPUT", "Redaction", "redaction"]

MARKER = "[redacted]"
OUTPUT = "return"
"""How a path names what a function answered: no parameter can be called so."""

Rule: TypeAlias = Callable[[Example], Example | None]
logger = logging.getLogger("tanuki_async.record")


class Redaction:
    """Takes out of examples what must not be kept. What a rule fails at is not kept at all."""

    def __init__(self, spec: FunctionSpec, rules: Sequence[Rule]) -> None:
        self._spec, self._rules = spec, rules
        self._failing = False

    def example(self, example: Example) -> Example | None:
        """Return what may be stored, marked as redacted where it differs, or None where nothing may. Never raises."""
        try:
            kept: Example | None = example
            for rule in self._rules:
                if kept is None:
                    return None
                kept = rule(kept)
            if kept is None or kept == example:
                return kept
            return dataclasses.replace(kept, redacted=True)
        except Exception:  # rules are a user's own; what they could not look at is not stored
            if not self._failing:
                self._failing = True
                logger.exception("%s(): examples are not kept, as redacting them fails", self._spec.name)
            return None

    def line(self, line: bytes) -> bytes | None:
        """Do the same with a line."""
        example = decode_line(line)
        kept = self._pair(example) if self._spec.embedding else self.example(example)
        if kept is example:
            return line
        if kept is None:
            return None
        try:
            return encode_example(kept)
        except (ValueError, TypeError) as error:
            logger.error("%s(): an example is not kept: after redaction it is no JSON (%s)", self._spec.name, error)
            return None

    def inputs(self, call: Call) -> Mapping[str, JsonValue] | None:
        """Return the inputs of a call as a student has learnt to see them; None for one that it would not know."""
        args, kwargs = tuple(from_json(call.args_json)), from_json(call.kwargs_json)
        kept = self.example(Example(args=args, kwargs=kwargs, output=None, source="call"))
        return None if kept is None else self._spec.inputs_of(kept.args, kept.kwargs)

    def remembering(self, remember: Callable[[str, bytes], None]) -> Callable[[str, bytes], None]:
        """Return what queues a line after redacting it."""

        def redacted(name: str, line: bytes) -> None:
            kept = self.line(line)
            if kept is not None:
                remember(name, kept)

        return redacted

    def _pair(self, pair: Example) -> Example | None:
        sides: list[JsonValue] = []
        for side in cast("Sequence[list[Any]]", pair.args):
            *args, kwargs = side
            kept = self.example(Example(args=tuple(args), kwargs=kwargs, output=None, source="align"))
            if kept is None:
                return None
            sides.append([*kept.args, dict(kept.kwargs)])
        return pair if tuple(sides) == pair.args else dataclasses.replace(pair, args=tuple(sides), redacted=True)


def redaction(spec: FunctionSpec, ours: object, general: object) -> Redaction | None:
    """Make what `@patch(redact=…)` and `Tanuki(redact=…)` say of one function; None where nothing is to be done.

    SettingsError where the function's own names no parameter of it; the general one may name those of others.
    """
    rules = [*_rules(spec, general, strict=False), *_rules(spec, ours, strict=True)]
    return Redaction(spec, rules) if rules else None


def _rules(spec: FunctionSpec, wanted: object, *, strict: bool) -> list[Rule]:
    if wanted is None:
        return []
    if callable(wanted):
        return [cast("Rule", wanted)]
    names = [each.name for each in spec.parameters]
    paths = [path.split(".") for path in cast("Sequence[str]", wanted)]
    if strict and (unknown := next((path[0] for path in paths if path[0] not in (*names, OUTPUT)), None)):
        raise SettingsError(
            f"{spec.name}(): redact names no parameter: {unknown!r}{nearest(unknown, [*names, OUTPUT])}"
        )
    known = [path for path in paths if path[0] in (*names, OUTPUT)]
    return [_Paths(spec, known)] if known else []


class _Paths:
    """Replaces what stands at the ends of paths by a marker. Lists on the way are gone through, item by item."""

    def __init__(self, spec: FunctionSpec, paths: Sequence[Sequence[str]]) -> None:
        self._paths = paths
        kinds = {each.name: each.kind for each in spec.parameters}
        self._places = [name for name, kind in kinds.items() if kind.startswith("positional")]
        self._rest = next((name for name, kind in kinds.items() if kind == "var_positional"), None)
        self._more = next((name for name, kind in kinds.items() if kind == "var_keyword"), None)
        self._by_name = {name for name, kind in kinds.items() if kind in ("positional_or_keyword", "keyword_only")}

    def __call__(self, example: Example) -> Example:
        args, kwargs, output = list(example.args), dict(example.kwargs), example.output
        for first, *path in self._paths:
            if first == OUTPUT:
                output = _replaced(output, path)
            elif first == self._rest:
                count = len(self._places)
                args[count:] = [_replaced(value, path) for value in args[count:]]
            elif first == self._more:
                kwargs.update({key: _beyond(key, value, path) for key, value in kwargs.items() if self._is_more(key)})
            elif first in self._places and (place := self._places.index(first)) < len(args):
                args[place] = _replaced(args[place], path)
            elif first in kwargs:
                kwargs[first] = _replaced(kwargs[first], path)
        return dataclasses.replace(example, args=tuple(args), kwargs=kwargs, output=output)

    def _is_more(self, key: str) -> bool:
        return key not in self._by_name


def _beyond(key: str, value: JsonValue, path: Sequence[str]) -> JsonValue:
    """Go on with a path into **kwargs, whose first step is a name that was given."""
    if not path:
        return MARKER
    return _replaced(value, path[1:]) if path[0] == key else value


def _replaced(value: JsonValue, path: Sequence[str]) -> JsonValue:
    if not path:
        return value if value is None else MARKER
    if isinstance(value, list):
        return [_replaced(item, path) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _replaced(item, path[1:]) if key == path[0] else item for key, item in value.items()}
