"""`tanuki forget`: delete examples of one function, such as those of a person who asks for it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from tanuki_async._cli import reading
from tanuki_async._keeping import forget
from tanuki_async._keeping.alone import alone
from tanuki_async._keeping.forget import Forgotten

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("forget", help="delete examples of one function", description=_run.__doc__)
    reading.add_function(parser)
    reading.add_place(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--where", metavar="NAME=VALUE", help="a parameter, or a path into one: user.email=a@b.c")
    which.add_argument("--contains", metavar="TEXT", help="anywhere in the arguments or the answer")
    which.add_argument("--before", metavar="DATE", help="recorded before that day or moment, in UTC")
    which.add_argument("--all", action="store_true", help="every example")
    parser.add_argument("--students", action="store_true", help="delete students trained on the examples, too")
    parser.add_argument("--yes", action="store_true", help="do it; without, only counts are shown")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    reading.runs(parser, _run)


async def _run(options: argparse.Namespace) -> None:
    """Delete examples from the data, damaged lines and filters; running processes notice within seconds.

    Without --yes nothing is changed, and counts are shown. Students that may have learnt from the examples are
    trained anew as soon as possible, or deleted.
    """
    async with reading.opened(options.dir) as storage:
        card = await reading.find(storage, options.function)
        which = forget.wanted(card, where=options.where, contains=options.contains, before=options.before)
        if options.yes:
            async with alone(storage):
                found = await forget.forget(storage, card, which, do=True, students=options.students)
        else:
            found = await forget.forget(storage, card, which, do=False, students=options.students)
    if options.json:
        print(json.dumps({"done": options.yes, **asdict(found)}, indent=2))
    else:
        _print(found, done=options.yes)


def _print(found: Forgotten, *, done: bool) -> None:
    for name, count in found.lines.items():
        print(f"{name}: {count:,} examples {'deleted' if done else 'would be deleted'}")
    for number, told in found.students.items():
        print(f"{told} (environment {number})")
    if not found.lines:
        print("No such examples are kept.")
    elif not done:
        print("Nothing was changed. Say --yes to do it.")
