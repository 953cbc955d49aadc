"""Answers and records numbers through the public API while its storage fails: `PLACE JOURNAL FIRST SECONDS`.

JOURNAL.begun is written when the first number is kept.

K number     all up to this one are acknowledged: a flush returned
S lines      the most that ever waited in the journal
E number     the last one that was answered; all is closed
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path

from kill_child import tell

import tanuki_async as tanuki
from tanuki_async.testing import FakeProvider, Value


@tanuki.patch(student_model=None)
async def double(number: int) -> int:
    """Double a number."""
    ...


NAME = f"{tanuki.describe(double).hash}/PATCHES"


async def acknowledge(opened: tanuki.Tanuki, answered: list[int], *, once: bool = False) -> None:
    while True:
        last = answered[-1]
        with contextlib.suppress(tanuki.StorageError):  # on a busy machine, replicas lag
            await opened.flush()
            tell("K", last)
            if once:
                return
        await asyncio.sleep(0.02)


async def main(place: str, journal: str, first: int, seconds: float) -> None:
    provider, answered, spilled = FakeProvider(lambda _: Value(1)), [first], 0
    settings = {"storage": place, "journal": journal, "queue_bytes": 60_000, "close_timeout": 60.0}
    async with tanuki.Tanuki(**settings, providers=[provider], teacher_models="fake:t") as opened:  # type: ignore[arg-type]
        await double(first)
        await acknowledge(opened, answered, once=True)
        await asyncio.to_thread(Path(f"{journal}.begun").touch)
        end = time.monotonic() + seconds
        flushing = asyncio.create_task(acknowledge(opened, answered))
        while time.monotonic() < end:
            assert await double(answered[-1] + 1) == 1
            answered.append(answered[-1] + 1)
            spilled = max(spilled, opened.statistics().recorder.spilled)
            await asyncio.sleep(0.002)
        flushing.cancel()
    tell("S", spilled)
    assert opened.statistics().recorder.failed == 0
    tell("E", answered[-1])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3], int(sys.argv[3]), float(sys.argv[4])))
