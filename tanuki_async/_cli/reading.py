"""Reading what functions left in storage, without creating or changing anything."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

from tanuki_async._about import Status, make_status
from tanuki_async._cards import Card, card_key
from tanuki_async._distill import training
from tanuki_async._distill.state import Task
from tanuki_async._errors import StorageError, UsageError
from tanuki_async._ledger import read_tally
from tanuki_async._places import open_place
from tanuki_async._record import dataset
from tanuki_async.abc import Storage
from tanuki_async.storage.filesystem import FilesystemStorage

_CARD = card_key("")


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the data is."""
    parser.add_argument(
        "--dir", metavar="DIR", help="directory or storage URL of the data; TANUKI_LOG_DIR or .align by default"
    )


def add_function(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says which function is meant."""
    parser.add_argument("function", metavar="FUNCTION", help="its name, its hash, or the first digits of its hash")


def runs(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], Coroutine[Any, Any, None]]) -> None:
    """Let the parser's command run a coroutine function on an event loop of its own."""

    def run(options: argparse.Namespace) -> None:
        asyncio.run(command(options))

    parser.set_defaults(run=run)


@contextlib.asynccontextmanager
async def opened(place: str | None) -> AsyncGenerator[Storage]:
    """Open the storage of existing data. StorageError where there is none."""
    storage = await asyncio.to_thread(open_place, place)  # a relative path asks where this is
    if isinstance(storage, FilesystemStorage):
        await asyncio.to_thread(_must_exist, storage.path)
    await storage.open()
    try:
        yield storage
    finally:
        await storage.aclose()


def _must_exist(path: Path) -> None:
    if not (path / "format").is_file():  # opening would make the directory and mark it
        what = "there is nothing recorded in" if path.is_dir() else "there is no directory"
        raise StorageError(
            f"{what} {str(path)!r}; name the directory of your data with --dir, or see one with `tanuki demo`"
        )


async def cards(storage: Storage) -> list[Card]:
    """Read the cards of all functions, by name."""
    keys = [key for key in await storage.keys() if key.endswith(_CARD)]
    found = [Card.from_json(value.value) for key in keys if (value := await storage.get(key)) is not None]
    return sorted(found, key=lambda card: (card.name, card.first_seen))


async def find(storage: Storage, wanted: str) -> Card:
    """Return the one function that is meant by a name, a hash or the first digits of one."""
    there = await cards(storage)
    named = [card for card in there if wanted in (card.name, card.qualname, f"{card.module}.{card.qualname}")]
    named = named or [card for card in there if wanted and card.hash.startswith(wanted)]
    if len(named) == 1:
        return named[0]
    if named:
        several = ", ".join(f"{card.hash} ({card.module}.{card.qualname}, {card.first_seen})" for card in named)
        raise UsageError(f"{wanted!r} may be any of {len(named)} functions; give the first digits of one: {several}")
    known = ", ".join(sorted({card.name for card in there})) or "none"
    raise UsageError(f"no function is called {wanted!r}; recorded are: {known}")


async def environments(storage: Storage, card: Card) -> list[int]:
    """Return the environment ids under which a function was used, or [0]."""
    found: set[int] = set()
    for key in await storage.keys(f"{card.hash}/"):
        kind, _, number = key.removeprefix(f"{card.hash}/").partition("-")
        if kind in ("state", "tally") and number.removeprefix("-").isdecimal():
            found.add(int(number))
    return sorted(found) or [0]


async def status_of(storage: Storage, card: Card, environment_id: int) -> Status:
    """Read all that storage knows of a function."""
    task = Task(
        hash=card.hash, name=card.name, closed=False, inputs_of=lambda _, kwargs: kwargs, environment_id=environment_id
    )  # only its keys matter
    state = await training.read(storage, task)
    for key in await storage.keys(f"{task.state_key}-"):  # of a function that embeds, one for each model
        of_model = dataclasses.replace(task, variant=key.removeprefix(f"{task.state_key}-"))
        state = max(state, await training.read(storage, of_model), key=lambda state: state.updated_at)
    tally = await read_tally(storage, card.hash, environment_id)
    counts: dict[str, int] = {}
    for each in dataset.DATASETS:
        counts[each] = await storage.count(dataset.name_of(card.hash, each))
    return make_status(card.name, card.hash, state, tally, counts, tuple(tally.usage))
