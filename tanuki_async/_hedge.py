"""When a request takes longer than most: send it once more, and take the first answer that fits."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from tanuki_async._clock import Clock
from tanuki_async._pool.pool import Progress
from tanuki_async._records import Completion, Hedge
from tanuki_async._tally import Tally

logger = logging.getLogger("tanuki_async.call")

WINDOW = 200
"""Latencies that are remembered, the latest ones."""
FEWEST = 20
"""Latencies to see before anything is sent twice."""
SAVED_UP = 10.0
"""Hedges that a quiet time may save up, so that a provider which turns slow is not asked everything twice."""
SHORTEST = 0.001
"""Seconds between two looks at a request that still waits for its turn."""

Send: TypeAlias = Callable[[Progress], Coroutine[Any, Any, Completion]]


class Hedger:
    """Decides for one function when to send a request twice, and sends it.

    What is compared is how long a first request's exchange takes, without waiting for limits and retries: the delay is
    the nearest-rank quantile of the latest `WINDOW`. A first request that was overtaken counts with the time it had
    taken by then, which is above the quantile, as it should be. Each request earns `share` of a hedge.
    """

    def __init__(self, hedge: Hedge, *, clock: Clock, tally: Tally) -> None:
        self._hedge, self._clock, self._tally = hedge, clock, tally
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []
        self._earned = 0.0

    def delay(self) -> float | None:
        """Seconds after which an exchange counts as slow; None while too few were seen."""
        count = len(self._sorted)
        return self._sorted[math.ceil(self._hedge.after * count) - 1] if count >= FEWEST else None

    def saw(self, seconds: float) -> None:
        """Remember how long an exchange took."""
        if len(self._latest) == WINDOW:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(seconds)
        insort(self._sorted, seconds)

    async def first(self, send: Send, progress: Progress, *, fits: Callable[[Completion], bool]) -> Completion:
        """Return the first answer that fits, else any answer, else raise what the first request raised.

        Whatever is still on its way at the end, which may be a cancellation, is cancelled: its connection is closed.
        """
        self._earned = min(self._earned + self._hedge.share, SAVED_UP)
        progress.sent_at = None
        delay = self.delay()
        if delay is None:
            completion = await send(progress)
            self._saw(progress)
            return completion
        request = asyncio.create_task(send(progress), name="tanuki request")
        spare: asyncio.Task[Completion] | None = None
        spared = copy.copy(progress)
        spared.tried = []
        try:
            if await self._is_slow(request, progress, delay) and self._earned > 1 - 1e-9:
                self._earned -= 1
                spare = asyncio.create_task(send(spared), name="tanuki hedge")
            return await _winner(request, spare, fits)
        finally:
            if spare is not None or _succeeded(request):
                self._saw(progress)
            if spare is not None:
                self._settle(spared, spare)
            await _cancel(request, spare)

    def _saw(self, progress: Progress) -> None:
        if progress.sent_at is not None:
            self.saw(self._clock.monotonic() - progress.sent_at)

    def _settle(self, spared: Progress, spare: asyncio.Task[Completion]) -> None:
        if spared.sent_at is None and not spared.tried:  # no budget for it, or it was still waiting for its turn
            self._earned += 1
            return
        self._tally.hedged += 1
        if spare.done() and not spare.cancelled() and (error := spare.exception()):
            logger.debug("a hedge failed: %s", error)

    async def _is_slow(self, request: asyncio.Task[Completion], progress: Progress, delay: float) -> bool:
        """Wait until the request has ended, False, or its exchange takes longer than `delay` seconds, True."""
        while not request.done():
            sent = progress.sent_at
            left = delay if sent is None else sent + delay - self._clock.monotonic()
            if left <= 0:
                return True
            timer = asyncio.ensure_future(self._clock.sleep(max(left, SHORTEST)))
            try:
                await asyncio.wait((request, timer), return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
        return False


async def _winner(
    request: asyncio.Task[Completion], spare: asyncio.Task[Completion] | None, fits: Callable[[Completion], bool]
) -> Completion:
    if spare is None:
        return await request
    pending = {request, spare}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for each in (request, spare):
            if each in done and _succeeded(each) and fits(each.result()):
                return each.result()
    return spare.result() if _succeeded(spare) and not _succeeded(request) else request.result()


def _succeeded(request: asyncio.Task[Completion]) -> bool:
    return request.done() and not request.cancelled() and request.exception() is None


async def _cancel(*requests: asyncio.Task[Completion] | None) -> None:
    """Cancel what still runs, and wait until its connection is closed."""
    running = [each for each in requests if each is not None and not each.done()]
    for each in running:
        each.cancel()
    if running:
        await asyncio.wait(running)
