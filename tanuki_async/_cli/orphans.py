"""`tanuki functions --orphans`: data whose function has changed, or is gone."""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import asdict

from tanuki_async._cli import extras, reading
from tanuki_async._keeping.orphans import Orphan, orphans


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--orphans", action="store_true", help="only data whose function has changed since")
    parser.add_argument(
        "--module",
        action="append",
        metavar="MODULE",
        help="with --orphans: a module in which functions are now; by default, where each was when it was recorded",
    )


def run(options: argparse.Namespace) -> None:
    """List data whose function has changed, with what its function is now."""
    found = asyncio.run(_read(options))
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False))
        return
    if not found:
        print("Every function that has data is as it was.")
        return
    table = extras.table("name", "module", "hash", ">examples", "why", "what to do")
    for each in found:
        advice = f"tanuki adopt {each.hash[:8]} {each.now}" if each.now else ""
        table.add_row(each.qualname, each.module, each.hash[:8], f"{each.examples:,}", each.why, advice)
    extras.console().print(table)


async def _read(options: argparse.Namespace) -> list[Orphan]:
    async with reading.opened(options.dir) as storage:
        return await orphans(storage, await reading.cards(storage), options.module or [])
