"""From an `async def` stub to its FunctionSpec: everything about a function that can be known at decoration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, SimpleNamespace
from typing import Annotated, Any, Literal, cast, get_origin

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.fields import FieldInfo

from tanuki_async._codec.attach import MediaBinder
from tanuki_async._codec.bind import Binder, Call, Kind, Parameter
from tanuki_async._codec.fingerprint import Written, fingerprint, signature_text
from tanuki_async._codec.hints import Namespace, Unresolved, hints_of
from tanuki_async._codec.media import kinds_in
from tanuki_async._codec.render import Renderer, tidy
from tanuki_async._codec.schema import Wire, wire
from tanuki_async._codec.stub import check_stub
from tanuki_async._codec.types import adapter_of, embedding_of, is_closed, streamed
from tanuki_async._errors import InputError, StubError
from tanuki_async._records import Attached, JsonValue, Turn

__all__ = ["Call", "FunctionSpec", "Parameter", "Unresolved", "describe"]

_RECEIVERS = ("self", "cls")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FunctionSpec:
    """What a stub says about itself. `hash` is its identity: equal wherever and however the same stub is read."""

    name: str
    qualname: str
    module: str
    doc: str
    signature: str
    hash: str
    parameters: tuple[Parameter, ...]  # without self and cls
    output: TypeAdapter[Any]
    output_text: str
    wire: Wire | None  # None for an embedding
    embedding: Literal["numpy", "list"] | None
    streams: bool  # yields the items of its answer, which is a list
    closed: bool  # answers come from a short list, or are sets of such
    media: frozenset[Attached] = frozenset()  # what arguments may hold beside text
    _binder: Binder = field(repr=False)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Check the arguments of one call, self or cls included. InputError names the one that does not fit."""
        return self._binder.bind(args, kwargs)

    def fit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Check the arguments of a call recorded elsewhere, which never hold self or cls. InputError as `bind`."""
        return self._binder.fit(args, kwargs)

    def inputs_of(self, args: Sequence[JsonValue], kwargs: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Give recorded arguments their names, in the order of declaration."""
        return self._binder.inputs_of(args, kwargs)

    def text_of(self, args: Sequence[JsonValue], kwargs: Mapping[str, JsonValue]) -> str:
        """Return what `Call.text` was for recorded arguments, byte for byte."""
        return self._binder.text_of(args, kwargs)

    def turn_of(self, args: Sequence[JsonValue], kwargs: Mapping[str, JsonValue]) -> Turn | None:
        """Return what `Call.turn` was for recorded arguments; None where a record has not kept all that it shows."""
        return self._binder.turn_of(args, kwargs)


def describe(stub: object, *, namespace: Mapping[str, Any] | None = None) -> FunctionSpec:
    """Read a stub. `namespace` holds local names that string annotations may use.

    StubError says what to write instead; Unresolved, that a name does not exist yet.
    """
    function = check_stub(stub)
    names: Namespace = namespace or {}
    receiver, written, returned = _read(function, names)
    doc = tidy(function.__doc__ or "")
    renderer = Renderer(names, canonical=False)
    signature = signature_text(function.__name__, written, returned, renderer)
    embedding, items = _embedding(function, returned), _streamed(function, returned)
    answer = list[float] if embedding else items or returned
    output = _adapter(function, "what it returns", answer, names)
    parameters = tuple(_parameter(function, item, renderer, names) for item in written)
    media = _media(function, parameters, output, embeds=embedding is not None)
    return FunctionSpec(
        name=function.__name__,
        qualname=function.__qualname__,
        module=function.__module__,
        doc=doc,
        signature=signature,
        hash=fingerprint(function.__name__, doc, written, returned, names),
        parameters=parameters,
        output=output,
        output_text=renderer.text(returned),
        wire=None if embedding else _wire(function, output),
        embedding=embedding,
        streams=items is not None,
        closed=is_closed(returned),
        media=media,
        _binder=_binder(function, signature, parameters, receiver),
    )


def _read(function: FunctionType, names: Namespace) -> tuple[str | None, list[Written], Any]:
    """Return the name of self or cls, the parameters with their types, and the type of the result."""
    if "return" not in function.__annotations__:
        raise StubError(f"{function.__qualname__}() does not say what it returns: write `-> …` after its parameters")
    parameters = list(inspect.signature(function).parameters.values())
    receiver = _receiver(function, parameters)
    for parameter in parameters[1:] if receiver else parameters:
        if parameter.annotation is parameter.empty:
            name = parameter.name
            raise StubError(f"{function.__qualname__}(): parameter {name!r} has no type: write `{name}: …`")
    hints = hints_of(_without(function, receiver), names)
    written = [_written(item, hints[item.name]) for item in (parameters[1:] if receiver else parameters)]
    return receiver, written, hints["return"]


def _receiver(function: FunctionType, parameters: Sequence[inspect.Parameter]) -> str | None:
    """Return `self` or `cls` where the first parameter is one, in the body of a class; its own type may be written."""
    outer = function.__qualname__.rpartition(".")[0]
    if not parameters or not outer or outer.endswith("<locals>"):
        return None
    first = parameters[0]
    if first.name == "cls" and first.annotation is not first.empty and not _is_of_class(first.annotation):
        return None  # a static method's own argument
    return first.name if first.name in _RECEIVERS else None


def _is_of_class(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.strip("'\"").partition("[")[0].rpartition(".")[2].lower() == "type"
    return annotation is type or get_origin(annotation) is type


def _without(function: FunctionType, receiver: str | None) -> Any:
    """Return what has the annotations of a function, but not that of self or cls: it may name the class around it."""
    if receiver not in function.__annotations__:
        return function
    kept = {name: hint for name, hint in function.__annotations__.items() if name != receiver}
    return SimpleNamespace(__annotations__=kept, __globals__=function.__globals__, __qualname__=function.__qualname__)


def _written(parameter: inspect.Parameter, annotation: Any) -> Written:
    kind, default = parameter.kind.name.lower(), parameter.default
    if default is parameter.empty:
        return Written(name=parameter.name, kind=kind, annotation=annotation)
    if not isinstance(default, FieldInfo):
        return Written(name=parameter.name, kind=kind, annotation=annotation, default=default)
    annotated = Annotated[annotation, default]
    if default.is_required():
        return Written(name=parameter.name, kind=kind, annotation=annotated)
    value = default.get_default(call_default_factory=True)
    return Written(name=parameter.name, kind=kind, annotation=annotated, default=value)


def _embedding(function: FunctionType, returned: Any) -> Literal["numpy", "list"] | None:
    try:
        return embedding_of(returned)
    except StubError as error:
        raise StubError(f"{function.__qualname__}() {error}") from error


def _streamed(function: FunctionType, returned: Any) -> Any:
    try:
        return streamed(returned)
    except StubError as error:
        raise StubError(f"{function.__qualname__}() {error}") from error


def _adapter(function: FunctionType, what: str, annotation: Any, names: Namespace) -> TypeAdapter[Any]:
    try:
        return adapter_of(annotation, names)
    except StubError as error:
        raise type(error)(f"{function.__qualname__}(): the type of {what} cannot be used: {error}") from error


def _parameter(function: FunctionType, written: Written, renderer: Renderer, names: Namespace) -> Parameter:
    adapter = _adapter(function, f"parameter {written.name!r}", written.annotation, names)
    return Parameter(
        name=written.name,
        kind=cast(Kind, written.kind),
        text=renderer.text(written.annotation),
        adapter=adapter,
        media=kinds_in(adapter.core_schema),
        has_default=written.has_default,
        default=written.default if written.has_default else None,
    )


def _media(
    function: FunctionType, parameters: tuple[Parameter, ...], output: TypeAdapter[Any], *, embeds: bool
) -> frozenset[Attached]:
    """Tell what arguments may hold beside text. StubError where that cannot be sent, or shall be returned."""
    if returned := kinds_in(output.core_schema):
        raise StubError(
            f"{function.__qualname__}() cannot return an {' or '.join(sorted(returned)).capitalize()}, not even inside "
            "of something: a model answers in text; return what it says about one"
        )
    taken: frozenset[Attached] = frozenset(kind for parameter in parameters for kind in parameter.media)
    if taken and embeds:
        raise StubError(
            f"{function.__qualname__}() cannot embed an {' or '.join(sorted(taken))}: embeddings are of text"
        )
    return taken


def _wire(function: FunctionType, output: TypeAdapter[Any]) -> Wire:
    try:
        return wire(output, name=function.__name__)
    except PydanticInvalidForJsonSchema as error:
        reason = str(error).partition("\n")[0]
        raise StubError(f"{function.__qualname__}(): what it returns has no JSON schema: {reason}") from error


def _binder(function: FunctionType, signature: str, parameters: tuple[Parameter, ...], receiver: str | None) -> Binder:
    try:
        binder = MediaBinder if any(parameter.media for parameter in parameters) else Binder
        return binder(function.__qualname__, signature, parameters, receiver)
    except InputError as error:
        raise StubError(
            f"{function.__qualname__}(): the default of {error.parameter!r} does not fit its type: it {error.reason}; "
            "write a default that fits, or `| None` where it is None"
        ) from error
