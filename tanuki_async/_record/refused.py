"""The file of examples that storage refused for good: a person sees there why, and may have them sent once more."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tanuki_async.storage._files import locked, open_locked, replace, sync_data, translated, write_all

__all__ = ["FILE", "SETTING", "read", "set_aside", "take_out"]

FILE = "refused.jsonl"
SETTING = "TANUKI_JOURNAL_DIR"
"""What says where this file, and the journal, are."""


def set_aside(path: Path, name: str, line: bytes, why: object) -> None:
    """Add a line; it is on the disk when this returns. Raises StorageError."""
    record = {"name": name, "line": line.decode(errors="backslashreplace"), "why": str(why)}
    with translated("write to", path, setting=SETTING):
        descriptor = open_locked(path)
        try:
            write_all(descriptor, json.dumps(record).encode() + b"\n")
            sync_data(descriptor)
        finally:
            os.close(descriptor)


def read(path: Path) -> list[tuple[str, bytes]]:
    """Return the lines with their names; what cannot be read has none. Raises StorageError."""
    with translated("read", path, setting=SETTING):
        return [_read(text) for text in path.read_bytes().splitlines()] if path.is_file() else []


def take_out(path: Path, meant: Callable[[str, bytes], bool]) -> int:
    """Take out the lines that are meant; return how many those are. Raises StorageError."""
    with translated("rewrite", path, setting=SETTING):
        if not path.is_file():
            return 0
        with locked(path):
            before = path.read_bytes().splitlines(keepends=True)
            after = [text for text in before if not meant(*_read(text))]
            if not after:
                path.unlink(missing_ok=True)
            elif len(after) < len(before):
                replace(path, b"".join(after))
            return len(before) - len(after)


def _read(text: bytes) -> tuple[str, bytes]:
    try:
        record = json.loads(text)
        return str(record["name"]), str(record["line"]).encode()
    except (ValueError, KeyError, TypeError):
        return "", text
