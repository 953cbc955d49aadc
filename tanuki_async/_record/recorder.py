"""The recorder: takes lines at once, writes them in the background, loses none that it need not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._errors import NotOpenError, StorageError
from tanuki_async._record.delivery import Delivery, RecorderStatistics
from tanuki_async._record.journal import Journal
from tanuki_async._record.spill import Spill
from tanuki_async._record.trouble import FIRST_PAUSE, LONGEST_PAUSE
from tanuki_async._record.waiting import OVERHEAD, Waiting
from tanuki_async._record.waits import finish, first_of
from tanuki_async._record.writer import Writer
from tanuki_async.abc import Appended, Storage

__all__ = ["Recorder", "RecorderStatistics"]

logger = logging.getLogger("tanuki_async.record")


class Recorder:
    """Writes what it is given, in the order of each name, within `flush_interval` seconds while storage is up.

    A storage with patience, whose writes cost money, is written to when there is enough, or after its patience; until
    then lines wait in the journal, within `flush_interval`. The queue is bounded by `queue_bytes`; from half of that
    on, what is oldest goes to the journal. Where there is none, or it fails too, lines are dropped and counted: the
    newest of names that fail, else what is new. A name on which storage fails is tried again after growing pauses, and
    meanwhile its lines go to the journal; no other name waits for it. Belongs to the event loop on which it was
    started. Appending twice does no harm, as storage leaves out what it has: what is interrupted is written again.
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
        journal: Journal | None = None,
    ) -> None:
        self._clock = clock
        self._gather = 0.4 * flush_interval  # the rest is for the disk
        self._patience = storage.patience or self._gather
        self._limit, self._grace = queue_bytes, grace
        self._spill = Spill(journal)
        self._delivery = Delivery(storage, on_written, self._spill.set_aside, clock)
        self._spill_above = math.inf if journal is None else 0 if storage.patience else queue_bytes // 2
        self._waiting = Waiting()
        self._writer = Writer(self._waiting, self._spill, self._delivery, journal_first=not self._spill_above)
        self._failed = 0  # lines that are lost
        self._since = 0.0  # when the first line came that waits
        self._accepts = False
        self._refusing = self._failing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Recorder {'open' if self._accepts else 'closed' if self._tasks else 'new'}, {self.statistics()}>"

    def start(self) -> None:
        """Begin to accept and to write, on the running event loop. Harmless when started already."""
        if self._accepts:
            return
        if self._tasks:
            raise NotOpenError("this recorder was closed: make a new one")
        self._wake, self._full, self._ripe = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._turn = asyncio.Lock()  # held while storage works, so that lines of one name stay in order
        self._accepts = True
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.create_task(self._work(), name="tanuki_async recorder")]
        if self._spill.exists:
            self._tasks.append(asyncio.create_task(self._work_on_journal(), name="tanuki_async recorder's journal"))

    def remember(self, name: str, line: bytes) -> None:
        """Queue one line. Never waits and never raises: what cannot be queued is counted as failed."""
        waiting, size = self._waiting, len(line) + OVERHEAD
        if (not self._accepts or waiting.bytes + size > self._limit) and not self._make_room(name, size):
            self._overflow()
            return
        waiting.bytes += size
        waiting.queue.append((name, line))
        if len(waiting.queue) == 1 or waiting.bytes > self._spill_above:
            self._rouse()

    async def keep(self, name: str, lines: Sequence[bytes], *, latest: bool = True) -> Appended:
        """Write these lines now; they are durable when this returns. Raises StorageError where that fails."""
        if not self._accepts:
            raise StorageError("nothing can be kept now: the recorder was not started, or was closed")
        async with self._turn:
            if self._waiting.has(name) or self._spill.has(name):
                blocked = await self._write()
                if name in blocked:
                    raise blocked[name]
            return await self._delivery.keep(name, lines, latest=latest)

    async def flush(self) -> None:
        """Wait until all that was remembered so far is in storage. Raises StorageError after one attempt that fails.

        All names are tried, and those that go are written though others fail.
        """
        if not self._accepts:
            return
        async with self._turn:
            for error in (await self._write()).values():
                raise error

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
            await finish(self._closing, self._grace + 1)

    async def _close_elsewhere(self) -> None:
        if self._loop.is_running():
            raise NotOpenError("this recorder runs on another event loop: close it there")
        await self.drain_elsewhere()

    async def drain_elsewhere(self) -> None:
        """Write what is left after the recorder's own loop died without closing it. Runs on any event loop."""
        self._accepts = False
        older, left = self._waiting.give_up_older(), self._waiting.give_up()
        if self._spill.lines:  # around what waits there
            older = [] if self._spill.add_now(older, before=True) else older
            left = [] if self._spill.add_now(left) else left
        left = [*older, *left]
        for name in dict(left):
            lines = [line for of, line in left if of == name]
            delivered = await self._delivery.deliver(name, lines)
            self._delivery.count(delivered)
            if delivered.left and not self._spill.add_now([(name, line) for line in delivered.left]):
                self._give_up(len(delivered.left), delivered.error)
        self._spill.close_now()

    def statistics(self) -> RecorderStatistics:
        """Count what happened so far."""
        return RecorderStatistics(
            queued=len(self._waiting),
            written=self._delivery.written,
            deduplicated=self._delivery.deduplicated,
            spilled=self._spill.lines,
            failed=self._failed + self._delivery.failed + self._spill.lost,
        )

    def _make_room(self, name: str, size: int) -> bool:
        if not self._accepts:
            return False
        self._failed += self._waiting.make_room(self._waiting.bytes + size - self._limit, name)
        return self._waiting.bytes + size <= self._limit

    def _overflow(self) -> None:
        self._failed += 1
        if not self._refusing:
            self._refusing = True
            why = "its queue is full" if self._accepts else "it is not open"
            logger.error("the recorder drops examples: %s (%d bytes queued)", why, self._waiting.bytes)

    def _rouse(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: drain_elsewhere finds the line
            if not self._wake.is_set():
                self._since = self._clock.monotonic()
                self._wake.set()
            if self._waiting.bytes > self._spill_above:
                self._full.set()

    async def _work(self) -> None:
        """Write what is due, again and again."""
        while True:
            await self._until_due()
            try:
                async with self._turn:
                    await self._write(resting=True)
            except Exception:  # whatever it is, the next lines still want to be written
                logger.exception("the recorder met a bug; it goes on in %g s", LONGEST_PAUSE)
                await self._clock.sleep(LONGEST_PAUSE)

    async def _until_due(self) -> None:
        """Wait until a name that failed is due or, of the others, the first line has waited for long enough, or there
        is enough for one good write.
        """
        due, now = self._delivery.troubles.due, self._clock.monotonic
        if due is None:
            await self._wake.wait()
        else:
            await first_of(self._wake.wait(), self._clock.sleep(max(due - now(), 0)))
        if not self._wake.is_set():
            return
        wait = max(self._since + self._patience - now(), 0)
        if self._patience == self._gather:
            await self._clock.sleep(wait)
            return
        await first_of(self._clock.sleep(wait), self._ripe.wait())

    async def _work_on_journal(self) -> None:
        """Move lines from memory to the journal: all of them for a storage with patience, else when they are many."""
        if await self._spill.adopt():
            self._rouse()
        while True:
            await self._full.wait()
            if not self._spill_above:
                await self._clock.sleep(self._gather)
            if not await self._move_to_journal():
                await self._clock.sleep(LONGEST_PAUSE if self._spill_above else 1.0)
            if self._spill.is_full:
                self._ripe.set()

    async def _move_to_journal(self) -> bool:
        kept = await self._writer.move_to_journal(queue=self._waiting.bytes > self._spill_above)
        if self._waiting.bytes <= self._spill_above or not self._waiting.queue:
            self._refusing = False
            if not self._waiting.stuck:
                self._full.clear()
        return kept

    async def _write(self, *, resting: bool = False) -> dict[str, StorageError]:
        """Write what waits; return the names that fail, and why. The turn is held."""
        had = self._writer.lines
        self._since = self._clock.monotonic()
        self._spill.fresh = 0
        self._ripe.clear()
        blocked = await self._writer.write(resting=resting)
        self._refusing = self._refusing and not (had and self._waiting.bytes <= self._limit // 2)
        if not self._writer.goes(blocked):
            self._wake.clear()
        if self._waiting.stuck and self._spill.exists:
            self._full.set()
        self._report(blocked)
        return blocked

    def _report(self, blocked: Mapping[str, StorageError]) -> None:
        """Tell once that storage fails, until nothing fails any more."""
        if blocked and not self._failing:
            logger.warning("%d examples wait, as storage fails: %s", self._writer.lines, next(iter(blocked.values())))
        self._failing = bool(blocked)

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
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._leave()
        await self._spill.close()

    async def _leave(self) -> None:
        """Keep what could not be written for the next process, in order, where there is a journal."""
        for left, before in ((self._waiting.give_up_older(), True), (self._waiting.give_up(), False)):
            if left and not await self._spill.add(left, before=before):
                self._give_up(len(left), f"nothing could be written for {self._grace:g} s")
        if lines := self._spill.lines:
            logger.warning("%d examples wait in the local journal for the next process that uses this storage", lines)

    async def _drain(self) -> None:
        """Flush at least once, so that whoever keeps something now has done so, until nothing is left.

        Names that failed for as long already are tried once more, and not waited for.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                await self.flush()
                if not self._writer.lines:
                    return
            except StorageError:
                if self._delivery.troubles.last(self._grace):
                    return
                await self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
