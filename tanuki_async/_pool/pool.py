"""What every request to a provider goes through: spend, gate, one exchange, retry."""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._codec.tokens import size as size_of
from tanuki_async._errors import (
    NotOpenError,
    ProviderError,
    QuotaExceededError,
    RateLimitedError,
    RequestRejectedError,
    TanukiError,
    clip,
)
from tanuki_async._pool.delays import late
from tanuki_async._pool.http import Connections, HttpStatistics
from tanuki_async._pool.lanes import Lane, LaneStatistics, Progress, describe
from tanuki_async._pool.retry import Retry, is_retryable, try_again
from tanuki_async._pool.turnstile import Place, Turnstile
from tanuki_async._pool.windows import Budget, LocalBudget
from tanuki_async._records import Completion, Limits, Model, RateHint, Request, Usage, Used
from tanuki_async.abc import Http, Provider

__all__ = ["AccountStatistics", "Pool", "PoolStatistics", "Progress"]

logger = logging.getLogger("tanuki_async.pool")
Ask: TypeAlias = Callable[[Request, Http], Awaitable[Completion]]

CONCURRENCY = 1_000
"""Requests at once for an account that names no limit."""
TURNED_AWAY = (QuotaExceededError, RateLimitedError, RequestRejectedError)
"""Requests that end so have used no tokens."""


class Answered(Protocol):
    """What the pool asks of an answer."""

    @property
    def usage(self) -> Usage: ...
    @property
    def rate(self) -> RateHint | None: ...


T = TypeVar("T", bound=Answered)
Q = TypeVar("Q")


@dataclass(frozen=True, slots=True)
class Vectors:
    """An answer to many texts: one vector each, in order."""

    vectors: Sequence[Sequence[float]]
    usage: Usage
    rate: RateHint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatistics:
    """One provider account: what it does now, what it did so far."""

    provider: str
    in_flight: int = 0
    waiting: int = 0
    pausing: int = 0  # between two tries; these hold no place
    requests: int = 0
    retries: int = 0
    failures: int = 0
    usage: Usage = field(default_factory=Usage)
    models: tuple[LaneStatistics, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """All accounts, and the connections that they share."""

    accounts: tuple[AccountStatistics, ...] = ()
    http: HttpStatistics = field(default_factory=HttpStatistics)

    @property
    def in_flight(self) -> int:
        """Exchanges now, over all accounts."""
        return sum(account.in_flight for account in self.accounts)

    @property
    def waiting(self) -> int:
        """Calls that wait for a place, a limit or a retry, over all accounts."""
        return sum(account.waiting + account.pausing for account in self.accounts)


class _Account:
    """What is counted of one provider account on one loop, and the turnstiles in front of it by what they are for."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider  # keeps its id from being given to another
        self.turnstiles: dict[str, Turnstile] = {}
        self.lanes: list[Lane] = []
        self.pausing = self.retries = self.failures = 0
        self.used = Used()

    def statistics(self) -> AccountStatistics:
        lanes = self.lanes
        return AccountStatistics(
            provider=self.provider.name,
            in_flight=sum(lane.inside for lane in lanes),
            waiting=sum(lane.waiting for lane in lanes),
            pausing=self.pausing,
            requests=sum(lane.requests for lane in lanes),
            retries=self.retries,
            failures=self.failures,
            usage=self.used.usage(),
            models=tuple(lane.statistics() for lane in lanes),
        )


@dataclass(slots=True, eq=False)
class _Trip(Generic[Q, T]):
    """One call whose first try failed: what stays the same over its tries."""

    account: _Account
    lane: Lane
    ask: Callable[[Q, Http], Awaitable[T]]
    question: Q
    tokens: float
    ticket: int
    progress: Progress


class Pool:
    """One turnstile for all calls that share limits; connections shared by all.

    `limits` are by provider name, for all its models together, or by `"provider:model"`: such a model then has limits
    of its own and does not count towards the others. What a provider tells, and how it fares, is learnt per model.
    What merely waits holds no place and no connection. A cancelled call gives back all.
    """

    def __init__(
        self,
        http: Connections,
        *,
        clock: Clock = SYSTEM_CLOCK,
        random: Callable[[], float] = random_module.random,
        limits: Mapping[str, Limits] | None = None,
        tries: int = 6,
        budget: Callable[[str, Limits], Budget | None] | None = None,
    ) -> None:
        self._http = http
        self._clock = clock
        self._random = random
        self._limits = dict(limits or {})
        self._budget = budget or self._local_budget
        self._retry = Retry(tries=tries)
        self._accounts: dict[int, _Account] = {}
        self._lanes: dict[tuple[int, str], tuple[_Account, Lane]] = {}
        self._pauses: set[asyncio.Future[None]] = set()
        self._arrived = 0
        self._closed = False

    def complete(
        self, provider: Provider, request: Request, progress: Progress, *, ask: Ask | None = None
    ) -> Coroutine[Any, Any, Completion]:
        """Ask until there is an answer, or an error that no further try can mend, whose `tried` tells all tries.

        `ask` makes one exchange instead of `provider.complete`.
        """
        model = request.model
        account, lane = self._lanes.get((id(provider), model.name)) or self._open_lane(provider, model)
        size = _size(request, lane) if lane.counts_tokens else 0
        return self._bring(account, lane, ask or provider.complete, request, size, progress)

    async def embed(
        self, provider: Provider, model: Model, texts: Sequence[str], progress: Progress
    ) -> tuple[Sequence[Sequence[float]], Usage]:
        """Return one vector per text, in order, with the same care as `complete`."""

        async def ask(texts: Sequence[str], http: Http) -> Vectors:
            return Vectors(*await provider.embed(model, texts, http))

        account, lane = self._lanes.get((id(provider), model.name)) or self._open_lane(provider, model)
        size = sum(map(len, texts)) // 4 if lane.counts_tokens else 0
        found = await self._bring(account, lane, ask, texts, size, progress)
        return found.vectors, found.usage

    def statistics(self) -> PoolStatistics:
        """Tell what each account does now and did so far."""
        accounts = tuple(account.statistics() for account in self._accounts.values())
        return PoolStatistics(accounts=accounts, http=self._http.statistics())

    async def aclose(self) -> None:
        """Close the connections. Calls that wait or are on their way end with NotOpenError. Safe to call twice."""
        self._closed = True
        for account in self._accounts.values():
            for turnstile in account.turnstiles.values():
                turnstile.close()
        for pause in self._pauses:
            pause.cancel()
        await self._http.aclose()

    def _open_lane(self, provider: Provider, model: Model) -> tuple[_Account, Lane]:
        if self._closed:
            raise NotOpenError("the pool is closed")
        account = self._accounts.get(id(provider))
        if account is None:
            account = self._accounts[id(provider)] = _Account(provider)
        name = f"{provider.name}:{model.name}"
        name = name if name in self._limits else provider.name
        turnstile = account.turnstiles.get(name)
        if turnstile is None:
            limits = self._limits.get(name, provider.limits)
            places = limits.concurrency or CONCURRENCY
            turnstile = Turnstile(name, limits, places, self._budget(name, limits), self._clock)
            account.turnstiles[name] = turnstile
        lane = Lane(model, turnstile, self._clock)
        account.lanes.append(lane)
        turnstile.add(lane)
        self._lanes[id(provider), model.name] = account, lane
        return account, lane

    def _local_budget(self, name: str, limits: Limits) -> Budget | None:
        limited = limits.requests_per_minute or limits.tokens_per_minute
        return LocalBudget.of(limits, self._clock) if limited else None

    async def _bring(
        self,
        account: _Account,
        lane: Lane,
        ask: Callable[[Q, Http], Awaitable[T]],
        question: Q,
        tokens: float,
        progress: Progress,
    ) -> T:
        self._arrived = ticket = self._arrived + 1
        if progress.started is None:
            progress.started = self._clock.monotonic()
        try:
            try:
                answered = await self._attempt(account, lane, ask, question, tokens, ticket, progress)
            except ProviderError as error:
                if not is_retryable(error):
                    raise
                trip = _Trip(account, lane, ask, question, tokens, ticket, progress)
                answered = await self._insist(trip, error)
        except ProviderError as error:
            account.failures += 1
            error.tried = tuple(progress.tried)
            raise
        account.used.add(answered.usage)
        return answered

    async def _insist(self, trip: _Trip[Q, T], error: ProviderError) -> T:
        progress, circuit = trip.progress, trip.lane.circuit

        async def again() -> T:
            trip.account.retries += 1
            return await self._attempt(
                trip.account, trip.lane, trip.ask, trip.question, trip.tokens, trip.ticket, progress
            )

        def seconds_left() -> float | None:
            if progress.others and circuit.probe_at is not None:
                return 0.0  # another teacher can answer, and this one does not
            return progress.deadline and progress.deadline - self._clock.monotonic()

        return await try_again(
            again,
            error,
            policy=self._retry,
            pause=lambda seconds: self._pause(trip, seconds),
            seconds_left=seconds_left,
            draw=self._random,
        )

    async def _attempt(
        self,
        account: _Account,
        lane: Lane,
        ask: Callable[[Q, Http], Awaitable[T]],
        question: Q,
        tokens: float,
        ticket: int,
        progress: Progress,
    ) -> T:
        place = lane.turnstile.enter_nowait(lane, tokens) or await lane.turnstile.enter(lane, tokens, ticket, progress)
        try:
            progress.waiting_for = lane.waits_for_answer
            progress.sent_at = self._clock.monotonic()
            try:
                answered = await ask(question, self._http)
            finally:
                if late.get():
                    late.set(False)
                    place.count_from_now()
            lane.answered(place.number)
            if answered.rate is not None:
                lane.hear(answered.rate, answered.usage)
            if lane.counts_tokens:
                place.settle(answered.usage)
            return answered
        except ProviderError as error:
            self._failed(place, error, progress)
            raise
        except TanukiError:
            raise
        except asyncio.CancelledError:
            lane.given_up(place.number, progress)
            raise
        except Exception as error:  # a provider may be anybody's: its bug must not pass for the user's, nor be retried
            raise _bug(account.provider, lane.model, error) from error
        finally:
            place.leave()

    def _failed(self, place: Place, error: ProviderError, progress: Progress) -> None:
        progress.note(place.lane, describe(error), self._clock.monotonic())
        progress.sent_at = None
        if isinstance(error, TURNED_AWAY):
            place.refund()
        place.lane.failed(error, place.number)

    async def _pause(self, trip: _Trip[Q, T], seconds: float) -> None:
        """Wait between two tries, beyond what the model's own pause takes: that is waited for in the queue."""
        if queued := trip.lane.paused_for():
            seconds -= queued
            if seconds <= 0:
                return
        account, progress = trip.account, trip.progress
        last = progress.tried[-1] if progress.tried else "a failure"
        progress.waiting_for = f"the next try in {seconds:.1f} s, after {last}"
        logger.debug("pool: %s: next try in %.2f s, after %s", account.provider.name, seconds, last)
        account.pausing += 1
        try:
            await self._unless_closed(self._clock.sleep(seconds))
        finally:
            account.pausing -= 1

    async def _unless_closed(self, wait: Awaitable[None]) -> None:
        """Wait, but end with NotOpenError when the pool closes."""
        pause = asyncio.ensure_future(wait)
        self._pauses.add(pause)
        try:
            await pause
        except asyncio.CancelledError:
            if self._closed and pause.cancelled() and not _being_cancelled():
                raise NotOpenError("the pool was closed while this call waited") from None
            raise
        finally:
            pause.cancel()
            self._pauses.discard(pause)


def _bug(provider: Provider, model: Model, error: Exception) -> ProviderError:
    name = type(provider).__name__
    logger.error("pool: %s raised something that is not a ProviderError", name, exc_info=error)
    message = f"{name} failed with {type(error).__name__}: {clip(str(error))}; that is a bug in {name}"
    return ProviderError(message, provider.name, model.name)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _size(request: Request, lane: Lane) -> float:
    size = request.size if request.size is not None else size_of(request.head, request.turns)
    return size + (request.max_tokens or request.head.params.max_new_tokens or lane.usual_output)
