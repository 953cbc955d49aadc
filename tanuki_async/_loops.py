"""Which Tanuki is open on this event loop.

A table keyed by the running loop finds it, since a web framework's request handlers run in tasks that were not
started inside the lifespan's `async with`. A context variable only overrides the table, for two Tanukis on one loop.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tanuki_async._errors import NotOpenError

if TYPE_CHECKING:
    from tanuki_async._runtime import Tanuki


@dataclass(slots=True)
class _Here:
    """What is open on one loop. Both empty: it was, and is closed now."""

    explicit: list[Tanuki] = field(default_factory=list["Tanuki"])
    default: Tanuki | None = None


_lock = threading.Lock()
_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Here] = weakref.WeakKeyDictionary()
_override: ContextVar[Tanuki | None] = ContextVar("tanuki", default=None)


def running_loop(what: str) -> asyncio.AbstractEventLoop:
    """Return the running loop; NotOpenError outside of one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise NotOpenError(f"{what} needs a running event loop: await it inside `asyncio.run(main())`") from error


def enter(tanuki: Tanuki, loop: asyncio.AbstractEventLoop, *, default: bool) -> Tanuki | None:
    """Make `tanuki` one that calls on this loop use. Returns what this task used before, for `restore`."""
    with _lock:
        here = _by_loop.setdefault(loop, _Here())
        if default:
            here.default = tanuki
        else:
            here.explicit.append(tanuki)
    outer = _override.get()
    if not default:
        _override.set(tanuki)
    return outer


def restore(tanuki: Tanuki, outer: Tanuki | None) -> None:
    """Let this task use again what it used before `tanuki`."""
    if _override.get() is tanuki:
        _override.set(outer)


def leave(tanuki: Tanuki, loop: asyncio.AbstractEventLoop) -> None:
    """Forget a closed Tanuki, but not that there was one: calls that come later are told that it was closed."""
    with _lock:
        here = _by_loop.setdefault(loop, _Here())
        if here.default is tanuki:
            here.default = None
        elif tanuki in here.explicit:
            here.explicit.remove(tanuki)


def find(loop: asyncio.AbstractEventLoop) -> Tanuki | None:
    """Return the Tanuki that calls in this task use, or None where none was ever opened on this loop.

    Where the task does not tell, it is the one that was opened first: what one task opens for itself later must not
    answer the calls of others. NotOpenError where all are closed.
    """
    override = _override.get()
    if override is not None and override.is_open and override.loop is loop:
        return override
    here = _by_loop.get(loop)
    if here is None:
        return None
    found = here.explicit[0] if here.explicit else here.default
    if found is None or not found.is_open:
        raise NotOpenError(
            "the Tanuki of this event loop is closed; keep its `async with tanuki.Tanuki(…):` open for as long as "
            "patched functions are called"
        )
    return found
