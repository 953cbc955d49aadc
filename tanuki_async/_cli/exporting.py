"""`tanuki export`: recorded examples as training files."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tanuki_async._cards import Card
from tanuki_async._cli import reading
from tanuki_async._cli.files import appearing
from tanuki_async._errors import UsageError
from tanuki_async._function import PatchedFunction
from tanuki_async._keeping import modules
from tanuki_async._keeping.export import FORMATS, Exported, export

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("export", help="write training files", description=_run.__doc__)
    reading.add_function(parser)
    reading.add_place(parser)
    parser.add_argument("--format", choices=FORMATS, default="openai", help="whose form the lines have; openai")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write; standard output by default")
    parser.add_argument("--module", metavar="MODULE", help="where the function is, if not where it was recorded")
    parser.add_argument(
        "--validation",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="part of the inputs, such as 0.1, that goes to FILE with .validation before its ending",
    )
    parser.add_argument("--json", action="store_true", help="print the counts as a JSON object, on standard error")
    reading.runs(parser, _run)


def _share(text: str) -> float:
    if not 0 <= (share := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"a share lies between 0 and 1, not {text}")
    return share


async def _run(options: argparse.Namespace) -> None:
    """Write recorded examples as a provider's training files, in the words of live prompts, one line per input."""
    if options.validation and options.out is None:
        raise UsageError("--validation writes a second file: say --out FILE")
    counts: Counter[str] = Counter(written=0, validation=0, skipped=0)
    async with reading.opened(options.dir) as storage:
        card = await reading.find(storage, options.function)
        spec = (await asyncio.to_thread(_function, card, options.module)).spec
        files = contextlib.ExitStack()
        opening = _files(options.out, validation=options.validation > 0)
        training, validation = await asyncio.to_thread(files.enter_context, opening)
        try:
            async for batch in export(storage, spec, form=options.format, validation=options.validation):
                await asyncio.to_thread(_write, batch, training, validation, counts)
        finally:
            await asyncio.to_thread(files.__exit__, *sys.exc_info())
    if options.json:
        print(json.dumps(dict(counts)), file=sys.stderr)
    else:
        print(
            f"{counts['written']:,} lines for training, {counts['validation']:,} for validation; "
            f"{counts['skipped']:,} skipped, which cannot be read or whose image or document was too large to keep",
            file=sys.stderr,
        )


def _function(card: Card, module: str | None) -> PatchedFunction:
    name = module or card.module
    if name == "__main__":
        raise UsageError(f"{card.qualname}() was in a script; say where it is: --module MODULE")
    found = modules.with_hash(name, card.hash)
    if found is None:
        raise UsageError(
            f"{name} has no function with hash {card.hash} now: it has changed, or is elsewhere (--module); "
            f"`tanuki adopt {card.hash[:8]} {name}:{card.qualname}` carries its data over"
        )
    return found


@contextlib.contextmanager
def _files(out: Path | None, *, validation: bool) -> Generator[tuple[BinaryIO, BinaryIO | None]]:
    """Open what is written to. Files appear whole, when all is in them, for their user only."""
    if out is None:
        yield sys.stdout.buffer, None
        return
    with contextlib.ExitStack() as stack:
        training = stack.enter_context(appearing(out))
        held_out = stack.enter_context(appearing(out.with_suffix(f".validation{out.suffix}"))) if validation else None
        yield training, held_out


def _write(batch: list[Exported], training: BinaryIO, validation: BinaryIO | None, counts: Counter[str]) -> None:
    for each in batch:
        if each.text is None:
            counts["skipped"] += 1
        elif each.validation and validation is not None:
            validation.write(each.text + b"\n")
            counts["validation"] += 1
        else:
            training.write(each.text + b"\n")
            counts["written"] += 1
