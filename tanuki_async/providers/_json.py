"""JSON as a server sends it: of any shape, and in lines of a body that comes in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast


def mapping(value: object) -> dict[str, Any]:
    """Return `value` if it is an object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


async def lines_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield each line that says something, without its end; the last one too where no line break follows it."""
    kept: list[bytes] = []
    async for piece in pieces:
        first, *others = piece.split(b"\n")
        kept.append(first)
        if not others:
            continue
        *whole, last = others
        for line in (b"".join(kept), *whole):
            if line.strip():
                yield line.strip()
        kept = [last]
    if rest := b"".join(kept).strip():
        yield rest
