"""`tanuki map`: a patched function over the rows of a file."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import itertools
import json
import operator
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tanuki_async._amap import CONCURRENCY, amap
from tanuki_async._cli import files, reading
from tanuki_async._errors import AuthenticationError, BudgetExceededError, QuotaExceededError, UsageError
from tanuki_async._function import patched
from tanuki_async._keeping import modules
from tanuki_async._runtime import Tanuki

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from tanuki_async._codec.schema import Wire

Function = Callable[..., Coroutine[Any, Any, Any]]

CHUNK = 256
"""Rows that are read or written at once."""
HOPELESS = (AuthenticationError, BudgetExceededError, QuotaExceededError, UsageError)
"""What would be said of every row that follows, too."""


class RowsFailedError(UsageError):
    """Some rows have no answer."""


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("map", help="call a function for each row of a file", description=_run.__doc__)
    parser.add_argument("function", metavar="MODULE:FUNCTION", help="a patched function, its module as in an import")
    parser.add_argument("source", metavar="IN", type=Path, help="a file of rows: .jsonl, .csv or .parquet")
    parser.add_argument("out", metavar="OUT", type=Path, help="where the answers go: .jsonl, .csv or .parquet")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY, metavar="N", help="calls at once; 64")
    parser.add_argument("--batch", action="store_true", help="through the provider's batch API, at half the price")
    parser.add_argument("--json", action="store_true", help="print the counts as a JSON object, on standard error")
    reading.add_place(parser)
    reading.runs(parser, _run)


async def _run(options: argparse.Namespace) -> None:
    """Call a function for each row, and write each row with its `output`, or with the `error` that it met.

    A row that has the function's parameters is spread over them, and may have more; any other is the one argument.
    Start it again after a kill, or for rows that failed: OUT.checkpoint has what was answered until all rows are.
    """
    function = await asyncio.to_thread(_function, options.function)
    for path in (options.source, options.out):
        files.form_of(path)
    checkpoint = options.out.with_name(f"{options.out.name}.checkpoint")
    counts = {"answered": 0, "failed": 0}
    async with await asyncio.to_thread(lambda: Tanuki(storage=options.dir)):  # a relative path asks where this is
        written, stack = _answered(function, options, checkpoint), contextlib.ExitStack()
        out = await asyncio.to_thread(_opened, options.out, stack)
        try:
            async with contextlib.aclosing(written):
                async for rows in written:
                    counts["failed"] += (failed := sum(row["error"] is not None for row in rows))
                    counts["answered"] += len(rows) - failed
                    await asyncio.to_thread(out.write, rows)
        finally:
            await asyncio.to_thread(stack.__exit__, *sys.exc_info())
    told = json.dumps(counts) if options.json else f"{counts['answered']:,} rows answered, {counts['failed']:,} failed"
    print(told, file=sys.stderr)
    if counts["failed"]:
        raise RowsFailedError(f"{counts['failed']:,} rows have an error; the same command asks for these again")
    await asyncio.to_thread(checkpoint.unlink, missing_ok=True)


def _opened(path: Path, stack: contextlib.ExitStack) -> files.Writer:
    out = files.writer(path, stack.enter_context(files.appearing(path)))
    stack.callback(out.close)
    return out


def _function(wanted: str) -> Function:
    module, colon, name = wanted.partition(":")
    if not colon or not name:
        raise UsageError(f"say which function of which module: 'package.module:function', not {wanted!r}")
    known = modules.functions_of(module)
    try:
        found: Function = operator.attrgetter(name)(sys.modules[module])
        patched(found)
    except (AttributeError, UsageError) as error:
        listed = ", ".join(sorted(known)) or "none"
        raise UsageError(f"{module} has no patched function {name!r}; it has: {listed}") from error
    return found


async def _answered(
    function: Function, options: argparse.Namespace, checkpoint: Path
) -> AsyncGenerator[list[dict[str, Any]]]:
    """Yield the rows with what became of them, some at a time."""
    taken: deque[Any] = deque()
    results = amap(
        function,
        _items(options.source, _spread(function), taken),
        concurrency=options.concurrency,
        on_error="return",
        progress=sys.stderr.isatty() and find_spec("rich") is not None,
        checkpoint=checkpoint,
        mode="batch" if options.batch else "now",
    )
    wire = cast("Wire", patched(function).spec.wire)  # amap refuses functions without
    rows: list[dict[str, Any]] = []
    async with contextlib.aclosing(results):
        async for result in results:
            if isinstance(result, HOPELESS):
                raise result
            failed = isinstance(result, Exception)
            output = None if failed else json.loads(wire.dump(result))
            rows.append(_joined(taken.popleft(), output, f"{type(result).__name__}: {result}" if failed else None))
            if len(rows) == CHUNK:
                yield rows
                rows = []
    if rows:
        yield rows


async def _items(source: Path, spread: Callable[[Any], Any], taken: deque[Any]) -> AsyncGenerator[Any]:
    """Yield what each row says the arguments are, and remember the row."""
    rows = files.rows_in(source)
    while chunk := await asyncio.to_thread(lambda: list(itertools.islice(rows, CHUNK))):
        for row in chunk:
            taken.append(row)
            yield spread(row)


def _spread(function: Function) -> Callable[[Any], Any]:
    """Return what takes the arguments out of a row."""
    parameters = list(inspect.signature(function).parameters.values())
    named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    needed = {each.name for each in named if each.default is each.empty} or {each.name for each in named[:1]}
    names = [each.name for each in named]
    takes_more = any(each.kind is each.VAR_KEYWORD for each in parameters)

    def spread(row: Any) -> Any:
        if not isinstance(row, dict):
            return row
        cells = cast("dict[str, Any]", row)
        if not needed <= cells.keys():
            return cells
        found = {name: value for name, value in cells.items() if takes_more or name in names}
        return found[named[0].name] if len(parameters) == 1 else found

    return spread


def _joined(row: Any, output: object, error: str | None) -> dict[str, Any]:
    of_row = cast("dict[str, Any]", row) if isinstance(row, dict) else {"input": row}
    if taken := {"output", "error"} & of_row.keys():
        raise UsageError(f"a row has a column {taken.pop()!r} already, where the answer would go: rename it")
    return {**of_row, "output": output, "error": error}
