"""Time that passes at once: timers of the running loop are due, without anybody having waited."""

from __future__ import annotations

import asyncio
from typing import Any


def jump(seconds: float) -> None:
    """Set the clock of the running loop forward. It belongs to one test, so nothing sets it back."""
    loop: Any = asyncio.get_running_loop()
    time = loop.time
    loop.time = lambda: time() + seconds


async def rounds(count: int = 20) -> None:
    """Let everything that is ready go on, and what that makes ready."""
    for _ in range(count):
        await asyncio.sleep(0)
