"""`tanuki jobs`: the trainings at providers, and the functions that they are for."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tanuki_async._cli import extras, reading
from tanuki_async._errors import SettingsError, StorageError
from tanuki_async._pool.http import Connections
from tanuki_async._records import Job
from tanuki_async._settings import Settings
from tanuki_async._teachers import Teachers
from tanuki_async.abc import Provider, Tuning

if TYPE_CHECKING:
    from argparse import _SubParsersAction

KEYS = {
    "openai": ("OPENAI_API_KEY",),
    "together": ("TOGETHER_API_KEY",),
    "anyscale": ("ANYSCALE_API_KEY",),
    "bedrock": ("AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"),
}
"""Providers that train, and the variables of which one says that there is an account."""
MARK = len("tanuki-"), len("tanuki-") + 12
"""Where the tag of a training has the first digits of its function's hash."""

Row = tuple[str, Job, str]


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("jobs", help="list the trainings at providers", description=__doc__)
    parser.add_argument(
        "--provider",
        action="append",
        choices=KEYS,
        help="whom to ask; by default all that have a key in the environment",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array of objects")
    reading.add_place(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """List the jobs. What one provider fails with is raised when those of the others are printed."""
    if not options.json:
        extras.need("rich", "cli", "printing tables needs rich (--json prints without)")
    rows, failure = asyncio.run(_read(options.provider or _with_keys(), options.dir))
    _show(rows, json_wanted=options.json)
    if failure is not None:
        raise failure


async def _read(names: Sequence[str], place: str | None) -> tuple[list[Row], BaseException | None]:
    functions = await _functions(place)
    teachers = await asyncio.to_thread(lambda: Teachers(Settings()))
    http = Connections()
    try:
        listing = (_listed(teachers.provider(name), http) for name in names)
        found = await asyncio.gather(*listing, return_exceptions=True)
    finally:
        await http.aclose()
    rows = [
        (name, job, functions.get((job.tag or "")[slice(*MARK)], ""))
        for name, jobs in zip(names, found, strict=True)
        if not isinstance(jobs, BaseException)
        for job in jobs
    ]
    return rows, next((each for each in found if isinstance(each, BaseException)), None)


def _with_keys() -> list[str]:
    if names := [name for name, variables in KEYS.items() if any(map(os.environ.get, variables))]:
        return names
    variables = ", ".join(variables[0] for variables in KEYS.values())
    raise SettingsError(
        f"no provider that trains has a key in the environment ({variables}); set one, or say --provider"
    )


async def _functions(place: str | None) -> Mapping[str, str]:
    """Name the functions that have data, by the first digits of their hash. None where nothing is recorded here."""
    try:
        async with reading.opened(place) as storage:
            start, end = MARK
            return {card.hash[: end - start]: card.qualname for card in await reading.cards(storage)}
    except StorageError:
        if place is not None:
            raise
        return {}


async def _listed(provider: Provider, http: Connections) -> list[Job]:
    tuning: Tuning | None = provider.tuning
    return [] if tuning is None else await tuning.jobs(http)


def _show(rows: list[Row], *, json_wanted: bool) -> None:
    if json_wanted:
        print(json.dumps([_document(*row) for row in rows], indent=2, ensure_ascii=False))
    elif not rows:
        print("Nothing was trained yet.")
    else:
        table = extras.table("provider", "job", "status", "function", "model", "reason")
        for provider, job, function in rows:
            status = job.status if job.told in ("", job.status) else f"{job.status} ({job.told})"
            table.add_row(provider, job.id, status, function, job.model or "", job.reason or "")
        extras.console().print(table)


def _document(provider: str, job: Job, function: str) -> dict[str, Any]:
    told = {name: value for name, value in dataclasses.asdict(job).items() if name != "output"}
    return {"provider": provider, **told, "function": function or None}
