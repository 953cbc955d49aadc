"""An event loop in a thread of its own: for clients whose work and clean-up no user's loop should carry."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Aside"]

T = TypeVar("T")
_forsaken: list[object] = []
_STOPPING_SECONDS = 10.0


class Aside:
    """Runs coroutines on its own loop, for callers on any loop. The thread starts at the first one.

    A cancelled caller cancels its coroutine there. After a fork it starts anew, as threads do not come along.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._mutex = threading.Lock()
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` there and wait for it. RuntimeError where the interpreter ends and starts no thread any more."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._started())
        except BaseException:
            work.close()
            raise
        return await asyncio.wrap_future(future)

    def is_new(self) -> bool:
        """Tell whether whatever was made on the loop is gone: nothing was started yet in this process."""
        return self._loop is None or self._process != os.getpid()

    async def stop(self) -> None:
        """End the thread. What runs there is cancelled. The next `run` starts anew."""
        with self._mutex:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
            if loop is None or thread is None or self._process != os.getpid():
                return
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join, _STOPPING_SECONDS)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._mutex:
            if self._loop is None or self._process != os.getpid():
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_work, args=(loop,), name=self._name, daemon=True)
                try:
                    thread.start()
                except BaseException:
                    loop.close()
                    raise
                _forsaken.append(self._loop)  # of the parent process, whose sockets it must not touch
                self._process, self._loop, self._thread = os.getpid(), loop, thread
            return self._loop


def _work(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(asyncio.sleep(0))  # what was asked for while it stopped becomes a task, too
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            with contextlib.suppress(TimeoutError):
                loop.run_until_complete(asyncio.wait_for(asyncio.wait(tasks), 1))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
