"""Which names and keys a storage takes, so that all take the same and none leads out of its directory."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tanuki_async._errors import StorageError, clip

__all__ = ["ENDINGS", "check"]

ENDINGS = (".jsonl", ".json", ".bloom", ".lease")
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


def check(name: str, what: str, lines: Sequence[bytes] = ()) -> None:
    """Raise StorageError unless `name` is made of safe parts and no line contains a line break."""
    parts = name.split("/")
    if len(name) > 1000 or not all(_PART.fullmatch(part) and not part.endswith(ENDINGS) for part in parts):
        raise StorageError(
            f"{clip(name, 80)!r} cannot be a {what}: write parts of A-Z a-z 0-9 _ - and . joined by /, "
            f"none empty, beginning with a dot, or ending in {', '.join(ENDINGS)}"
        )
    if any(b"\n" in line for line in lines):
        raise StorageError(f"a line for {name!r} contains a line break: write records with encode_line")
