"""What only a place in S3 can have wrong: a saved filter that does not know its lines."""

from __future__ import annotations

import asyncio

from tanuki_async._bloom import BloomError
from tanuki_async.abc import Finding
from tanuki_async.storage._s3_log import Log, Reading
from tanuki_async.storage._s3_objects import Saved
from tanuki_async.storage._seen import Filter

__all__ = ["findings"]


async def findings(log: Log, *, repair: bool) -> list[Finding]:
    """Compare the saved filter of a name with its lines; make it anew where that is asked for."""
    wrong = await _wrong(log)
    if wrong and repair:
        await log.rebuild()
    return [Finding(place=log.objects.name, what=wrong, mended="the filter was made anew" * repair)] if wrong else []


async def _wrong(log: Log) -> str:
    """Say what is wrong with the saved filter, or nothing. One that is missing, or of lines taken back, is right."""
    try:
        saved = await log.objects.saved()
    except BloomError:
        return "the filter cannot be read"
    head, _ = await log.objects.head()
    if saved is None or saved.id != head.id:
        return ""
    if saved.lines > head.lines:
        return f"the filter counts {saved.lines} lines where {head.lines} are"
    return "" if await _knows_all(saved, log) else "the filter does not know all lines that it covers"


async def _knows_all(saved: Saved, log: Log) -> bool:
    known, reading = Filter(saved.bloom), Reading(0)
    while reading.line < saved.lines and (lines := await log.read(reading)):
        covered = lines[: len(lines) - max(0, reading.line - saved.lines)]
        fresh, _ = await asyncio.to_thread(known.fresh, covered)
        if fresh:
            return False
    return True
