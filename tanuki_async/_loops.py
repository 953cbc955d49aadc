"""Which Tanuki is open on this event loop.

A table keyed by the running loop finds it, since a web framework's request handlers run in tasks that were not
started inside the lifespan's `async with`. A context variable only overrides the table, for two Tanukis on one loop.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

from tanuki_async._errors import NotOpenError

if TYPE_CHECKING:
    from tanuki_async._runtime import Tanuki

_lock = threading.Lock()
_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[Tanuki]] = weakref.WeakKeyDictionary()
_override: ContextVar[Tanuki | None] = ContextVar("tanuki", default=None)


def running_loop(what: str) -> asyncio.AbstractEventLoop:
    """Return the running loop; NotOpenError outside of one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise NotOpenError(f"{what} needs a running event loop: await it inside `asyncio.run(main())`") from error


def enter(tanuki: Tanuki, loop: asyncio.AbstractEventLoop, *, override: bool) -> None:
    """Make `tanuki` the one that calls on this loop use."""
    with _lock:
        _by_loop.setdefault(loop, []).append(tanuki)
    if override:
        _override.set(tanuki)


def leave(tanuki: Tanuki, loop: asyncio.AbstractEventLoop) -> None:
    """Forget a closed Tanuki, except as the last one: calls that come later are told that it was closed."""
    with _lock:
        there = _by_loop.get(loop, [])
        if len(there) > 1 and tanuki in there:
            there.remove(tanuki)


def find(loop: asyncio.AbstractEventLoop) -> Tanuki | None:
    """Return the Tanuki that calls in this task use, or None where none was ever opened on this loop."""
    override = _override.get()
    if override is not None and override.is_open and override.loop is loop:
        return override
    there = _by_loop.get(loop)
    return there[-1] if there else None
