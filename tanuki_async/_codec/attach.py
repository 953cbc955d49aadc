"""Binds arguments that hold images or documents: they leave the text, which refers to them by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from tanuki_async._codec.bind import Binder, Call, Parameter, writer
from tanuki_async._codec.media import RECORD, Gallery
from tanuki_async._records import JsonValue, Turn


class MediaCall(Call):
    """A call whose message was made when its arguments were checked, so later changes do not show."""

    __slots__ = ("_turn",)

    def __init__(self, binder: Binder, call: Call, turn: Turn) -> None:
        super().__init__(binder, call._values, call._parts)  # noqa: SLF001  # it takes the place of that call
        self._turn = turn

    def turn(self) -> Turn:
        return self._turn


class MediaBinder(Binder):
    """A binder for functions with at least one parameter that may hold media; others do not pay for it."""

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        call, gallery = super().bind(args, kwargs), Gallery()
        given = zip(self.keys, self.parameters, call.values.values(), strict=True)
        shown = [key + _shown(parameter, value, gallery) for key, parameter, value in given]
        return MediaCall(self, call, _turn(shown, gallery))

    def turn_of(self, args: Sequence[JsonValue], kwargs: Mapping[str, JsonValue]) -> Turn | None:
        inputs, gallery = self.inputs_of(args, kwargs), Gallery()
        shown: list[bytes] = []
        for key, parameter in zip(self.keys, self.parameters, strict=True):
            if parameter.name not in inputs:
                continue
            recorded = inputs[parameter.name]
            if not parameter.media:
                shown.append(key + to_json(recorded))
                continue
            try:
                value = _read(parameter, recorded)
            except ValidationError:  # recorded before the type's own checks became stricter
                return None
            shown.append(key + _shown(parameter, value, gallery))
        return _turn(shown, gallery) if gallery.is_complete else None


def _turn(shown: list[bytes], gallery: Gallery) -> Turn:
    return Turn("user", (b"{%b}" % b",".join(shown)).decode(), gallery.attachments)


def _shown(parameter: Parameter, value: Any, gallery: Gallery) -> bytes:
    write = writer(parameter.adapter, gallery)
    if parameter.kind == "var_positional":
        return b"[%b]" % b",".join(map(write, value))
    if parameter.kind == "var_keyword":
        return b"{%b}" % b",".join(to_json(name) + b":" + write(item) for name, item in value.items())
    return write(value)


def _read(parameter: Parameter, recorded: Any) -> Any:
    def read(item: JsonValue) -> Any:
        return parameter.adapter.validator.validate_json(to_json(item), context=RECORD)

    if parameter.kind == "var_positional":
        return [read(item) for item in recorded]
    if parameter.kind == "var_keyword":
        return {name: read(item) for name, item in recorded.items()}
    return read(recorded)
