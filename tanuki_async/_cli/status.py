"""`tanuki status`: how one function is doing, over all processes that share its storage."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from tanuki_async._about import Status
from tanuki_async._cards import Card
from tanuki_async._cli import extras, reading
from tanuki_async._cli.functions import served_by

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("status", help="tell how one function is doing", description=__doc__)
    reading.add_function(parser)
    reading.add_place(parser)
    parser.add_argument("--environment", type=int, default=0, metavar="ID", help="its environment_id; 0 by default")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Tell how one function is doing."""
    if not options.json:
        extras.need("rich", "cli", "printing tables needs rich (--json prints without)")
    card, status = asyncio.run(_read(options.dir, options.function, options.environment))
    if options.json:
        print(json.dumps({"module": card.module, **asdict(status)}, indent=2, ensure_ascii=False))
        return
    table = extras.table("", "", title=card.signature)
    table.show_header = False
    for name, value in lines(card, status):
        table.add_row(name, value)
    extras.console().print(table)


async def _read(place: str | None, wanted: str, environment_id: int) -> tuple[Card, Status]:
    async with reading.opened(place) as storage:
        card = await reading.find(storage, wanted)
        return card, await reading.status_of(storage, card, environment_id)


def lines(card: Card, status: Status) -> Iterator[tuple[str, str]]:
    """Yield what there is to say about a function, each with its name."""
    yield "function", f"{card.module}.{card.qualname}"
    yield "hash", status.hash
    yield "phase", status.phase
    yield "reason", status.reason
    yield "served by", ", then ".join(served_by(status))
    yield "examples", ", ".join(f"{count:,} {name}" for name, count in status.datasets.items() if count) or "none"
    yield "trainings", str(status.trainings)
    if status.agreement is not None:
        yield (
            "agreement",
            f"{status.agreement:.1%} of {status.held_out:,} held-out inputs, at least {share(status.bound)}",
        )
        yield "coverage", share(status.coverage)
    yield "answered by", f"teacher {status.answered_by_teacher:,}, student {status.answered_by_student:,}"
    yield "other calls", f"deferred {status.deferred:,}, repaired {status.repaired:,}, failed {status.failed:,}"
    yield "audits", f"{status.audits:,}"
    if status.cached or status.hedged:
        yield "spared and doubled", f"cached {status.cached:,}, hedged {status.hedged:,}"
    usage = status.usage
    yield "requests", f"{usage.requests:,}"
    yield "tokens", f"{usage.input_tokens:,} in ({usage.cached_tokens:,} cached), {usage.output_tokens:,} out"
    unpriced = f", and {status.unpriced:,} requests of unknown price" if status.unpriced else ""
    yield "cost", f"${status.cost:,.4f}{unpriced}"
    yield "saved", "unknown" if status.saved is None else f"${status.saved:,.4f}"


def share(value: float | None) -> str:
    """Write a share as a percentage."""
    return "unknown" if value is None else f"{value:.1%}"
