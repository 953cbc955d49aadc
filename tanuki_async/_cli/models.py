"""`tanuki models`: what is known of each model, and until when it answers."""

from __future__ import annotations

import argparse
import dataclasses
import json
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tanuki_async._cli import extras
from tanuki_async._errors import UsageError
from tanuki_async._models import MODELS, retirement
from tanuki_async._records import Model

if TYPE_CHECKING:
    from argparse import _SubParsersAction

COLUMNS = ("model", "for", ">window", ">output", ">$ input", ">$ cached", ">$ output", "effort", "retires", "as of")
"""Prices are in US dollars per million tokens."""


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("models", help="list the models in our table", description=__doc__)
    parser.add_argument("--provider", metavar="NAME", help="only the models of this provider, such as openai")
    parser.add_argument("--json", action="store_true", help="print a JSON array of objects, with all that is known")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """List the table."""
    providers = sorted({model.provider for model in MODELS})
    if options.provider not in (None, *providers):
        raise UsageError(f"the table has no models of {options.provider!r}; it has those of {', '.join(providers)}")
    models = [model for model in MODELS if options.provider in (None, model.provider)]
    if options.json:
        print(json.dumps([_document(model) for model in models], indent=2))
    elif find_spec("rich"):
        table = extras.table(*COLUMNS)
        for model in models:
            table.add_row(*_row(model))
        extras.console().print(table)
    else:
        _print_plain([tuple(column.removeprefix(">") for column in COLUMNS), *map(_row, models)])
    if not options.json:
        _print_ends(models)


def _document(model: Model) -> dict[str, Any]:
    told = {name: value for name, value in dataclasses.asdict(model).items() if not name.startswith("_")}
    return {**told, "attachments": sorted(model.attachments)}


def _row(model: Model) -> tuple[str, ...]:
    prices = (model.price_input, model.price_cached, model.price_output)
    return (
        str(model),
        model.suggested or ("embedding" if model.kind == "embedding" else ""),
        f"{model.context_window:,}",
        f"{model.max_output:,}" if model.max_output else "",
        *("" if price is None else f"{price:g}" for price in prices),
        model.reasoning_effort or "",
        model.retires or "",
        model.as_of or "",
    )


def _print_plain(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_ends(models: list[Model]) -> None:
    today = datetime.now(UTC).date()
    for end in filter(None, (retirement(model, today) for model in models)):
        print(end)
