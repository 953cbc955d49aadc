"""Lines that wait on this machine, because storage could not be reached or refused them, are kept data too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from tanuki_async._record.journal import Journal, journal_for
from tanuki_async.abc import Storage
from tanuki_async.storage._files import replace, translated

__all__ = ["hand_over", "refused"]


async def hand_over(storage: Storage) -> None:
    """Write to storage what processes that died have left in their journals here. Living ones write their own."""
    journal = await asyncio.to_thread(journal_for, storage.address, None)
    if journal is None:
        return
    try:
        await asyncio.to_thread(journal.adopt)
        while waiting := await asyncio.to_thread(journal.oldest):
            for name, lines in list(waiting.items()):
                await storage.append(name, lines)
            await asyncio.to_thread(journal.done)
    finally:
        await asyncio.to_thread(journal.close)


async def refused(storage: Storage, meant: Callable[[str, bytes], bool], *, do: bool) -> int:
    """Count the lines that storage refused, and with `do` take them out of the file that keeps them for a person."""
    journal = await asyncio.to_thread(journal_for, storage.address, None)
    return 0 if journal is None else await asyncio.to_thread(_refused, journal, meant, do=do)


def _refused(journal: Journal, meant: Callable[[str, bytes], bool], *, do: bool) -> int:
    path: Path = journal.path / "refused.jsonl"
    with translated("rewrite", path):
        if not path.is_file():
            return 0
        before = path.read_bytes().splitlines(keepends=True)
        after = [text for text in before if not _is_meant(text, meant)]
        if do and len(after) < len(before):
            replace(path, b"".join(after))
        return len(before) - len(after)


def _is_meant(text: bytes, meant: Callable[[str, bytes], bool]) -> bool:
    try:
        record = json.loads(text)
        return meant(str(record["name"]), str(record["line"]).encode())
    except (ValueError, KeyError, TypeError):
        return meant("", text)
