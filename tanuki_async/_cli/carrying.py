"""`tanuki import` and `tanuki adopt`: examples from elsewhere, or of a function that has changed since."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tanuki_async._cards import put_card
from tanuki_async._cli import reading
from tanuki_async._clock import SYSTEM_CLOCK
from tanuki_async._errors import StorageError, UsageError
from tanuki_async._function import PatchedFunction
from tanuki_async._keeping import carrying, modules, original
from tanuki_async._keeping.carrying import Carried
from tanuki_async._keeping.fitting import names_in
from tanuki_async._places import open_place
from tanuki_async.abc import Storage

if TYPE_CHECKING:
    from argparse import _SubParsersAction

SHOWN = 50
"""Lines left out that are printed; `--json` has all."""


class LeftOutError(StorageError):
    """Some lines were not carried over."""


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    parser = commands.add_parser("import", help="read data that Tanuki.py wrote", description=_import.__doc__)
    parser.add_argument("source", metavar="DIR", help="where Tanuki.py kept its data: $TANUKI_LOG_DIR, or a copy")
    parser.add_argument("--module", required=True, metavar="MODULE", help="where the patched functions are now")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        type=_pair,
        metavar="HASH=FUNCTION",
        help="which function a file belongs to, where its lines fit several",
    )
    _common(parser)
    reading.runs(parser, _import)
    parser = commands.add_parser("adopt", help="carry data over to a changed function", description=_adopt.__doc__)
    parser.add_argument("old", metavar="OLD", help="the hash of the data, or the first digits of it")
    parser.add_argument("new", metavar="NEW", help="a hash, a name, or package.module:function")
    _common(parser)
    reading.runs(parser, _adopt)


def _common(parser: argparse.ArgumentParser) -> None:
    reading.add_place(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON array of objects")


def _pair(text: str) -> tuple[str, str]:
    source, equals, function = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} should be HASH=FUNCTION")
    return source, function


async def _import(options: argparse.Namespace) -> None:
    """Read what Tanuki.py kept, without executing anything; every example must fit its function's types."""
    functions = await asyncio.to_thread(modules.functions_of, options.module)
    storage = await asyncio.to_thread(open_place, options.dir)
    await storage.open()
    try:
        importing = carrying.import_from(Path(options.source), storage, functions, told=dict(options.map))
        every = [carried async for carried in importing]
    finally:
        await storage.aclose()
    _report(every, json_wanted=options.json)


async def _adopt(options: argparse.Namespace) -> None:
    """Carry the examples of one function over to another, such as the same one after a change of its types."""
    async with reading.opened(options.dir) as storage:
        old = await reading.find(storage, options.old)
        new, function = await _target(storage, options.new)
        if new == old.hash:
            raise UsageError(f"{options.old!r} and {options.new!r} are the same function")
        carried = await carrying.adopt(storage, old.hash, new, names=names_in(old.signature), function=function)
    if function is None and not options.json:
        print(f"The function of {new} cannot be imported: nothing was checked against its types.")
    _report([carried], json_wanted=options.json)


async def _target(storage: Storage, wanted: str) -> tuple[str, PatchedFunction | None]:
    module, colon, name = wanted.partition(":")
    if colon:
        functions = await asyncio.to_thread(modules.functions_of, module)
        found = functions[original.named(name, functions)]
        await put_card(storage, found.spec, SYSTEM_CLOCK)
        return found.spec.hash, found
    card = await reading.find(storage, wanted)
    try:
        return card.hash, await asyncio.to_thread(modules.with_hash, card.module, card.hash)
    except UsageError:
        return card.hash, None


def _report(every: Sequence[Carried], *, json_wanted: bool) -> None:
    if json_wanted:
        print(json.dumps([_document(each) for each in every], indent=2, ensure_ascii=False))
    else:
        for each in every:
            _print(each)
    if left_out := sum(len(each.misfits) for each in every):
        raise LeftOutError(f"{left_out} lines or files were left out, as was said; all else is kept")


def _document(carried: Carried) -> dict[str, Any]:
    return {**asdict(carried), "added": dict(carried.added), "there": dict(carried.there)}


def _print(carried: Carried) -> None:
    counts = [f"{count:,} {name}" for name, count in carried.added.items() if count]
    there = sum(carried.there.values())
    print(
        f"{carried.source} → {carried.function or carried.hash or 'nowhere'}: {', '.join(counts) or 'nothing'} added"
        + (f", {there:,} there already" if there else "")
        + (f", {len(carried.misfits):,} left out:" if carried.misfits else "")
    )
    for misfit in carried.misfits[:SHOWN]:
        print(f"  {misfit}")
    if len(carried.misfits) > SHOWN:
        print(f"  … and {len(carried.misfits) - SHOWN:,} more; --json lists all")
