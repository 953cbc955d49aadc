"""From annotations to pydantic adapters; which answers are closed; what an embedding is."""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from types import GenericAlias, NoneType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from tanuki_async._codec.constraints import constraints
from tanuki_async._codec.hints import Namespace, Unresolved, is_alias_type, members
from tanuki_async._codec.hooks import EmbeddingMarker, Root
from tanuki_async._codec.rewrite import Rewriter
from tanuki_async._errors import StubError, clip

T = TypeVar("T")

Embedding: TypeAlias = Annotated[T, EmbeddingMarker()]
"""The return annotation of a function that embeds its input: `Embedding[np.ndarray]` or `Embedding[list[float]]`."""

CLOSED_INTEGERS = 1000
"""How many values a bounded int may have and still be a label."""

_STREAMS: tuple[Any, ...] = (AsyncIterator, AsyncIterable, AsyncGenerator)
_NO_JSON = ("callable", "is-subclass", "generator")

# Records must be JSON that reads back to the same value: no NaN, and bytes that need not be text.
_CONFIG = ConfigDict(
    ser_json_bytes="base64", val_json_bytes="base64", allow_inf_nan=False, ser_json_inf_nan="strings", defer_build=True
)


def adapter_of(annotation: Any, namespace: Namespace) -> TypeAdapter[Any]:
    """Build the adapter of one annotation. StubError says why there can be none."""
    try:
        rewritten = Rewriter(namespace).rewrite(annotation)
        adapter = TypeAdapter[Any](Annotated[Any, Root(rewritten)], config=_CONFIG)
        _complete(adapter, namespace)
    except PydanticUndefinedAnnotation as error:
        raise Unresolved(f"a type inside it names what does not exist: {error.message}") from error
    except (PydanticUserError, TypeError, RecursionError) as error:
        raise StubError(_first_line(error)) from error
    if adapter.core_schema["type"] in _NO_JSON:
        raise StubError("its values cannot be written as JSON")
    return adapter


def _complete(adapter: TypeAdapter[Any], namespace: Namespace) -> None:
    """Build what was deferred: forward references mean what they mean in their own module, then in `namespace`."""
    try:
        adapter.rebuild(force=True, _types_namespace={})
    except PydanticUndefinedAnnotation:
        adapter.rebuild(force=True, _types_namespace=dict(namespace))


def _first_line(error: Exception) -> str:
    """Return what pydantic found, without its advice about settings that a stub does not have."""
    line = str(error).partition("\n")[0].partition(" Set `arbitrary_types_allowed")[0]
    return clip(line) or type(error).__name__


def embedding_of(annotation: Any) -> Literal["numpy", "list"] | None:
    """Tell which kind of embedding a return annotation declares, or None. Does not import numpy."""
    if get_origin(annotation) is not Annotated:
        return None
    inner, *metadata = get_args(annotation)
    if not any(isinstance(item, EmbeddingMarker) for item in metadata):
        return None
    origin = get_origin(inner) or inner
    if getattr(origin, "__name__", "") == "ndarray" and getattr(origin, "__module__", "") == "numpy":
        return "numpy"
    if origin is list and get_args(inner) == (float,):
        return "list"
    raise StubError(
        f"cannot return Embedding[{getattr(inner, '__name__', inner)}]: "
        "write `-> Embedding[np.ndarray]` or `-> Embedding[list[float]]`"
    )


def streamed(annotation: Any) -> Any:
    """Return `list[T]` for the return annotation `AsyncIterator[T]`, None for others. StubError for what is near it."""
    while is_alias_type(annotation):
        annotation = annotation.__value__
    inner = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    origin: Any = get_origin(inner) or inner
    if origin not in _STREAMS:
        return None
    arguments = get_args(inner)
    if origin != AsyncIterator or not arguments or inner is not annotation:
        raise StubError("cannot return this: for a stream of items write `-> AsyncIterator[T]`, and nothing around it")
    return GenericAlias(list, arguments)


def is_closed(annotation: Any) -> bool:
    """Tell whether answers come from a list short enough to choose from, or are sets of such."""
    inner = _unwrapped(annotation)
    if get_origin(inner) in (set, frozenset):
        return _is_choice(get_args(inner)[0])
    return _is_choice(inner)


def _is_choice(annotation: Any) -> bool:
    if _is_label(annotation):
        return True
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return _is_short_range(metadata) if inner is int else _is_choice(inner)
    if is_alias_type(annotation):
        return _is_choice(annotation.__value__)
    alternatives = members(annotation)
    return alternatives is not None and all(_is_choice(item) for item in alternatives)


def _is_label(annotation: Any) -> bool:
    if annotation in (bool, None, NoneType) or get_origin(annotation) is Literal:
        return True
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum) and not issubclass(annotation, enum.Flag)


def _is_short_range(metadata: list[Any]) -> bool:
    """Tell whether bounds leave at most CLOSED_INTEGERS integers."""
    bounds = {name: value for name, value in constraints(metadata) if isinstance(value, (int, float))}
    low = max((bounds[name] + step for name, step in (("gt", 1), ("ge", 0)) if name in bounds), default=None)
    high = min((bounds[name] - step for name, step in (("lt", 1), ("le", 0)) if name in bounds), default=None)
    return low is not None and high is not None and high - low < CLOSED_INTEGERS


def _unwrapped(annotation: Any) -> Any:
    while True:
        if get_origin(annotation) is Annotated and get_args(annotation)[0] is not int:
            annotation = get_args(annotation)[0]
        elif is_alias_type(annotation):
            annotation = annotation.__value__
        else:
            return annotation
