"""Many calls: a bounded window slides over the items, in order or not."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Mapping, Sized
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, cast, overload

from pydantic import ValidationError

from tanuki_async._batch import BatchRun
from tanuki_async._checkpoint import Checkpoint, key_of
from tanuki_async._codec.describe import Call
from tanuki_async._errors import UsageError
from tanuki_async._function import ATTRIBUTE, PatchedFunction, patched
from tanuki_async._items import arguments_of, with_self
from tanuki_async._runtime import current

R = TypeVar("R")

CONCURRENCY = 64
"""Calls at once when nobody says otherwise."""

Items = Iterable[Any] | AsyncIterable[Any]
Mode = Literal["now", "batch"]
Progress = Callable[[int, int], object]
"""Called after each item with how many are done and how many of these failed."""


@overload
def amap(
    f: Callable[..., Coroutine[Any, Any, R]],
    items: Items,
    *,
    concurrency: int | None = None,
    ordered: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool | Progress | None = None,
    checkpoint: str | Path | None = None,
    mode: Mode = "now",
) -> AsyncGenerator[R]: ...


@overload
def amap(
    f: Callable[..., Coroutine[Any, Any, R]],
    items: Items,
    *,
    concurrency: int | None = None,
    ordered: bool = True,
    on_error: Literal["return"],
    progress: bool | Progress | None = None,
    checkpoint: str | Path | None = None,
    mode: Mode = "now",
) -> AsyncGenerator[R | Exception]: ...


def amap(
    f: Callable[..., Coroutine[Any, Any, R]],
    items: Items,
    *,
    concurrency: int | None = None,
    ordered: bool = True,
    on_error: Literal["raise", "return", "skip"] = "raise",
    progress: bool | Progress | None = None,
    checkpoint: str | Path | None = None,
    mode: Mode = "now",
) -> AsyncGenerator[R | Exception]:
    """Call `f` for each item and yield the results as they are asked for.

    For a function of one parameter an item is that argument; for several, a mapping is spread over the parameters'
    names and a tuple over their places. At most `concurrency` (64) calls run at a time and at most four times as many
    results wait to be taken, so memory stays bounded whatever the length, and a slow consumer slows the calls down.
    `ordered=False` yields whatever is ready first. A failed call raises here, or with `on_error="return"` its error is
    yielded in its place, or with `"skip"` it is left out. `progress=True` shows a bar on a terminal (with the `cli`
    extra); a callable gets the number of calls done and failed. Leaving the loop early cancels the calls that run;
    `aclose()`, or `async with contextlib.aclosing(…)`, waits for them and closes an asynchronous generator of items.

    With `checkpoint=PATH` every answer is kept in that file before it is yielded: a killed run that is started again
    with the same items yields the same results and asks no input twice. `mode="batch"` sends the items through the
    provider's batch API, at about half the price and within a day; what it leaves unanswered, or answers with what does
    not fit, is asked for directly. With a checkpoint, a run that is started again goes on waiting for the same batches.
    """
    whole = cast(object, concurrency)
    if whole is not None and (not isinstance(whole, int) or whole < 1):
        raise UsageError(f"concurrency must be 1 or more, not {concurrency!r}")
    if on_error not in ("raise", "return", "skip"):
        raise UsageError(f"on_error is 'raise', 'return' or 'skip', not {on_error!r}")
    given = cast(object, items)
    if not isinstance(given, (Iterable, AsyncIterable)) or isinstance(given, (str, bytes, Mapping)):
        raise UsageError(f"amap goes over an iterable or asynchronous iterable of items, not {given!r:.80}")
    call, calls = _spread(f), CONCURRENCY if concurrency is None else concurrency
    report = _reporter(progress, items)
    if checkpoint is None and mode == "now":
        return _run(_Window(call, items, calls, ordered=ordered), on_error, report)
    kept = Kept(f, call, checkpoint, mode)
    return kept.run(items, calls, ordered=ordered, on_error=on_error, report=report)


class Kept:
    """A run whose answers are kept in a file, or that goes through batches, or both."""

    def __init__(
        self,
        f: Callable[..., Coroutine[Any, Any, Any]],
        call: Callable[[Any], Coroutine[Any, Any, Any]],
        checkpoint: str | Path | None,
        mode: Mode,
    ) -> None:
        if mode not in ("now", "batch"):
            raise UsageError(f"mode is 'now' or 'batch', not {mode!r}")
        self._f, self._call, self._path, self._mode = f, call, checkpoint, mode
        self._function, self._arguments = patched(f), arguments_of(f)
        spec = self._function.spec
        if spec.wire is None:
            raise UsageError(f"{spec.name}() returns an embedding; checkpoint= and mode='batch' are for answers")
        self._wire = spec.wire

    async def run(
        self, items: Items, concurrency: int, *, ordered: bool, on_error: str, report: Reporter
    ) -> AsyncGenerator[Any]:
        """Yield the results."""
        async with contextlib.AsyncExitStack() as stack:
            checkpoint = None
            if self._path is not None:
                checkpoint = await Checkpoint.open(self._path, self._function.spec.hash)
                stack.push_async_callback(checkpoint.aclose)
            if self._mode == "batch":
                results = self._batched(items, concurrency, ordered, on_error, report, checkpoint)
            else:
                assert checkpoint is not None
                call = self._remembering(checkpoint)
                results = _run(_Window(call, items, concurrency, ordered=ordered), on_error, report)
            await stack.enter_async_context(contextlib.aclosing(results))
            async for result in results:
                yield result

    def _bind(self, item: Any) -> Call:
        args, kwargs = self._arguments(item)
        return self._function.spec.bind(with_self(self._f, args), kwargs)

    def _remembering(self, checkpoint: Checkpoint) -> Callable[[Any], Coroutine[Any, Any, Any]]:
        """Return what makes one call, or takes its answer from the file. Items are numbered as they are taken."""
        numbers = itertools.count()

        async def answer(index: int, item: Any) -> Any:
            key = key_of(self._bind(item).text)
            if (known := await checkpoint.find(index, key)) is not None:
                with contextlib.suppress(ValidationError):  # some values pydantic writes in a way that it does not read
                    return self._wire.load(known)
            value = await self._call(item)
            output = self._wire.dump(value)
            await checkpoint.keep(index, key, output)
            return self._wire.load(output) if self._wire.lazy else value

        return lambda item: answer(next(numbers), item)

    async def _batched(
        self,
        items: Items,
        concurrency: int,
        ordered: bool,
        on_error: str,
        report: Reporter,
        checkpoint: Checkpoint | None,
    ) -> AsyncGenerator[Any]:
        tanuki = current()
        run = BatchRun(tanuki.desk(self._function), self._bind, tanuki.http, checkpoint, concurrency)
        done = failed = 0
        with report:
            async with contextlib.aclosing(run.results(items, ordered=ordered)) as entries:
                async for entry in entries:
                    done, failed = done + 1, failed + entry.failed
                    report(done, failed)
                    if not entry.failed or on_error == "return":
                        yield entry.outcome
                    elif on_error == "raise":
                        raise entry.outcome


async def _run(window: _Window, on_error: str, report: Reporter) -> AsyncGenerator[Any]:
    done = failed = 0
    with report:
        try:
            window.open()
            while (task := await window.next()) is not None:
                error = None if task.cancelled() else task.exception()
                done, failed = done + 1, failed + (error is not None)
                report(done, failed)
                if not isinstance(error, Exception) or on_error == "raise":
                    yield task.result()
                elif on_error == "return":
                    yield error
        finally:
            await window.aclose()


class _Window:
    """The calls that run or wait to be taken: at most `concurrency` run, at most four times as many are there.

    A feeder takes items from the source only when there is room, so results are handed over while a slow source is
    waited for, and a slow consumer holds the source back.
    """

    def __init__(
        self, call: Callable[[Any], Coroutine[Any, Any, Any]], items: Items, concurrency: int, *, ordered: bool
    ) -> None:
        self._call, self._items, self._ordered = call, items, ordered
        self._slots = asyncio.Semaphore(concurrency)
        self._room = asyncio.Semaphore(4 * concurrency)
        self._tasks: set[asyncio.Task[Any]] = set()  # made and not yet taken
        self._line: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()  # by item, or by end if not ordered
        self._fed = False
        self._feeder: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start taking items."""
        self._feeder = asyncio.create_task(self._feed(), name="tanuki amap feeder")

    async def next(self) -> asyncio.Task[Any] | None:
        """Return the next call, finished; None after the last. Raises what the source raised."""
        if self._fed and not self._tasks:
            task = None
        else:
            task = await self._line.get()
        if task is None:
            assert self._feeder is not None
            await self._feeder
            return None
        if not task.done():
            await asyncio.wait((task,))
        self._tasks.discard(task)
        self._room.release()
        return task

    async def _feed(self) -> None:
        try:
            await self._feed_all()
        finally:
            self._fed = True
            if self._ordered or not self._tasks:
                self._line.put_nowait(None)

    async def _feed_all(self) -> None:
        source = self._items
        if not isinstance(source, AsyncIterable):
            for item in source:
                await self._start(item)
            return
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(source, AsyncGenerator):  # most often nobody else has it to close it
                stack.push_async_callback(cast("AsyncGenerator[Any]", source).aclose)
            async for item in source:
                await self._start(item)

    async def _start(self, item: Any) -> None:
        await self._room.acquire()
        await self._slots.acquire()
        task = asyncio.create_task(self._call(item), name="tanuki amap")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self._ordered:
            self._line.put_nowait(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._slots.release()
        if not self._ordered:
            self._line.put_nowait(task)

    async def aclose(self) -> None:
        """Cancel what still runs and wait for it."""
        tasks = {self._feeder, *self._tasks} if self._feeder else set[asyncio.Task[Any]]()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # seen: the caller has the first error already
        self._tasks.clear()


def _spread(f: Callable[..., Coroutine[Any, Any, R]]) -> Callable[[Any], Coroutine[Any, Any, R]]:
    """Return what calls `f` with one item, by how many parameters `f` has."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError) as error:
        raise UsageError(f"amap needs a coroutine function, not {f!r}") from error
    if not inspect.iscoroutinefunction(f):
        raise UsageError(f"amap needs a coroutine function; {getattr(f, '__qualname__', f)} is not `async def`")
    if isinstance(found := getattr(f, ATTRIBUTE, None), PatchedFunction) and found.spec.streams:
        name = found.spec.name
        raise UsageError(f"amap collects whole answers, and {name}() streams its own: let it return a list instead")
    if len(parameters) == 1 and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        return f

    spread = arguments_of(f)

    async def call(item: Any) -> R:
        args, kwargs = spread(item)
        return await f(*args, **kwargs)

    return call


class Reporter:
    """Tells nobody. A context manager that is called after each item with how many are done and have failed."""

    def __call__(self, done: int, failed: int) -> None:
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


class _Told(Reporter):
    def __init__(self, tell: Progress) -> None:
        self._tell = tell

    def __call__(self, done: int, failed: int) -> None:
        self._tell(done, failed)


class _Bar(Reporter):
    """A bar on standard error, if that is a terminal."""

    def __init__(self, items: Items) -> None:
        try:
            from rich.console import Console
            from rich.progress import Progress as RichProgress
        except ImportError as error:
            raise UsageError("progress=True draws with rich: pip install 'tanuki_async[cli]'") from error
        self._bar = RichProgress(console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("calls", total=len(items) if isinstance(items, Sized) else None)

    def __call__(self, done: int, failed: int) -> None:
        self._bar.update(self._task, completed=done, description=f"calls, {failed} failed" if failed else "calls")

    def __enter__(self) -> Self:
        if self._bar.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.console.is_terminal:  # a bar that never began would end with an empty line
            self._bar.stop()


def _reporter(progress: bool | Progress | None, items: Items) -> Reporter:
    if callable(progress):
        return _Told(progress)
    return _Bar(items) if progress else Reporter()
