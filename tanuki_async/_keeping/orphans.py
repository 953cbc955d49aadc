"""Data without its function: a changed docstring, name or type gives a function another hash, and a fresh start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tanuki_async._cards import Card
from tanuki_async._errors import UsageError
from tanuki_async._function import PatchedFunction
from tanuki_async._keeping.modules import functions_of
from tanuki_async._record import dataset
from tanuki_async.abc import Storage

__all__ = ["Orphan", "orphans"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """Data that no function uses. `now` is where the function that took its place is, as `module:function`."""

    hash: str
    qualname: str
    module: str
    examples: int
    why: str
    now: str | None = None


async def orphans(storage: Storage, cards: Sequence[Card], modules: Sequence[str]) -> list[Orphan]:
    """Compare the cards with the functions of `modules`, or of the module that each card names."""
    known: dict[str, Mapping[str, PatchedFunction] | str] = {
        module: await asyncio.to_thread(_functions, module) for module in modules or {card.module for card in cards}
    }
    if modules and (broken := next((each for each in known.values() if isinstance(each, str)), None)):
        raise UsageError(broken)
    found: list[Orphan] = []
    for card in cards:
        searched = {name: each for name, each in known.items() if modules or name == card.module}
        if (why := _why(card, searched)) is not None:
            counts = [await storage.count(dataset.name_of(card.hash, each)) for each in dataset.DATASETS]
            reason, now = why
            found.append(
                Orphan(
                    hash=card.hash,
                    qualname=card.qualname,
                    module=card.module,
                    examples=sum(counts),
                    why=reason,
                    now=now,
                )
            )
    return found


def _functions(module: str) -> Mapping[str, PatchedFunction] | str:
    try:
        return functions_of(module)
    except UsageError as error:
        return str(error)


def _why(card: Card, searched: Mapping[str, Mapping[str, PatchedFunction] | str]) -> tuple[str, str | None] | None:
    """Return why no function of these has the card's hash, and which took its place; None where one has it."""
    namesake: str | None = None
    for module, functions in searched.items():
        if isinstance(functions, str):
            return functions, None
        for qualname, function in functions.items():
            if function.spec.hash == card.hash:
                return None
            if qualname == card.qualname:
                namesake = f"{module}:{qualname}"
    return ("its function has changed", namesake) if namesake else ("there is no function of that name", None)
