"""Rewrites the asserts of one function so that `is`, `not` and bare asserts can be learnt from too.

Python gives a value no say in `is` and `not`. So the function is compiled once more from its source with
`assert a == b` turned into `assert checks.equal(checks.mark(), a, b)` and so on, each in a `try` that tells when it
is over; everything else, its globals, its closure and its line numbers, stays as it is. No code is executed to get
there: the new code object is taken out of the compiled module and put into a function.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from types import CellType, CodeType, FunctionType
from typing import Any

from tanuki_async._codec.stub import definition
from tanuki_async._errors import AlignmentError
from tanuki_async._expect import Checks

CHECKS = "@tanuki"
"""A name that no source can contain."""

_FUTURES = 0x1FF0000  # the bits of co_flags that `from __future__` imports set (see Include/cpython/code.h)

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "equal",
    ast.NotEq: "differs",
    ast.Is: "same",
    ast.IsNot: "not_same",
}
_OPPOSITE = {"equal": "differs", "differs": "equal", "same": "not_same", "not_same": "same"}


def rewrite(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with its asserts rewritten. AlignmentError where its source cannot be read."""
    if not isinstance(function, FunctionType):
        raise AlignmentError(f"{function!r} is not a plain function")
    tree = _parse(function)
    _Asserts().visit(tree)
    code = _compile(function, tree)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells[CHECKS] = CellType(Checks())
    missing = [name for name in code.co_freevars if name not in cells]
    if missing:  # the source on disk is not the source that was imported
        raise AlignmentError(f"{function.__qualname__}() has changed on disk since it was imported; start anew")
    closure = tuple(cells[name] for name in code.co_freevars)
    new = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    new.__kwdefaults__ = function.__kwdefaults__
    new.__annotations__ = function.__annotations__
    new.__qualname__ = function.__qualname__
    return new


def _parse(function: FunctionType) -> ast.AsyncFunctionDef:
    try:
        found = definition(function)
    except (OSError, TypeError, SyntaxError) as error:
        raise AlignmentError(
            f"the source of {function.__qualname__}() cannot be read, and an align function is learnt from its "
            "source; put it into a file"
        ) from error
    if not isinstance(found, ast.AsyncFunctionDef):
        raise AlignmentError(f"{function.__qualname__}() is not an `async def` in its source")
    found.decorator_list = []
    return found


def _compile(function: FunctionType, tree: ast.AsyncFunctionDef) -> CodeType:
    """Compile the function inside of another that binds its free names, and inside of its class, for `__names`."""
    enclosing = [*function.__code__.co_freevars, CHECKS]
    body: ast.stmt = tree
    owner = function.__qualname__.rpartition(".")[0].rpartition(".")[2]
    if owner and owner != "<locals>":
        body = ast.ClassDef(name=owner, bases=[], keywords=[], body=[tree], decorator_list=[])
        body.type_params = []  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # 3.12 on
    arguments = ast.arguments(
        posonlyargs=[], args=[ast.arg(arg=name) for name in enclosing], kwonlyargs=[], kw_defaults=[], defaults=[]
    )
    outer = ast.FunctionDef(name="enclosing", args=arguments, body=[body], decorator_list=[])
    outer.type_params = []  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    module = ast.fix_missing_locations(ast.Module(body=[outer], type_ignores=[]))
    flags = function.__code__.co_flags & _FUTURES
    compiled = compile(module, function.__code__.co_filename, "exec", flags=flags, dont_inherit=True)
    name = function.__code__.co_name  # which the class around it, or what encloses both, may have too
    return next(each for each in _nested(compiled) if each.co_name == name and each.co_flags & inspect.CO_COROUTINE)


def _nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


class _Asserts(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> ast.Try:  # ast names its methods
        done = ast.copy_location(ast.Expr(_call(node.test, "done", [])), node)
        node.test = _learnable(node.test)
        return ast.copy_location(ast.Try(body=[node], handlers=[], orelse=[], finalbody=[done]), node)


def _learnable(test: ast.expr, *, negated: bool = False) -> ast.expr:
    """Turn the expression of an assert into calls of Checks."""
    match test:
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _COMPARISONS:
            name = _COMPARISONS[type(operator)]
            return _check(test, _OPPOSITE[name] if negated else name, [left, right])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _learnable(operand, negated=not negated)
        case ast.BoolOp(op=ast.And(), values=values) if not negated:
            return ast.copy_location(ast.BoolOp(op=ast.And(), values=[_learnable(each) for each in values]), test)
        case ast.Compare() | ast.BoolOp() | ast.IfExp():
            expression = ast.copy_location(ast.UnaryOp(op=ast.Not(), operand=test), test) if negated else test
            return _call(test, "other", [_call(test, "forbid", [ast.Constant(_named(test))]), expression])
        case _:
            return _check(test, "falsy" if negated else "truthy", [test])


def _named(test: ast.expr) -> str:
    return f"`{ast.unparse(test)}`"[:120]


def _check(at: ast.expr, name: str, operands: list[ast.expr]) -> ast.expr:
    return _call(at, name, [_call(at, "mark", []), *operands])


def _call(at: ast.expr, name: str, arguments: list[ast.expr]) -> ast.expr:
    checks = ast.Attribute(value=ast.Name(id=CHECKS, ctx=ast.Load()), attr=name, ctx=ast.Load())
    call = ast.copy_location(ast.Call(func=checks, args=arguments, keywords=[]), at)
    for part in (checks, checks.value):
        ast.copy_location(part, at)
    return call
