"""`tanuki verify`, `tanuki rebuild` and `tanuki compact`: is what is kept whole, and no more than is needed?"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from tanuki_async._cli import reading
from tanuki_async._errors import StorageError
from tanuki_async._keeping import compact, verify
from tanuki_async._keeping.alone import alone
from tanuki_async.abc import Finding

if TYPE_CHECKING:
    from argparse import _SubParsersAction


class DamagedError(StorageError):
    """Something is wrong with the data, and was not mended."""


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    parser = _command(commands, "verify", "check that all that is kept is whole", _verify.__doc__)
    parser.add_argument(
        "--repair",
        action="store_true",
        help="mend; bad bytes are moved aside into *.damaged, refused examples sent again",
    )
    reading.runs(parser, _verify)
    parser = _command(commands, "rebuild", "make the filters anew from the data", _rebuild.__doc__)
    reading.runs(parser, _rebuild)
    parser = _command(commands, "compact", "drop repeated examples and replaced answers", _compact.__doc__)
    parser.add_argument("--dry-run", action="store_true", help="only count what would go")
    reading.runs(parser, _compact)


def _command(
    commands: _SubParsersAction[argparse.ArgumentParser], name: str, help_text: str, description: str | None
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=description)
    reading.add_place(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    return parser


async def _verify(options: argparse.Namespace) -> None:
    """Read every line and value, and compare filters and counts with them. Exit status 1 where something is wrong.

    Examples that storage refused when they were recorded are named too: they are in this machine's journal
    (TANUKI_JOURNAL_DIR), and --repair sends them once more.
    """
    found: list[Finding] = []
    async with reading.opened(options.dir) as storage:
        if options.repair:
            async with alone(storage):
                found += [finding async for finding in verify.verify(storage, repair=True)]
        else:
            found += [finding async for finding in verify.verify(storage)]
    if options.json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        for finding in found:
            print(f"{finding.place}: {finding.what}" + (f"; {finding.mended}" if finding.mended else ""))
        if not found:
            print("All that is kept is whole.")
    if left := sum(not finding.mended for finding in found):
        raise DamagedError(f"{left} things are wrong; `tanuki verify --repair` mends them and deletes nothing")


async def _rebuild(options: argparse.Namespace) -> None:
    """Make the filters that know which examples are there anew from the data."""
    async with reading.opened(options.dir) as storage, alone(storage):
        lines = await verify.rebuild(storage)
    if options.json:
        print(json.dumps(lines, indent=2))
        return
    for name, count in lines.items():
        print(f"{name}: {count:,} lines")


async def _compact(options: argparse.Namespace) -> None:
    """Drop examples that are there twice, and answers that a later one for the same arguments replaced."""
    async with reading.opened(options.dir) as storage, alone(storage):
        gone = await compact.compact(storage, dry_run=options.dry_run)
    if options.json:
        print(json.dumps(gone, indent=2))
        return
    for name, count in gone.items():
        print(f"{name}: {count:,} lines {'would go' if options.dry_run else 'dropped'}")
    if not gone:
        print("There is nothing to drop.")
