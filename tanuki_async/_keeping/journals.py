"""Lines that wait on this machine, because storage could not be reached or refused them, are kept data too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tanuki_async._errors import StorageError
from tanuki_async._record import refused
from tanuki_async._record.journal import Journal, journal_for
from tanuki_async.abc import Finding, Storage

__all__ = ["forget", "forget_refused", "verify"]

Meant = Callable[[str, bytes], bool]
logger = logging.getLogger("tanuki_async.keeping")


async def forget(storage: Storage, meant: Meant) -> Mapping[str, int]:
    """Take out what is meant of what processes that died have left in their journals here, and write the rest to
    storage, as far as it takes it. Returns how many lines are out, by name. Living processes write their own.
    """
    journal = await asyncio.to_thread(journal_for, storage.address, None)
    if journal is None:
        return {}
    try:
        await asyncio.to_thread(journal.adopt)
        gone = await asyncio.to_thread(journal.take_out, meant)
        await _hand_over(journal, storage)
    finally:
        await asyncio.to_thread(journal.close)
    return gone


async def _hand_over(journal: Journal, storage: Storage) -> None:
    blocked: set[str] = set()
    while (part := await asyncio.to_thread(journal.read, blocked)) is not None:
        for name, lines in part.lines.items():
            try:
                await storage.append(name, lines)
            except StorageError as error:
                logger.warning("examples of %s still wait in the local journal: %s", name, error)
                blocked.add(name)
        await asyncio.to_thread(journal.done, part, {name: part.lines[name] for name in blocked & part.lines.keys()})


async def forget_refused(storage: Storage, meant: Meant, *, do: bool) -> int:
    """Count the lines that storage refused, and with `do` take them out of the file that keeps them for a person."""
    path = await _path(storage)
    if path is None:
        return 0
    if do:
        return await asyncio.to_thread(refused.take_out, path, meant)
    return sum(meant(name, line) for name, line in await asyncio.to_thread(refused.read, path))


async def verify(storage: Storage, *, repair: bool) -> Sequence[Finding]:
    """Name the lines that storage refused; with `repair` they are sent once more, and stay where they are refused."""
    path = await _path(storage)
    lines = await asyncio.to_thread(refused.read, path) if path else []
    if path is None or not lines:
        return []
    if not repair:
        return [Finding(place=str(path), what=f"{len(lines)} examples that storage refused")]
    taken, errors = set[tuple[str, bytes]](), list[StorageError]()
    for name, line in lines:
        try:
            await storage.append(name, [line])
            taken.add((name, line))
        except StorageError as error:
            errors.append(error)
    gone = await asyncio.to_thread(refused.take_out, path, lambda name, line: (name, line) in taken)
    sent = Finding(place=str(path), what=f"{gone} examples that storage refused", mended="it took them now")
    left = Finding(place=str(path), what=f"{len(errors)} examples that storage refuses: {errors[-1] if errors else ''}")
    return [sent] * bool(gone) + [left] * bool(errors)


async def _path(storage: Storage) -> Path | None:
    journal = await asyncio.to_thread(journal_for, storage.address, None)
    return None if journal is None else journal.path / refused.FILE
