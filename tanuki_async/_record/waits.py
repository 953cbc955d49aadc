"""Waiting for a task to its end, for all of several, and for whichever of two comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["all_of", "finish", "first_of"]

T = TypeVar("T")


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


async def all_of(*waits: Coroutine[Any, Any, T]) -> list[T]:
    """Wait for all of these, to the end of each, also where one fails or the waiter is cancelled."""
    if len(waits) == 1:
        return [await waits[0]]
    results = await asyncio.gather(*waits, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of these; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
