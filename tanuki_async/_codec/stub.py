"""Tells a stub from a function with a body, by its bytecode, and by its source where there is one."""

from __future__ import annotations

import ast
import dis
import inspect
from collections.abc import Callable, Coroutine
from types import FunctionType
from typing import Any, TypeGuard

from tanuki_async._errors import StubError

_BODY = "its body may only be a docstring, `...`, `pass` or `raise NotImplementedError`: a model answers, not this code"
_IGNORED = frozenset({"NOP", "CACHE", "EXTENDED_ARG", "RESUME", "NOT_TAKEN"})
_Async = Callable[..., Coroutine[Any, Any, Any]]


async def _nothing() -> None: ...
async def _raise() -> None:
    raise NotImplementedError


async def _raise_called() -> None:
    raise NotImplementedError()  # this very form is to be recognised


async def _raise_with() -> None:
    raise NotImplementedError("…")


def _shape(function: _Async) -> tuple[tuple[str, object], ...]:
    """Return what the interpreter would do. The text of a constant does not matter, that it is a text does."""
    return tuple(
        (step.opname, "text" if isinstance(step.argval, str) and step.opname == "LOAD_CONST" else step.argval)
        for step in dis.get_instructions(function)
        if step.opname not in _IGNORED
    )


# Compiled by the interpreter that runs the user's code, so there is nothing to know about its instructions.
_SHAPES = frozenset(map(_shape, (_nothing, _raise, _raise_called, _raise_with)))


def check_stub(stub: object) -> FunctionType:
    """Return `stub` if it is an `async def` without a body; StubError says what to write otherwise."""
    if isinstance(stub, (classmethod, staticmethod)):
        kind = "classmethod" if isinstance(stub, classmethod) else "staticmethod"
        raise StubError(f"a {kind} object cannot be patched: put @{kind} above @patch, not below it")
    name = getattr(stub, "__qualname__", None) or repr(stub)
    if inspect.isasyncgenfunction(stub):
        raise StubError(f"{name} is an async generator; a patched function returns one value: leave out `yield`")
    if not _is_async_function(stub):
        raise StubError(f"{name} is {_kind(stub)}: write `async def`, annotations and a docstring")
    if _shape(stub) not in _SHAPES or not _is_written_as_stub(stub):
        raise StubError(f"{name}() has a body; {_BODY}")
    return stub


def _is_async_function(stub: object) -> TypeGuard[FunctionType]:
    return isinstance(stub, FunctionType) and inspect.iscoroutinefunction(stub)


def _kind(stub: object) -> str:
    if isinstance(stub, type):
        return "a class"
    if getattr(stub, "__name__", "") == "<lambda>":
        return "a lambda"
    return "a plain function" if isinstance(stub, FunctionType) else f"a {type(stub).__name__}, not a function"


def _is_written_as_stub(stub: FunctionType) -> bool:
    """Look at the source for what leaves no trace in bytecode: `return None`, `if False: …`, constants."""
    try:
        found = definition(stub)
    except (OSError, TypeError, SyntaxError):
        return True  # no source at hand: the bytecode has said that nothing happens
    if not isinstance(found, ast.AsyncFunctionDef) or found.name != stub.__name__:
        return True
    return all(_is_empty(statement) for statement in found.body)


def definition(function: FunctionType) -> ast.stmt:
    """Parse the source of a function, with its own line numbers. Raises what inspect and ast raise.

    An indented one is put below an `if`, never dedented: that would change the texts in it that span lines.
    """
    lines, first = inspect.getsourcelines(function)
    source = "".join(lines)
    indented = source[:1].isspace()
    statement = ast.parse(f"if 1:\n{source}" if indented else source).body[0]
    if isinstance(statement, ast.If):
        statement = statement.body[0]
    ast.increment_lineno(statement, first - 1 - indented)
    return statement


def _is_empty(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value.value is ... or isinstance(statement.value.value, str)
    return isinstance(statement, (ast.Pass, ast.Raise))
