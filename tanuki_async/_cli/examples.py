"""`tanuki examples`: what was recorded of one function."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from tanuki_async._cards import Card
from tanuki_async._cli import extras, reading
from tanuki_async._record import dataset
from tanuki_async._records import Example
from tanuki_async.abc import Storage

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_NAMES: dict[str, dataset.Dataset] = {
    "patches": dataset.PATCHES,
    "aligned": dataset.SYMBOLIC_ALIGNMENTS,
    "positive": dataset.POSITIVE_EMBEDDABLE_ALIGNMENTS,
    "negative": dataset.NEGATIVE_EMBEDDABLE_ALIGNMENTS,
}


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("examples", help="show recorded examples of one function", description=__doc__)
    reading.add_function(parser)
    reading.add_place(parser)
    parser.add_argument(
        "--dataset",
        choices=_NAMES,
        default="patches",
        help="answered calls (patches), aligned answers, positive or negative pairs of an embedding",
    )
    parser.add_argument("--last", type=int, default=20, metavar="N", help="how many; 20 by default, 0 for all")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Show recorded examples, the newest last."""
    if not options.json:
        extras.need("rich", "cli", "printing tables needs rich (--json prints without)")
    card, found, elsewhere = asyncio.run(_read(options))
    if options.json:
        for example in found:
            print(json.dumps(_document(example), ensure_ascii=False))
    elif not found:
        print(f"{card.qualname}() has no examples in {options.dataset}{elsewhere}.")
    else:
        _print(card, found)


async def _read(options: argparse.Namespace) -> tuple[Card, list[Example], str]:
    async with reading.opened(options.dir) as storage:
        card = await reading.find(storage, options.function)
        found = await _newest(storage, card.hash, _NAMES[options.dataset], options.last)
        others = {name: await storage.count(dataset.name_of(card.hash, each)) for name, each in _NAMES.items()}
    return card, found, "".join(f"; --dataset {name} has {count:,}" for name, count in others.items() if count)


async def _newest(storage: Storage, function_hash: str, name: dataset.Dataset, last: int) -> list[Example]:
    lines = await storage.count(dataset.name_of(function_hash, name))
    kept: deque[Example] = deque(maxlen=last if last > 0 else None)
    async for batch in dataset.read(storage, function_hash, name, start=max(0, lines - last) if last > 0 else 0):
        kept.extend(batch)
    return list(kept)


def _document(example: Example) -> dict[str, Any]:
    return {**asdict(example), "kwargs": dict(example.kwargs)}


def _print(card: Card, found: list[Example]) -> None:
    table = extras.table("at", "source", "model", "arguments", "output", title=card.signature)
    for example in found:
        given = [_text(value) for value in example.args]
        given += [f"{name}={_text(value)}" for name, value in example.kwargs.items()]
        table.add_row(
            example.at.replace("T", " ").removesuffix("Z"),
            example.source + (", repaired" if example.repaired else ""),
            example.model or "",
            ", ".join(given),
            _text(example.output),
        )
    extras.console().print(table)


def _text(value: Any) -> str:
    return json.dumps(_short(value), ensure_ascii=False)  # escapes what would command a terminal


def _short(value: Any) -> Any:
    """Leave out the bytes of images and documents."""
    if isinstance(value, list):
        return list(map(_short, cast("Iterable[Any]", value)))
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    if fields.keys() >= {"media_type", "sha256", "data"}:
        return f"{fields['media_type']} {str(fields['sha256'])[:12]}"
    return {name: _short(item) for name, item in fields.items()}
