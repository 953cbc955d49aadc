"""Tanuki: opens, owns and closes everything, for one event loop."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import os
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from tanuki_async import _call, _embed, _loops, _stream
from tanuki_async._answers import Answers, Flights
from tanuki_async._batcher import Batchers
from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._codec.describe import Call
from tanuki_async._desk import Desk
from tanuki_async._dimensions import shortened
from tanuki_async._errors import NotOpenError, SettingsError
from tanuki_async._function import PatchedFunction
from tanuki_async._hedge import Hedger
from tanuki_async._library import Library
from tanuki_async._pool.http import Connections
from tanuki_async._pool.pool import Pool, PoolStatistics
from tanuki_async._record.journal import journal_for
from tanuki_async._record.recorder import Recorder, RecorderStatistics
from tanuki_async._redact import redaction
from tanuki_async._settings import Settings, SettingsKeywords, build
from tanuki_async._teachers import Teachers
from tanuki_async.abc import Storage

if TYPE_CHECKING:
    from tanuki_async._expect import Lesson
    from tanuki_async._pool.shared import SharedLimits

logger = logging.getLogger("tanuki_async")

_defaults = Settings()


def configure(**keywords: Unpack[SettingsKeywords]) -> None:
    """Set what Tanukis opened from now on start from. What is open keeps its settings.

    Takes what `Tanuki` takes; SettingsError for what cannot work.
    """
    global _defaults
    _defaults = build(Settings, keywords, base=_defaults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What one Tanuki is doing: its background work and its pool."""

    recorder: RecorderStatistics
    pool: PoolStatistics


class Tanuki:
    """Owns connections, recorder and distillation for every patched call on one event loop.

    Open it with `async with`, usually in an application's lifespan; scripts need none, since the first call opens
    one from the environment and the end of the loop closes it. Whatever was recorded is durable once it is closed.
    Opens once; a closed one stays closed.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, **keywords: Unpack[SettingsKeywords]) -> None:
        self.settings = build(Settings, keywords, base=_defaults)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._clock = clock
        self._closing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: dict[object, Answers] = {}  # by what makes two functions the same, as they may be made in a loop
        self._flights: dict[object, Flights] = {}
        self._desks: weakref.WeakKeyDictionary[PatchedFunction, Desk] = weakref.WeakKeyDictionary()
        self._process = os.getpid()
        self._keeper: AsyncGenerator[None, None] | None = None
        self._outer: Tanuki | None = None  # what the task that opened this one used before
        self._storage = make_storage(self.settings)
        self._teachers = Teachers(self.settings, clock)
        self.http = Connections(self.settings.http_client, verify=self.settings.verify)
        self._shared = share_limits(self.settings, self._storage, clock)
        shared = self._shared.budget if self._shared else None
        self._pool = Pool(self.http, clock=clock, limits=self.settings.limits, budget=shared)
        self._batchers = Batchers(self._pool, clock, self.spawn)
        self._library = Library(self._storage, self.settings, clock=clock, find=self._teachers.teacher, http=self.http)
        self._recorder = Recorder(
            self._storage,
            flush_interval=self.settings.flush_interval,
            queue_bytes=self.settings.queue_bytes,
            clock=clock,
            on_written=self._library.written,
            journal=journal_for(self._storage.address, self.settings.journal),
            grace=min(10.0, 0.9 * self.settings.close_timeout),  # it says what is lost before it is cut short
        )

    @property
    def is_open(self) -> bool:
        """Whether calls are answered."""
        return self.loop is not None and self._closing is None

    async def __aenter__(self) -> Self:
        """Open. Raises StorageError where the data cannot be kept."""
        self._start(default=False)
        try:
            await self._storage.open()
        except BaseException:
            self._step_back()
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write what is queued, then close. An error on the way is raised only if nothing else is."""
        self._step_back()
        await self.aclose()

    def _step_back(self) -> None:
        _loops.restore(self, self._outer)
        self._outer = None

    def _start(self, *, default: bool) -> None:
        if self.loop is not None:
            raise NotOpenError("this Tanuki was opened before; make a new one, it costs little")
        self.loop = _loops.running_loop("opening a Tanuki")
        self._outer = _loops.enter(self, self.loop, default=default)
        self._recorder.start()
        if not _open_now:
            atexit.unregister(_drain_leftovers)  # once is enough
            atexit.register(_drain_leftovers)
        _open_now.add(self)
        logger.info("opened a Tanuki with %s", self._storage)

    async def aclose(self) -> None:
        """Stop background work, write what is queued, close connections. Safe to call twice, also when cancelled."""
        if self.loop is None:
            return
        if self.loop is not asyncio.get_running_loop():
            raise NotOpenError("a Tanuki is closed on the event loop that it was opened on")
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="tanuki close")
        cancelled: asyncio.CancelledError | None = None
        while not self._closing.done():  # what is queued gets written even while this task is being cancelled
            try:
                await asyncio.shield(self._closing)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        self._closing.result()

    async def _close(self) -> None:
        assert self.loop is not None
        _loops.leave(self, self.loop)
        steps: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
            self._stop_tasks,
            self._library.aclose,
            self._pool.aclose,  # before the recorder: what is answered still has to be kept
            self._recorder.aclose,
            self._storage.aclose,
            *([self._shared.aclose] if self._shared else []),
        )
        for step in steps:
            for _ in range(3):
                if await self._closed(step):
                    break
        for desk in list(self._desks.values()):
            desk.deadlines.rest()
        _open_now.discard(self)
        logger.info("closed a Tanuki: %s", self._recorder.statistics())

    async def _closed(self, step: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Take one step of closing. False where it was cancelled: an ending loop cancels all tasks, this one too."""
        try:
            async with asyncio.timeout(self.settings.close_timeout):
                await step()
        except asyncio.CancelledError:  # what is queued still has to be written
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            return False
        except Exception:  # one part that fails to close must not keep the others open
            logger.exception("closing a Tanuki: %s failed", getattr(step, "__qualname__", step))
        return True

    async def _stop_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def answer(self, function: PatchedFunction, bound: Call) -> Coroutine[Any, Any, Any]:
        """Answer one call of a patched function."""
        desk = self._desks.get(function) or self.desk(function)
        if function.spec.embedding:
            return _embed.embed(desk, bound)
        if function.spec.streams:
            return _ready(_stream.stream(desk, bound))
        return _call.call(desk, bound)

    def desk(self, function: PatchedFunction) -> Desk:
        """Return what the calls of `function` share here, gathering it at the first."""
        desk = self._desks.get(function)
        if desk is None:
            desk = self._desks[function] = self._make_desk(function)
        return desk

    def _make_desk(self, function: PatchedFunction) -> Desk:
        spec, options = function.spec, function.options
        teachers = self._teachers.of(options, embedding=bool(spec.embedding))
        tally = self._library.ledger.tally(spec, options)
        if options.embedding_dimensions is not None:
            if not spec.embedding:
                raise SettingsError(f"{spec.name}() returns no embedding: leave out embedding_dimensions")
            teachers = shortened(teachers, options.embedding_dimensions)
        if (spec.embedding or spec.streams) and (options.hedge or options.single_flight or options.cache):
            what = "streams items" if spec.streams else "returns an embedding"
            raise SettingsError(f"{spec.name}() {what}: leave out hedge, single_flight and cache")
        alike = (
            spec.hash,
            options.environment_id,
            tuple(str(each.model) for each in teachers),
            options.generation_params,
        )
        redacted = redaction(spec, options.redact, self.settings.redact)
        remember = self._recorder.remember if redacted is None else redacted.remembering(self._recorder.remember)
        return Desk(
            spec=spec,
            options=options,
            teachers=teachers,
            pool=self._pool,
            clock=self._clock,
            patches=self._library.patches(spec),
            remember=_forget if options.ignore_data_storage else remember,
            spawn=self.spawn,
            recall=self._library.recall,
            tally=tally,
            hedger=Hedger(options.hedge, clock=self._clock, tally=tally) if options.hedge else None,
            answers=self._answers.setdefault((alike, options.cache), Answers()) if options.cache else None,
            flights=self._flights.setdefault(alike, Flights()) if options.single_flight else None,
            purse=self._library.ledger.purse(spec, options, tally),
            batcher=self._batchers.of(teachers[0]) if spec.embedding else None,
            redaction=redacted,
        )

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something in the background until it ends or the Tanuki closes. Its failure is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("%s failed: %s", task.get_name(), error, exc_info=error)

    async def learn(self, lesson: Lesson) -> None:
        """Keep what an align function taught; durable when this returns."""
        lines: dict[str, list[bytes]] = {}
        for function, name, line in self._library.lesson(lesson):
            redacted = self.desk(function).redaction
            kept = line if redacted is None else redacted.line(line)
            if kept is not None and not function.options.ignore_data_storage:
                lines.setdefault(name, []).append(kept)
        for name, batch in lines.items():
            await self._recorder.keep(name, batch)
        for spec in {each.spec for each, _, _ in lesson.pairs if not each.options.ignore_data_storage}:
            await self._library.introduce(spec)
        for function, example in lesson.examples:
            desk = self.desk(function)
            if not function.options.ignore_data_storage:
                await desk.recall()
            desk.teach(example)

    def close_at_exit(self) -> None:
        """Write what is queued though the loop never ended: on that loop if a daemon thread runs it, else elsewhere."""
        if self.loop is None or not self.loop.is_running() or self._process != os.getpid():
            asyncio.run(self._recorder.drain_elsewhere())
            return
        closing = asyncio.run_coroutine_threadsafe(self.aclose(), self.loop)
        try:
            closing.result(self.settings.close_timeout)
        except concurrent.futures.CancelledError:  # its loop ended because of this, and closed it as every loop does
            pass
        except Exception:  # the thread may be blocked; nothing may keep the interpreter from ending
            logger.exception("a Tanuki on the loop of a daemon thread could not be closed")

    async def flush(self) -> None:
        """Wait until all recorded so far is durable. StorageError says why it cannot be."""
        await self._recorder.flush()

    def statistics(self) -> Statistics:
        """Count what was recorded and sent until now."""
        return Statistics(recorder=self._recorder.statistics(), pool=self._pool.statistics())

    async def _keep(self) -> AsyncGenerator[None, None]:
        """Wait for the end of the loop, which closes its asynchronous generators, then close."""
        try:
            yield
        finally:
            await self.aclose()

    @classmethod
    def open_default(cls) -> Self:
        """Open one from the environment, without waiting, for as long as the running loop lasts."""
        tanuki = cls()
        tanuki._start(default=True)
        tanuki._keeper = tanuki._keep()
        with contextlib.suppress(StopIteration):
            tanuki._keeper.__anext__().send(None)  # runs to its `yield`, which tells the loop about it
        return tanuki


def current() -> Tanuki:
    """Return the Tanuki of the running loop, opening the default one at the first call."""
    loop = _loops.running_loop("a patched function")
    return _loops.find(loop) or Tanuki.open_default()


def library_of(tanuki: Tanuki) -> Library:
    """Return what a Tanuki knows of each function; not for users."""
    return tanuki._library  # noqa: SLF001  # its own module


async def flush() -> None:
    """Wait until all that was recorded on this loop is durable. StorageError says why it cannot be."""
    await current().flush()


def make_storage(settings: Settings) -> Storage:
    """Make the storage that settings name. SettingsError for a URL of no known kind."""
    from tanuki_async._places import open_place

    return open_place(settings.storage)


def share_limits(settings: Settings, storage: Storage, clock: Clock) -> SharedLimits | None:
    """Make what shares limits with other processes, where settings say so."""
    from tanuki_async._places import open_limits

    return open_limits(settings, storage, clock)


async def _ready(value: Any) -> Any:
    return value


def _forget(_: str, __: bytes) -> None:
    """Stand where nothing is recorded."""


_open_now: set[Tanuki] = set()


def _drain_leftovers() -> None:
    """Write what loops left behind that were closed without an end (`loop.close()` with no shutdown), or still run."""
    for tanuki in list(_open_now):
        tanuki.close_at_exit()
