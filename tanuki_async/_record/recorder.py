"""The recorder: takes lines at once, writes them in the background, loses none that it need not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._errors import NotOpenError, StorageError
from tanuki_async.abc import Appended, Storage

__all__ = ["Recorder", "RecorderStatistics"]

_OVERHEAD = 120  # bytes that one queued line takes beside its text
_GROUP_BYTES = 4 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
logger = logging.getLogger("tanuki_async.record")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderStatistics:
    """Lines, since the recorder was made. `queued` waits now; `spilled` waits in a local journal; `failed` is lost."""

    queued: int
    written: int
    deduplicated: int
    spilled: int
    failed: int


class Recorder:
    """Writes what it is given, in the order of each name, within `flush_interval` seconds while storage is up.

    The queue is bounded by `queue_bytes`; above that, new lines are dropped and counted. While storage fails, lines
    wait and are tried again after growing pauses. Belongs to the event loop on which it was started. Appending twice
    does no harm, as storage leaves out what it has: whatever is interrupted is simply written again.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        flush_interval: float = 0.05,
        queue_bytes: int = 64 << 20,
        clock: Clock = SYSTEM_CLOCK,
        on_written: Callable[[str, int], None] | None = None,
        grace: float = 10.0,
    ) -> None:
        self._storage, self._clock, self._on_written = storage, clock, on_written
        self._gather = 0.4 * flush_interval  # the rest is for the disk
        self._limit, self._grace = queue_bytes, grace
        self._queue: deque[tuple[str, bytes]] = deque()
        self._in_flight: dict[str, list[bytes]] = {}
        self._bytes = 0  # of both
        self._taken = 0  # lines that left the queue for good
        self._since = 0.0  # when the queue's first line came
        self._written = self._deduplicated = self._spilled = self._failed = 0
        self._accepts = False
        self._refusing = self._failing = False
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Recorder {'open' if self._accepts else 'closed' if self._task else 'new'}, {self.statistics()}>"

    def start(self) -> None:
        """Begin to accept and to write, on the running event loop. Harmless when started already."""
        if self._accepts:
            return
        if self._task is not None:
            raise NotOpenError("this recorder was closed: make a new one")
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()  # held while storage works, so that lines of one name stay in order
        self._accepts = True
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._work(), name="tanuki_async recorder")

    def remember(self, name: str, line: bytes) -> None:
        """Queue one line. Never waits and never raises: what cannot be queued is counted as failed."""
        size = len(line) + _OVERHEAD
        if not self._accepts or self._bytes + size > self._limit:
            self._overflow()
            return
        self._bytes += size
        self._queue.append((name, line))
        if len(self._queue) == 1:
            self._rouse()

    async def keep(self, name: str, lines: Sequence[bytes], *, latest: bool = True) -> Appended:
        """Write these lines now; they are durable when this returns. Raises StorageError where that fails."""
        if not self._accepts:
            raise StorageError("nothing can be kept now: the recorder was not started, or was closed")
        async with self._turn:
            if any(queued == name for queued, _ in self._queue):
                await self._write_all(self._taken + len(self._queue))
            return self._settle(name, await self._append(name, lines, latest=latest))

    async def flush(self) -> None:
        """Wait until all that was remembered so far is durable. Raises StorageError after one attempt that fails."""
        if not self._accepts:
            return
        target = self._taken + len(self._queue)  # what is in flight counts as taken, and again if it comes back
        async with self._turn:
            await self._write_all(target)

    async def aclose(self) -> None:
        """Write what is queued, then stop. Safe to call twice, and while being cancelled; gives up after `grace`."""
        if self._closing is None:
            if not self._accepts:
                return
            if self._loop is not asyncio.get_running_loop():
                await self._close_elsewhere()
                return
            self._closing = asyncio.create_task(self._close(), name="tanuki_async recorder closing")
        import anyio

        with anyio.CancelScope(shield=True):  # against its own kind of cancellation; below against asyncio's
            await _finish(self._closing, self._grace + 1)

    async def _close_elsewhere(self) -> None:
        if self._loop.is_running():
            raise NotOpenError("this recorder runs on another event loop: close it there")
        await self.drain_elsewhere()

    async def drain_elsewhere(self) -> None:
        """Write what is left after the recorder's own loop died without closing it. Runs on any event loop."""
        self._accepts = False
        for name in list(self._in_flight):
            self._restore(name)
        while self._queue:
            for name, lines in self._take().items():
                try:
                    self._settle(name, await self._append(name, lines), lines)
                except StorageError as error:
                    self._give_up(len(lines), error)
                    del self._in_flight[name]

    def statistics(self) -> RecorderStatistics:
        """Count what happened so far."""
        return RecorderStatistics(
            queued=len(self._queue) + sum(map(len, self._in_flight.values())),
            written=self._written,
            deduplicated=self._deduplicated,
            spilled=self._spilled,
            failed=self._failed,
        )

    def _overflow(self) -> None:
        """Drop one line. A local journal would take it here, and count it as spilled."""
        self._failed += 1
        if not self._refusing:
            self._refusing = True
            why = "its queue is full" if self._accepts else "it is not open"
            logger.error("the recorder drops examples: %s (%d bytes queued)", why, self._bytes)

    def _rouse(self) -> None:
        self._since = self._clock.monotonic()
        with contextlib.suppress(RuntimeError):  # the loop is gone: drain_elsewhere finds the line
            self._wake.set()

    async def _work(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            await self._wake.wait()
            await self._clock.sleep(max(self._since + self._gather - self._clock.monotonic(), 0))
            try:
                await self.flush()
                pause = _FIRST_PAUSE
            except Exception as error:  # whatever it is, the next lines still want to be written
                if not isinstance(error, StorageError):
                    logger.exception("the recorder met a bug; it goes on in %g s", pause)
                await self._clock.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _write_all(self, target: int) -> None:
        """Write until `target` lines have left the queue. The turn is held."""
        while self._taken < target and self._queue:
            writes = [self._write(name, lines) for name, lines in self._take().items()]
            results = [await writes[0]] if len(writes) == 1 else await asyncio.gather(*writes)
            if errors := [error for error in results if error]:
                self._report(errors[0])
                raise errors[0]
        self._failing = False

    def _take(self) -> dict[str, list[bytes]]:
        """Move up to a group's bytes from the queue into flight, by name."""
        queue, size = self._queue, 0
        while queue and size < _GROUP_BYTES:
            name, line = queue.popleft()
            self._in_flight.setdefault(name, []).append(line)
            self._taken += 1
            size += len(line)
        if queue:
            self._since = self._clock.monotonic()
        else:
            self._refusing = False
            self._wake.clear()
        return dict(self._in_flight)

    async def _write(self, name: str, lines: list[bytes]) -> StorageError | None:
        try:
            appended = await self._append(name, lines)
        except StorageError as error:
            self._restore(name)
            return error
        except BaseException:  # cancelled: whether it was written is unknown, and writing it again does no harm
            self._restore(name)
            raise
        self._settle(name, appended, lines)
        return None

    async def _append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        try:
            return await self._storage.append(name, lines, latest=latest)
        except StorageError:
            raise
        except Exception as error:  # a storage of the user's may raise anything; it must not end the recorder
            raise StorageError(f"{self._storage!r} failed in its own way: {error!r}") from error

    def _restore(self, name: str) -> None:
        lines = self._in_flight.pop(name, [])  # none when its loop died and they were drained elsewhere
        self._queue.extendleft((name, line) for line in reversed(lines))
        self._taken -= len(lines)
        self._rouse()

    def _settle(self, name: str, appended: Appended, queued: Sequence[bytes] = ()) -> Appended:
        if queued:
            del self._in_flight[name]
            self._bytes -= sum(map(len, queued)) + _OVERHEAD * len(queued)
        self._written += appended.written
        self._deduplicated += appended.duplicates
        if appended.written and self._on_written is not None:
            try:
                self._on_written(name, appended.written)
            except Exception:  # whoever listens may fail; what is written is written
                logger.exception("a listener failed after %d examples of %s were written", appended.written, name)
        return appended

    def _report(self, error: StorageError) -> None:
        if not self._failing:
            self._failing = True
            logger.warning("%d examples wait, as storage fails: %s", self.statistics().queued, error)

    def _give_up(self, lines: int, error: object) -> None:
        self._failed += lines
        logger.error("%d examples are lost, as storage fails: %s", lines, error)

    async def _close(self) -> None:
        """Drain with a deadline, also when the ending loop cancels this task, which is why that is swallowed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace
        while loop.time() < deadline:
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._drain()
                break
        self._accepts = False
        if left := self.statistics().queued:
            self._give_up(left, f"nothing could be written for {self._grace:g} s")
        self._queue.clear()
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=1)

    async def _drain(self) -> None:
        """Flush at least once, so that whoever keeps something now has done so, until nothing is left."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self.flush()
                if not self._queue:
                    return
            except StorageError:
                await self._clock.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)


async def _finish(task: asyncio.Task[None], seconds: float) -> None:
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
