"""One item of many becomes the arguments of one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from tanuki_async._errors import InputError

Arguments: TypeAlias = tuple[tuple[Any, ...], Mapping[str, Any]]


def arguments_of(f: Callable[..., Any]) -> Callable[[Any], Arguments]:
    """Return what spreads an item over the parameters of `f`, by how many there are. InputError where it cannot be."""
    parameters = list(inspect.signature(f).parameters.values())
    if len(parameters) == 1 and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        return lambda item: ((item,), {})
    names = ", ".join(each.name for each in parameters)

    def spread(item: Any) -> Arguments:
        if isinstance(item, Mapping):
            return (), cast("Mapping[str, Any]", item)
        if isinstance(item, tuple):
            return tuple(item), {}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # of anything
        raise InputError(f.__qualname__, None, f"an item must be a mapping or a tuple of ({names}), not {item!r:.80}")

    return spread


def with_self(f: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put the object of a bound method before its arguments."""
    owner = getattr(f, "__self__", None)
    return args if owner is None else (owner, *args)
