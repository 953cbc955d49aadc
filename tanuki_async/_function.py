"""A patched function: its stub, what the stub says, and what `@patch` was told."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tanuki_async._codec.describe import FunctionSpec, Unresolved, describe
from tanuki_async._errors import UsageError
from tanuki_async._settings import Options

ATTRIBUTE = "__tanuki__"


class PatchedFunction:
    """One use of `@patch`. Its spec is made at decoration, or at the first call where a type is defined later."""

    __slots__ = ("__weakref__", "_namespace", "_spec", "options", "stub")

    def __init__(self, stub: Callable[..., Any], options: Options, namespace: Mapping[str, Any]) -> None:
        self.stub, self.options = stub, options
        self._namespace: Mapping[str, Any] | None = namespace
        self._spec: FunctionSpec | None = None
        with contextlib.suppress(Unresolved):  # a string annotation may name a class that is defined further down
            self._describe()

    @property
    def spec(self) -> FunctionSpec:
        """What the stub says. StubError where an annotation still cannot be resolved."""
        return self._spec or self._describe()

    def _describe(self) -> FunctionSpec:
        self._spec = describe(self.stub, namespace=self._namespace)
        self._namespace = None  # the caller's variables are kept no longer than needed
        return self._spec

    def __repr__(self) -> str:
        return f"<patched {getattr(self.stub, '__qualname__', self.stub)}>"


def patched(function: object) -> PatchedFunction:
    """Return what `@patch` attached to a function or bound method."""
    found = getattr(function, ATTRIBUTE, None)
    if isinstance(found, PatchedFunction):
        return found
    name = getattr(function, "__qualname__", repr(function))
    if inspect.iscoroutine(function):
        function.close()
        raise UsageError(f"{name}(…) is a call; give the function itself, {name}")
    raise UsageError(f"{name} is not a patched function; decorate it with @tanuki.patch")
