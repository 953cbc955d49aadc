"""What is known of one model of one account: how it fares, what it told, and who waits for it."""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from tanuki_async._clock import SYSTEM_CLOCK, Clock, timestamp
from tanuki_async._errors import (
    NotOpenError,
    ProviderError,
    ProviderUnavailableError,
    ProviderUnreachableError,
    RateLimitedError,
    clip,
)
from tanuki_async._pool.adaptive import HANGS, Pace, Running
from tanuki_async._pool.breaker import Circuit, State
from tanuki_async._pool.windows import MINUTE, LocalBudget
from tanuki_async._records import Limits, Model, RateHint, Usage

if TYPE_CHECKING:
    from tanuki_async._pool.turnstile import Place, Turnstile

LONGEST_PAUSE = 120.0
"""Seconds for which one answer may stop a whole model, whatever it asks for."""
OVERLOADED = (503, 529)
NEWS = 1.0  # a pause that grows by less is not looked at again for those whom it makes too late


class Progress:
    """What one call is waiting for and what it has tried, so that a timeout can tell.

    `deadline`, on the pool's clock, keeps the pool from waiting for what would come too late. `others` tells that
    another teacher can answer, so that nobody need wait for one that is ill. `sent_at`, on the same clock, is when the
    exchange began that is on its way or has ended well; None while nothing is sent.
    """

    __slots__ = ("deadline", "others", "sent_at", "started", "tried", "waiting_for", "who")

    def __init__(self, deadline: float | None = None) -> None:
        self.waiting_for = "its turn"
        self.tried: list[str] = []
        self.deadline = deadline
        self.others = False
        self.sent_at: float | None = None
        self.started: float | None = None
        self.who: object = None

    def note(self, who: object, event: str, now: float) -> None:
        """Add one event to what was tried; it names the model where the one before was another."""
        started = now if self.started is None else self.started
        name, self.who = "" if who is self.who else f"{who}: ", who
        self.tried.append(f"{name}{event} after {now - started:.1f} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatistics:
    """One model of one account: how it fares now. Times are seconds from now."""

    model: str
    in_flight: int = 0
    waiting: int = 0
    allowed: int = 0
    """Requests at once, as far as the provider stands them."""
    limits: Limits = field(default_factory=Limits)
    """In force now: ours, or what the provider told where that is less."""
    paused_for: float = 0.0
    circuit: State = "closed"


class Waiter:
    """One call that waits to be let through."""

    __slots__ = ("progress", "tokens", "turn")

    def __init__(self, tokens: float, progress: Progress) -> None:
        self.tokens, self.progress = tokens, progress
        self.turn: asyncio.Future[Place] = asyncio.get_running_loop().create_future()


class Lane:
    """One model of one account: its queue, in order of arrival, and what its answers teach.

    Calls that were sent and failed come back to their old place in the queue.
    """

    def __init__(self, model: Model, turnstile: Turnstile, clock: Clock = SYSTEM_CLOCK) -> None:
        self.model, self.turnstile, self.clock = model, turnstile, clock
        self.name = str(model)
        self.pace = Pace(turnstile.places)
        self.circuit = Circuit()
        self._running = Running()
        self.told: LocalBudget | None = None
        self.calm = True
        """Whether nothing that was learnt holds anything back, but for `told`."""
        self.paused_until = 0.0
        self.requests = self.inside = self.waiting = 0
        self._number = 0  # unlike `requests`, it never goes back
        self._queue: list[tuple[int, Waiter]] = []
        self._heard: RateHint | None = None
        self._opened = clock.monotonic()
        self._swept = 0.0
        self._why = ""
        self.usual_output = 0.0
        self.waits_for_answer = f"an answer from {model.provider}"

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how large a request is."""
        return self.turnstile.counts_tokens or (self.told is not None and self.told.counts_tokens)

    def __str__(self) -> str:
        return self.name

    # The queue

    def push(self, ticket: int, waiter: Waiter) -> None:
        """Put a call where its ticket belongs."""
        if len(self._queue) > 64 and len(self._queue) > 2 * self.waiting:  # most of them were cancelled
            self._queue = [entry for entry in self._queue if not entry[1].turn.done()]
            heapq.heapify(self._queue)
        heapq.heappush(self._queue, (ticket, waiter))
        self._count(1)

    def first(self) -> tuple[int, Waiter] | None:
        """Look at the call that came first."""
        queue = self._queue
        while queue and queue[0][1].turn.done():
            heapq.heappop(queue)
        return queue[0] if queue else None

    def pop(self) -> Waiter:
        """Take the call that `first` showed."""
        self._count(-1)
        return heapq.heappop(self._queue)[1]

    def forget(self, waiter: Waiter) -> None:
        """Let a call go that was cancelled."""
        waiter.turn.cancel()
        self._count(-1)

    def turn_away(self) -> None:
        """Let go who waits in vain, with the error that says why."""
        now = self.clock.monotonic()
        for _, waiter in self._queue:
            if not waiter.turn.done() and (error := self.refusal(waiter.progress, now)):
                waiter.turn.set_exception(error)
                self._count(-1)

    def close(self) -> None:
        """Send all away."""
        for _, waiter in self._queue:
            if not waiter.turn.done():
                waiter.turn.set_exception(NotOpenError("the pool was closed while this call waited for its turn"))
                self._count(-1)
        self._queue.clear()

    def _count(self, more: int) -> None:
        self.waiting += more
        self.turnstile.waiting += more

    # What holds back

    def wait(self, now: float) -> float:
        """Tell in how many seconds the next may start, as far as was learnt, unless one ends before."""
        if self.calm:
            return 0.0
        waits = max(self.paused_until - now, self.circuit.wait(now))
        alone = self.inside == 0 and self.waiting <= 1  # who is, waits as told and no longer
        if not (alone or self.pace.full(now) or self.circuit.probe_at is not None):
            return max(waits, self._paced(now))
        if waits <= 0 and self.pace.full(now) and self.circuit.probe_at is None:
            self.calm = True
        return max(0.0, waits)

    def _paced(self, now: float) -> float:
        paced = self.pace.wait(now, self.inside)
        if paced is None:
            hanging, soon = self._running.hanging(now)
            paced = self.pace.wait(now, self.inside - hanging)
            return soon if paced is None else paced
        return paced

    def paused_for(self) -> float:
        """Tell for how many seconds more nothing may start."""
        return max(0.0, self.paused_until - self.clock.monotonic())

    def refusal(self, progress: Progress, now: float) -> ProviderError | None:
        """Make the error for a call that need not wait: another teacher can answer, or it would be too late."""
        wait = self.circuit.wait(now)
        if wait and progress.others:
            return self._refuse(ProviderUnavailableError, self._circuit_text(now), wait, progress, now)
        wait = self.paused_until - now
        if wait > 0 and progress.deadline is not None and now + wait >= progress.deadline:
            return self._refuse(RateLimitedError, self._pause_text(now), wait, progress, now)
        return None

    def _refuse(
        self, kind: type[ProviderError], text: str, wait: float, progress: Progress, now: float
    ) -> ProviderError:
        progress.note(self, "not asked: " + text.partition(",")[0], now)
        error = kind(text, self.model.provider, self.model.name, None, None, wait)
        error.should_retry = False
        error.tried = tuple(progress.tried)
        return error

    def reason(self, now: float) -> str | None:
        """Say what holds back, for whom a timeout meets while waiting; None if nothing that was learnt does."""
        if self.circuit.probe_at is not None:
            return f"{self.name}: {self._circuit_text(now)}"
        if self.paused_until > now:
            return f"{self.name}: {self._pause_text(now)}"
        if not self.pace.full(now):
            return f"{self.name} to recover: it takes {int(self.pace.allowed)} at once now, after {self._why}"
        return None

    def _circuit_text(self, now: float) -> str:
        until = timestamp(self.clock.now() + timedelta(seconds=self.circuit.wait(now)))
        return (
            f"its circuit is open until {until}, after {self.circuit.failures} failures in a row; "
            f"the last was {self.circuit.last}"
        )

    def _pause_text(self, now: float) -> str:
        return f"it asked for a pause that lasts another {self.paused_until - now:.1f} s, with {self._why}"

    # What is learnt

    def started(self) -> int:
        """Count one request that goes out now; its number."""
        self.inside += 1
        self.requests += 1
        self._number += 1
        now = self.clock.monotonic()
        self._running.start(self._number, now)
        if not self.calm:
            self.pace.start(now)
            self.circuit.start(self._number, now)
        return self._number

    def ended(self, number: int) -> None:
        """Count one request out."""
        self.inside -= 1
        self._running.end(number)
        if not self.calm:
            self.circuit.ended(number)

    def answered(self, number: int) -> None:
        """Learn from the answer to request `number`."""
        self._running.answered(number, self.clock.monotonic())
        self._is_well()
        if not self.calm:
            self.pace.faster()

    def failed(self, error: ProviderError, number: int) -> None:
        """Learn from the failure of request `number`, which still counts as inside."""
        now, what = self.clock.monotonic(), describe(error)
        if isinstance(error, ProviderUnreachableError | ProviderUnavailableError):
            self._is_ill(number, what, now)
        elif type(error) is not ProviderError:  # which only a bug in a provider is
            self._is_well()
        if isinstance(error, RateLimitedError) or error.status in OVERLOADED:
            self._why, self.calm = what, False
            self.pace.slower(number, self._number, self.inside)
            if error.retry_after:
                self.pause(error.retry_after, now)

    def given_up(self, number: int, progress: Progress) -> None:
        """Learn from a request that was cancelled: it hung if its deadline was over, after a fair time to answer."""
        now = self.clock.monotonic()
        if progress.deadline is None or progress.sent_at is None or now < progress.deadline:
            return
        if now - progress.sent_at >= HANGS:
            self._is_ill(number, f"no answer in {now - progress.sent_at:.0f} s", now)

    def _is_ill(self, number: int, what: str, now: float) -> None:
        if self.circuit.failed(number, what, now):
            self.calm = False
            self.turn_away()

    def _is_well(self) -> None:
        self.circuit.failures = 0
        if not self.calm and self.circuit.answered():
            self.pace.restart()

    def pause(self, seconds: float, now: float) -> None:
        """Let nothing start for so long."""
        until = now + min(seconds, LONGEST_PAUSE)
        if until <= self.paused_until:
            return
        self.paused_until, self.calm = until, False
        self.pace.resume(until)
        if until > self._swept + NEWS:
            self._swept = until
            self.turn_away()

    def hear(self, hint: RateHint, usage: Usage) -> None:
        """Learn what the provider told beside an answer that used so much."""
        if hint is self._heard:  # as nearly always: equal hints are one object
            return
        if seconds := hint.pause(usage.input_tokens + usage.output_tokens):
            self._why = "an answer that said that nothing is left"
            self.pause(seconds, self.clock.monotonic())
            hint = replace(hint, requests_back=None, tokens_back=None)
        known, self._heard = self._heard, hint
        if hint == known:
            return
        ours = self.turnstile.limits
        requests = _lower(hint.requests, ours.requests_per_minute, hint.seconds)
        tokens = _lower(hint.tokens, ours.tokens_per_minute, hint.seconds)
        self._hold(requests, tokens, hint.seconds)

    def _hold(self, requests: float | None, tokens: float | None, seconds: float) -> None:
        """Hold what was told from now on; what went out before counts too."""
        if requests is None and tokens is None:
            self.told = None
        elif self.told is None or self.told.period != seconds:
            told = Limits(requests_per_minute=requests, tokens_per_minute=tokens)
            self.told = LocalBudget.of(told, self.clock, period=seconds)
            young = self.clock.monotonic() - self._opened < MINUTE
            self.told.begin_with(self.requests if young else self.inside)
        else:
            self.told.adjust(requests, tokens)

    def statistics(self) -> LaneStatistics:
        """Tell how it fares."""
        ours = self.turnstile.limits
        told = self.told.limits() if self.told else Limits()
        return LaneStatistics(
            model=self.model.name,
            in_flight=self.inside,
            waiting=self.waiting,
            allowed=int(self.pace.allowed),
            limits=Limits(
                requests_per_minute=told.requests_per_minute or ours.requests_per_minute,
                tokens_per_minute=told.tokens_per_minute or ours.tokens_per_minute,
                concurrency=ours.concurrency,
            ),
            paused_for=self.paused_for(),
            circuit=self.circuit.state(),
        )


def describe(error: ProviderError) -> str:
    """Say in a few words what went wrong."""
    if error.status is not None:
        return f"HTTP {error.status}"
    return clip(error.message, 60)


def _lower(told: float | None, ours: float | None, seconds: float) -> float | None:
    """What was told, if it is the stricter one."""
    if not told or (ours is not None and ours / MINUTE <= told / seconds):
        return None
    return told
