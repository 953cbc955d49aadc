"""Is all that is kept whole? Every line and small value is read; what is bad is named, and on request moved aside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

from tanuki_async._cards import Card
from tanuki_async._distill.state import State
from tanuki_async._errors import StorageError
from tanuki_async._keeping import journals
from tanuki_async._lines import VERSION, decode_line
from tanuki_async._record import dataset
from tanuki_async._tally import Tally
from tanuki_async.abc import Finding, Storage

__all__ = ["DAMAGED", "rebuild", "verify"]

DAMAGED = ".damaged"
Kind = Literal["whole", "newer", "damaged"]


async def verify(storage: Storage, *, repair: bool = False) -> AsyncIterator[Finding]:
    """Look at all that a storage keeps. With `repair`, bad lines and values are moved aside, and nothing is deleted.

    What storage refused when it was recorded is named too, and with `repair` sent once more.
    """
    for finding in await journals.verify(storage, repair=repair):
        yield finding
    for finding in await storage.inspect(repair=repair):
        yield finding
    for name in await storage.names():
        if name.rpartition("/")[2] in dataset.DATASETS:
            for finding in await _lines(storage, name, repair=repair):
                yield finding
    for key in await storage.keys():
        if (wrong := await _value(storage, key, repair=repair)) is not None:
            yield wrong


async def rebuild(storage: Storage) -> dict[str, int]:
    """Derive all filters anew from the lines; return how many lines each name has."""
    return {name: await storage.rebuild(name) for name in await storage.names()}


async def _lines(storage: Storage, name: str, *, repair: bool) -> list[Finding]:
    found: list[Finding] = []
    told = await storage.count(name)
    seen = newer = 0
    bad: list[bytes] = []
    async for lines in storage.scan(name):
        kinds = await asyncio.to_thread(_kinds, lines)
        seen += len(lines)
        newer += kinds.count("newer")
        bad += [line for line, kind in zip(lines, kinds, strict=True) if kind == "damaged"]
    if told > seen or (told < seen and await storage.count(name) < seen):  # others may append meanwhile
        if repair:
            await storage.rebuild(name)
        found.append(Finding(place=name, what=f"{told} are counted where {seen} are", mended="counted anew" * repair))
    if bad:
        found.append(await _aside(storage, name, bad, repair=repair))
    if newer:
        found.append(
            Finding(
                place=name, what=f"{newer} lines of a newer release: upgrade tanuki_async", mended="left as they are"
            )
        )
    return found


async def _aside(storage: Storage, name: str, bad: Sequence[bytes], *, repair: bool) -> Finding:
    what = f"{len(bad)} lines cannot be read"
    if not repair:
        return Finding(place=name, what=what)
    await storage.append(name + DAMAGED, [line for line in bad if line], latest=False)
    await storage.rewrite(name, _whole)
    return Finding(place=name, what=what, mended=f"moved to {name}{DAMAGED}")


def _whole(lines: list[bytes]) -> list[bytes]:
    return [line for line, kind in zip(lines, _kinds(lines), strict=True) if kind != "damaged"]


def _kinds(lines: Sequence[bytes]) -> list[Kind]:
    return [_kind(line) for line in lines]


def _kind(line: bytes) -> Kind:
    try:
        decode_line(line)
    except StorageError:
        return "newer" if _version(line) > VERSION else "damaged"
    return "whole"


def _version(text: bytes) -> int:
    try:
        version: Any = json.loads(text)["v"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return version if isinstance(version, int) else 0


async def _value(storage: Storage, key: str, *, repair: bool) -> Finding | None:
    """Look at a card, a state or a tally. Students are read by whoever uses them, and checked then."""
    read = _reader(key)
    held = await storage.get(key)
    if read is None or held is None or not held.value:
        return None
    try:
        read(held.value)
    except (StorageError, ValueError, KeyError, TypeError, AttributeError) as error:
        if _version(held.value) > 1:
            return Finding(place=key, what="of a newer release: upgrade tanuki_async", mended="left as it is")
        if repair:
            await storage.put(key + DAMAGED, held.value, version=await _version_of(storage, key + DAMAGED))
            await storage.remove(key)
        return Finding(place=key, what=f"cannot be read ({error})", mended=f"moved to {key}{DAMAGED}" if repair else "")
    return None


async def _version_of(storage: Storage, key: str) -> str | None:
    held = await storage.get(key)
    return None if held is None else held.version


def _reader(key: str) -> Callable[[bytes], object] | None:
    kind = key.rpartition("/")[2]
    if kind.endswith(DAMAGED):
        return None
    if kind == "function":
        return Card.from_json
    if kind == "tally" or kind.startswith("tally-"):
        return Tally.from_json
    return State.from_json if kind.startswith("state-") else None
