"""Asserts become examples: awaiting an align function records what it asserts and calls no model."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

from tanuki_async._asserts import rewrite
from tanuki_async._errors import AlignmentError, StubError
from tanuki_async._exam import own_exam, taking
from tanuki_async._expect import Lesson, aligning
from tanuki_async._runtime import current

ATTRIBUTE = "__tanuki_align__"

P = ParamSpec("P")
R = TypeVar("R")


def align(function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make a coroutine function teach by its asserts.

    While it runs, patched functions return at once, and what their answers are asserted to be is noted. When it
    returns, its examples are durable; when it raises, nothing was recorded. AlignmentError names the file and line of
    an assert that cannot be learnt from, StorageError says why examples could not be kept.
    """
    _check(function)
    rewritten: list[Callable[..., Coroutine[Any, Any, R]]] = []  # once it was called

    @functools.wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not __debug__:
            raise AlignmentError(
                f"{function.__qualname__}() cannot teach under `python -O`, which removes asserts; run without it"
            )
        if not rewritten:
            rewritten.append(await asyncio.to_thread(rewrite, function))  # which reads the source
        own = None if taking.get() else own_exam()
        session = taking.get() or own or Lesson()
        token = aligning.set(session)
        try:
            result = await rewritten[0](*args, **kwargs)
        except AssertionError as error:
            if isinstance(session, Lesson):
                session.explain(error)
            raise
        finally:
            aligning.reset(token)
        if isinstance(session, Lesson):
            await current().learn(session)
        if own is not None:
            own.require()
        return result

    setattr(run, ATTRIBUTE, True)
    return run


def _check(function: object) -> None:
    name = getattr(function, "__name__", repr(function))
    if isinstance(function, (classmethod, staticmethod)):
        kind = "classmethod" if isinstance(function, classmethod) else "staticmethod"
        raise StubError(f"{name} is a {kind} object: put @{kind} above @tanuki.align, not below it")
    if not inspect.iscoroutinefunction(function):
        raise StubError(f"{name} is not a coroutine function; write `async def {name}(…):` below @tanuki.align")
    if hasattr(function, "__wrapped__"):  # its source is another function's, whose asserts do not run here
        raise StubError(f"{name} is decorated below @tanuki.align; put @tanuki.align next to `async def`")


def is_align(function: object) -> bool:
    """Tell whether `function` is an align function that can be called without arguments."""
    if not getattr(function, ATTRIBUTE, False):
        return False
    parameters = inspect.signature(cast(Callable[..., object], function)).parameters.values()
    return all(
        each.default is not each.empty or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters
    )
