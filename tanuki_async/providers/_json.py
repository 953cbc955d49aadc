"""JSON as a server sends it: of any shape, and in lines of a body that comes in pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

from tanuki_async._errors import ProviderUnavailableError
from tanuki_async._records import Reply
from tanuki_async.providers._errors import readable
from tanuki_async.providers._secrets import without


def mapping(value: object) -> dict[str, Any]:
    """Return `value` if it is an object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def id_in(found: Mapping[str, Any], field: str = "id", *, provider: str, secrets: Sequence[str] = ()) -> str:
    """Return the id of what a server says that it has made, or has. ProviderUnavailableError where it tells none.

    `secrets` never appear in the error.
    """
    told = found.get(field)
    if isinstance(told, str | int) and not isinstance(told, bool) and str(told).strip():
        return str(told)
    shown = without(Reply(status=200, headers={}, body=json.dumps(found).encode()), secrets)
    raise ProviderUnavailableError(f"success, but without {field!r}: {readable(shown.body)}", provider, "", 200)


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
