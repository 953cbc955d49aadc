"""What every request to a provider goes through: spend, gate, one exchange, retry."""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._errors import NotOpenError, ProviderError, TanukiError, clip
from tanuki_async._pool.http import Connections, HttpStatistics
from tanuki_async._pool.limits import Gate, Rate
from tanuki_async._pool.retry import Retry, is_retryable, try_again
from tanuki_async._records import Completion, Limits, Model, Request, Usage
from tanuki_async.abc import Provider

logger = logging.getLogger("tanuki_async.pool")
T = TypeVar("T")

CONCURRENCY = 1_000
"""Requests at once for an account that names no limit."""


class Progress:
    """What one call is waiting for and what it has tried, so that a timeout can tell.

    `deadline`, on the pool's clock, keeps the pool from waiting for a retry that would come too late. `sent_at`, on
    the same clock, is when the exchange began that is on its way or has ended well; None while nothing is sent.
    """

    __slots__ = ("deadline", "sent_at", "tried", "waiting_for")

    def __init__(self, deadline: float | None = None) -> None:
        self.waiting_for = "its turn"
        self.tried: list[str] = []
        self.deadline = deadline
        self.sent_at: float | None = None


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
    """The state of one provider account on one loop."""

    def __init__(self, provider: Provider, limits: Limits, clock: Clock) -> None:
        self.provider = provider  # keeps its id from being given to another
        self.gate = Gate(limits.concurrency or CONCURRENCY)
        self.requests_rate = Rate(limits.requests_per_minute, clock=clock) if limits.requests_per_minute else None
        self.tokens_rate = Rate(limits.tokens_per_minute, clock=clock) if limits.tokens_per_minute else None
        self.limited = self.requests_rate is not None or self.tokens_rate is not None
        self.waits_at_gate = f"a place among {provider.name}'s {self.gate.places} requests at once"
        self.waits_for_limit = f"{provider.name}'s limit per minute"
        self.waits_for_answer = f"an answer from {provider.name}"
        self.pausing = self.requests = self.retries = self.failures = 0
        self.input_tokens = self.cached_tokens = self.output_tokens = self.reasoning_tokens = self.answers = 0

    def spendable(self, tokens: float) -> float:
        """Tokens to spend on a request: one that is too large for the limit is for the provider to judge."""
        return min(tokens, self.tokens_rate.burst) if self.tokens_rate else 0

    def unspend(self, tokens: float) -> None:
        """Give back what a request was to cost that is not sent after all."""
        if self.requests_rate:
            self.requests_rate.correct(-1)
        if self.tokens_rate:
            self.tokens_rate.correct(-tokens)

    def count(self, usage: Usage) -> None:
        self.answers += usage.requests
        self.input_tokens += usage.input_tokens
        self.cached_tokens += usage.cached_tokens
        self.output_tokens += usage.output_tokens
        self.reasoning_tokens += usage.reasoning_tokens

    def statistics(self) -> AccountStatistics:
        rates = (self.requests_rate, self.tokens_rate)
        return AccountStatistics(
            provider=self.provider.name,
            in_flight=self.gate.inside,
            waiting=self.gate.waiting + sum(rate.waiting for rate in rates if rate),
            pausing=self.pausing,
            requests=self.requests,
            retries=self.retries,
            failures=self.failures,
            usage=Usage(
                requests=self.answers,
                input_tokens=self.input_tokens,
                cached_tokens=self.cached_tokens,
                output_tokens=self.output_tokens,
                reasoning_tokens=self.reasoning_tokens,
            ),
        )


class Pool:
    """One gate, one set of limits and one account of use per provider instance; connections shared by all.

    What merely waits, for a limit or for a retry, holds no place and no connection. A cancelled call gives back all.
    """

    def __init__(
        self,
        http: Connections,
        *,
        clock: Clock = SYSTEM_CLOCK,
        random: Callable[[], float] = random_module.random,
        limits: Mapping[str, Limits] | None = None,
        tries: int = 6,
    ) -> None:
        self._http = http
        self._clock = clock
        self._random = random
        self._limits = dict(limits or {})
        self._retry = Retry(tries=tries)
        self._accounts: dict[int, _Account] = {}
        self._pauses: set[asyncio.Future[None]] = set()
        self._closed = False

    async def complete(
        self,
        provider: Provider,
        request: Request,
        progress: Progress,
        *,
        ask: Callable[[Request, Connections], Awaitable[Completion]] | None = None,
    ) -> Completion:
        """Ask until there is an answer, or an error that no further try can mend, whose `tried` tells all tries.

        `ask` stands in for the provider's own `complete`.
        """
        account = self._accounts.get(id(provider)) or self._open_account(provider)

        async def once() -> Completion:
            return await (ask or provider.complete)(request, self._http)

        tokens = account.spendable(_size(request)) if account.tokens_rate else 0
        completion = await self._persist(account, once, tokens, request.model, progress)
        account.count(completion.usage)
        if account.tokens_rate:
            account.tokens_rate.correct(completion.usage.input_tokens + completion.usage.output_tokens - tokens)
        return completion

    async def embed(
        self, provider: Provider, model: Model, texts: Sequence[str], progress: Progress
    ) -> tuple[list[list[float]], Usage]:
        """Return one vector per text, in order, with the same care as `complete`."""
        account = self._accounts.get(id(provider)) or self._open_account(provider)

        async def once() -> tuple[list[list[float]], Usage]:
            return await provider.embed(model, texts, self._http)

        tokens = account.spendable(sum(map(len, texts)) // 4) if account.tokens_rate else 0
        vectors, usage = await self._persist(account, once, tokens, model, progress)
        account.count(usage)
        if account.tokens_rate and usage.input_tokens:
            account.tokens_rate.correct(usage.input_tokens - tokens)
        return vectors, usage

    def statistics(self) -> PoolStatistics:
        """Tell what each account does now and did so far."""
        accounts = tuple(account.statistics() for account in self._accounts.values())
        return PoolStatistics(accounts=accounts, http=self._http.statistics())

    async def aclose(self) -> None:
        """Close the connections. Calls that wait or are on their way end with NotOpenError. Safe to call twice."""
        self._closed = True
        for account in self._accounts.values():
            account.gate.close()
        for pause in self._pauses:
            pause.cancel()
        await self._http.aclose()

    def _open_account(self, provider: Provider) -> _Account:
        if self._closed:
            raise NotOpenError("the pool is closed")
        account = _Account(provider, self._limits.get(provider.name, provider.limits), self._clock)
        self._accounts[id(provider)] = account
        return account

    async def _persist(
        self, account: _Account, once: Callable[[], Awaitable[T]], tokens: float, model: Model, progress: Progress
    ) -> T:
        started, already = self._clock.monotonic(), len(progress.tried)

        async def attempt() -> T:
            try:
                return await self._attempt(account, once, tokens, model, progress)
            except ProviderError as error:
                progress.sent_at = None
                progress.tried.append(f"{_what(error)} after {self._clock.monotonic() - started:.1f} s")
                raise

        async def again() -> T:
            account.retries += 1
            return await attempt()

        try:
            try:
                return await attempt()
            except ProviderError as error:
                if not is_retryable(error):
                    raise
                return await try_again(
                    again,
                    error,
                    policy=self._retry,
                    pause=lambda seconds: self._pause(account, seconds, progress),
                    seconds_left=lambda: progress.deadline and progress.deadline - self._clock.monotonic(),
                    draw=self._random,
                )
        except ProviderError as error:
            account.failures += 1
            error.tried = tuple(progress.tried[already:])
            raise

    async def _attempt(
        self, account: _Account, once: Callable[[], Awaitable[T]], tokens: float, model: Model, progress: Progress
    ) -> T:
        if account.limited:
            progress.waiting_for = account.waits_for_limit
            await self._spend(account, tokens)
        gate = account.gate
        if not gate.enter_nowait():
            progress.waiting_for = account.waits_at_gate
            try:
                await gate.enter()
            except BaseException:
                account.unspend(tokens)
                raise
        try:
            account.requests += 1
            progress.waiting_for = account.waits_for_answer
            progress.sent_at = self._clock.monotonic()
            return await once()
        except TanukiError:
            raise
        except Exception as error:  # a provider may be anybody's: its bug must not pass for the user's, nor be retried
            name = type(account.provider).__name__
            logger.exception("pool: %s raised something that is not a ProviderError", name)
            message = f"{name} failed with {type(error).__name__}: {clip(str(error))}; that is a bug in {name}"
            raise ProviderError(message, account.provider.name, model.name) from error
        finally:
            gate.leave()

    async def _spend(self, account: _Account, tokens: float) -> None:
        if self._closed:
            raise NotOpenError("the pool is closed")
        if (rate := account.requests_rate) and not rate.spend_nowait(1):
            await self._unless_closed(rate.spend(1))
        if (rate := account.tokens_rate) and not rate.spend_nowait(tokens):
            try:
                await self._unless_closed(rate.spend(tokens))
            except BaseException:
                account.unspend(0)
                raise

    async def _pause(self, account: _Account, seconds: float, progress: Progress) -> None:
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


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _what(error: ProviderError) -> str:
    if error.status is not None:
        return f"HTTP {error.status}"
    return clip(error.message, 60)


def _size(request: Request) -> int:
    from tanuki_async._codec.tokens import size

    return size(request.head, request.turns) + (request.max_tokens or request.head.params.max_new_tokens or 0)
