"""`tanuki functions`: which functions have data, and who answers them."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING, Any

from tanuki_async._about import Status
from tanuki_async._cards import Card
from tanuki_async._cli import extras, orphans, reading
from tanuki_async._record import dataset

if TYPE_CHECKING:
    from argparse import _SubParsersAction

Row = tuple[Card, int, Status]


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("functions", help="list the functions that have data", description=__doc__)
    reading.add_place(parser)
    orphans.add_options(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON array of objects")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """List the functions in a storage."""
    if not options.json:
        extras.need("rich", "cli", "printing tables needs rich (--json prints without)")
    if options.orphans:
        orphans.run(options)
        return
    rows = asyncio.run(_read(options.dir))
    if options.json:
        print(json.dumps([_document(*row) for row in rows], indent=2, ensure_ascii=False))
    elif not rows:
        print("No function has been called or aligned here yet.")
    else:
        _print(rows)


async def _read(place: str | None) -> list[Row]:
    async with reading.opened(place) as storage:
        return [
            (card, number, await reading.status_of(storage, card, number))
            for card in await reading.cards(storage)
            for number in await reading.environments(storage, card)
        ]


def _document(card: Card, environment_id: int, status: Status) -> dict[str, Any]:
    return {
        "name": card.name,
        "qualname": card.qualname,
        "module": card.module,
        "signature": card.signature,
        "hash": card.hash,
        "first_seen": card.first_seen,
        "environment_id": environment_id,
        "phase": status.phase,
        "datasets": status.datasets,
        "agreement": status.agreement,
        "bound": status.bound,
        "served_by": served_by(status),
    }


def served_by(status: Status) -> list[str]:
    """Tell who answers, the first one first: the student, if there is one, then the teachers seen so far."""
    student = [f"{status.student} student"] if status.student else []
    return student + (list(status.teachers) or ["teacher"])


def _print(rows: list[Row]) -> None:
    with_environment = any(number for _, number, _ in rows)
    columns = ["name", "module", "hash", "phase", ">calls kept", ">aligned", ">pairs", ">agreement ≥", "served by"]
    table = extras.table(*columns, *(["environment"] if with_environment else []))
    for card, number, status in rows:
        counts = status.datasets
        pairs = counts[dataset.POSITIVE_EMBEDDABLE_ALIGNMENTS] + counts[dataset.NEGATIVE_EMBEDDABLE_ALIGNMENTS]
        table.add_row(
            card.qualname,
            card.module,
            card.hash[:8],
            status.phase,
            f"{counts[dataset.PATCHES]:,}",
            f"{counts[dataset.SYMBOLIC_ALIGNMENTS]:,}",
            f"{pairs:,}",
            "" if status.bound is None else f"{status.bound:.1%}",
            ", then ".join(served_by(status)),
            *([str(number)] if with_environment else []),
        )
    extras.console().print(table)
