"""Waiting for a task to its end, and for whichever of two comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["finish", "first_of"]


async def finish(task: asyncio.Task[None], seconds: float) -> None:
    """Wait for a task that ends by itself, whoever cancels the waiter meanwhile; then pass the cancellation on."""
    cancelled: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not task.done() and loop.time() < deadline:
        try:
            await asyncio.wait({task}, timeout=deadline - loop.time())
        except asyncio.CancelledError as error:
            cancelled = error
    if task.done() and not task.cancelled():
        task.result()
    if cancelled is not None:
        raise cancelled


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of these; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
