"""Reads annotations as real types, whatever way they were written down."""

from __future__ import annotations

import inspect
import os
import sys
import typing
from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace, UnionType
from typing import Any, Union, get_args, get_origin

from tanuki_async._errors import StubError

Namespace = Mapping[str, Any]


class Unresolved(StubError):  # noqa: N818  # it is a state, and goes away at the first call
    """A name in an annotation does not exist yet; it may when the function is first called."""


def hints_of(source: Any, namespace: Namespace) -> dict[str, Any]:
    """Evaluate the annotations of a function, `namespace` being the local names around it."""
    try:
        return typing.get_type_hints(source, localns=dict(namespace), include_extras=True)
    except (NameError, AttributeError) as error:
        raise Unresolved(
            f"{source.__qualname__}: an annotation names what does not exist ({error}): "
            "define or import it where the function is defined, not only `if TYPE_CHECKING`"
        ) from error
    except (SyntaxError, TypeError, ValueError) as error:
        raise StubError(f"{source.__qualname__}: an annotation is not a type ({error})") from error


def class_hints_of(cls: Any, namespace: Namespace) -> dict[str, Any]:
    """Evaluate the annotations of a class where it was defined; `namespace` only helps where that does not suffice."""
    itself = {cls.__name__: cls}
    if "<locals>" not in cls.__qualname__:
        with suppress(Unresolved):
            return hints_of(cls, itself)
    return hints_of(cls, {**itself, **namespace})


def init_hints_of(cls: Any, namespace: Namespace) -> dict[str, Any]:
    """Evaluate the annotations of a class's `__init__`."""
    return hints_of(cls.__init__, {cls.__name__: cls, **namespace})


def members(annotation: Any) -> tuple[Any, ...] | None:
    """Return the alternatives of a union, or None for anything else."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else None


def is_bare(annotation: Any, origin: Any) -> bool:
    """Tell `typing.List` from `List[int]`: an alias that was given no arguments."""
    return origin is not None and not get_args(annotation) and annotation == getattr(typing, _name(annotation), None)


def _name(annotation: Any) -> str:
    return str(getattr(annotation, "_name", None))


def is_alias_type(annotation: Any) -> bool:
    """Tell a `type X = …` statement or TypeAliasType, of typing or of typing_extensions."""
    return type(annotation).__name__ == "TypeAliasType"


_STANDARD = os.path.dirname(os.__file__)  # noqa: PTH120  # a prefix to compare with, not a place to go to
_LIBRARIES = frozenset({"pydantic", "pydantic_core", "numpy", "pandas"})


def is_library(cls: Any) -> bool:
    """Tell a class of the standard library or of a library whose classes are known by their names alone.

    Only one that is found there: what `make_dataclass` and others build claims to be from the module that built it.
    """
    module = sys.modules.get(cls.__module__)
    if module is None or getattr(module, cls.__name__, None) is not cls:
        return False
    package = cls.__module__.partition(".")[0]
    if package in _LIBRARIES:
        return True
    file = getattr(module, "__file__", None)  # a user's own module may be called `profile`, too
    return package in sys.stdlib_module_names and (not file or file.startswith(_STANDARD))


def is_named_tuple(cls: Any) -> bool:
    """Tell a NamedTuple class."""
    return hasattr(cls, "_fields") and issubclass(cls, tuple)


def is_plain(cls: type) -> bool:
    """Tell a class whose shape is told by nothing but its own annotated `__init__`."""
    return inspect.isfunction(getattr(cls, "__init__", None)) and not hasattr(cls, "__get_pydantic_core_schema__")


def bases_of(cls: Any, namespace: Namespace) -> tuple[Any, ...]:
    """Return the bases of a class as written, `list[str]` and not `list`."""
    if "__orig_bases__" not in cls.__dict__:
        return tuple(cls.__bases__)
    written = {f"base {place}": base for place, base in enumerate(cls.__orig_bases__)}
    itself = SimpleNamespace(__annotations__=written, __qualname__=cls.__qualname__)
    module = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
    return tuple(hints_of(itself, {**module, cls.__name__: cls, **namespace}).values())


def type_variables(cls: Any) -> tuple[Any, ...]:
    """Return the type variables of a generic class or alias, in order, also where only a base such as `list[T]` is."""
    if not isinstance(cls, type) or hasattr(cls, "__parameters__"):
        variables: tuple[Any, ...] = getattr(cls, "__parameters__", ())
        return variables
    bases = getattr(cls, "__orig_bases__", ())
    return tuple(dict.fromkeys(each for base in bases for each in getattr(base, "__parameters__", ())))


def substitute(annotation: Any, values: Mapping[Any, Any]) -> Any:
    """Put `values` in the place of type variables."""
    if isinstance(annotation, typing.TypeVar):
        return values.get(annotation, annotation)
    variables = type_variables(annotation)
    if not variables or isinstance(annotation, type):
        return annotation
    return annotation[tuple(values.get(variable, variable) for variable in variables)]


def substitution(cls: Any, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Pair the type variables of a generic class with what stands for them; its bound or Any where nothing does."""
    variables = type_variables(cls)
    if arguments:
        return dict(zip(variables, arguments, strict=False))
    return {variable: getattr(variable, "__bound__", None) or Any for variable in variables}
