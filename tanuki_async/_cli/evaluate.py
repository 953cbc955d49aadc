"""`tanuki eval`: run the asserts of align functions against the real model, expected against actual."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanuki_async._align import is_align
from tanuki_async._cli import extras
from tanuki_async._errors import UsageError
from tanuki_async._exam import Exam, Verdict
from tanuki_async._keeping.modules import importable
from tanuki_async._runtime import Tanuki

if TYPE_CHECKING:
    from argparse import _SubParsersAction

AlignFunction = Callable[[], Coroutine[Any, Any, object]]


class AnswersDifferError(UsageError):
    """Some answers differ from what was expected."""


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("eval", help="check a model against align functions", description=__doc__)
    parser.add_argument("module", metavar="MODULE[:FUNCTION]", help="where the align functions are, as in an import")
    parser.add_argument("--dir", metavar="DIR", help="directory or storage URL of the data; nothing is kept by default")
    parser.add_argument("--json", action="store_true", help="print a JSON array of objects")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Judge every assert; AnswersDifferError where one does not hold."""
    if not options.json:
        extras.need("rich", "cli", "printing tables needs rich (--json prints without)")
    with importable(str(Path.cwd())):  # also for what is imported while an align function runs
        verdicts = asyncio.run(_judge(align_functions(options.module), options.dir or "memory:"))
    if options.json:
        print(json.dumps([_document(each) for each in verdicts], indent=2, ensure_ascii=False))
    else:
        _print(verdicts)
    if wrong := sum(not each.holds for each in verdicts):
        raise AnswersDifferError(f"{wrong} of {len(verdicts)} answers differ from what was expected")


def align_functions(place: str) -> list[AlignFunction]:
    """Import a module and return its align functions without parameters."""
    module_name, _, only = place.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"there is no module {error.name!r}; give it as in an import, such as 'package.module'"
        ) from error
    found = {name: each for name, each in vars(module).items() if is_align(each)}
    if only and only not in found:
        raise UsageError(f"{module_name} has no align function {only!r} without parameters; it has: {_listed(found)}")
    if not found:
        raise UsageError(f"{module_name} has no align function without parameters; decorate one with @tanuki.align")
    return [found[only]] if only else list(found.values())


def _listed(found: dict[str, AlignFunction]) -> str:
    return ", ".join(sorted(found)) or "none"


async def _judge(functions: list[AlignFunction], place: str) -> list[Verdict]:
    exam = Exam()
    async with Tanuki(storage=place):
        for function in functions:
            await exam.take(function)
    return exam.verdicts


def _document(verdict: Verdict) -> dict[str, Any]:
    return {
        "file": verdict.file,
        "line": verdict.line,
        "holds": verdict.holds,
        "actual": repr(verdict.actual),
        "expected": repr(verdict.expected),
    }


def _print(verdicts: list[Verdict]) -> None:
    table = extras.table("assert", "", "actual", "expected")
    for each in verdicts:
        mark = "holds" if each.holds else "DIFFERS"
        table.add_row(f"{Path(each.file).name}:{each.line}", mark, repr(each.actual)[:80], repr(each.expected)[:80])
    extras.console().print(table)
