"""How much went out in the last minute, and when there is room for more: limits that hold in any minute."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from tanuki_async._clock import Clock
from tanuki_async._records import Limits

MINUTE = 60.0
SLICES = 240
UNEVEN = 1 / 60
"""The share of a period that is waited beyond it: requests do not travel equally fast, and the server counts too."""
_SAME = 1e-6  # seconds and units that are no difference


class Slice:
    """What was spent within a short time; it counts until the last of it is a whole period old.

    Where limits are shared, `told` is the round that told of it (0 if none did), and `slot` where it is counted there.
    """

    __slots__ = ("first", "last", "slot", "told", "units")

    def __init__(self, now: float, units: float) -> None:
        self.first = self.last = now
        self.units = units
        self.told = 0
        self.slot: int | None = None


class Window:
    """Lets at most `limit` units through in any `period` seconds.

    A rested one gives all of them at once. Memory is bounded: what is spent within a 240th of the period is kept as
    one, and forgotten together, when the youngest has aged.
    """

    __slots__ = ("_grain", "_slices", "limit", "period", "span", "used")

    def __init__(self, limit: float, *, period: float = MINUTE) -> None:
        if limit <= 0:
            raise ValueError(f"a limit must be greater than 0, not {limit:g}")
        if limit < 1:  # what is less than one in a minute still comes in ones
            limit, period = 1.0, period / limit
        self.limit, self.period = limit, period
        self.used = 0.0
        self.span = period * (1 + UNEVEN)
        self._grain = period / SLICES
        self._slices: deque[Slice] = deque()

    def wait(self, now: float, units: float) -> float:
        """Tell in how many seconds `units` fit; 0 for now. More than the limit is taken for the limit."""
        slices = self._slices
        if slices and now - slices[0].last >= self.span - _SAME:
            self._forget(now)
        short = self.used + (min(self.limit, units)) - self.limit
        if short <= _SAME:
            return 0.0
        for old in slices:
            short -= old.units
            if short <= _SAME:
                return old.last + self.span - now
        return self.span  # not reached: without all slices there is room for the limit

    def _forget(self, now: float) -> None:
        slices = self._slices
        while slices and now - slices[0].last >= self.span - _SAME:
            self.used -= slices.popleft().units

    def cut(self, now: float) -> Iterator[Slice]:
        """Let nothing be added to what is there; the slices that still count, the youngest first."""
        self._forget(now)
        if self._slices:
            self._slices[-1].first = -math.inf
        return reversed(self._slices)

    def spend(self, now: float, units: float) -> Slice:
        """Count `units` as sent now, whether they fit or not; the slice is what `refund` wants to know."""
        slices = self._slices
        self.used = self.used + units if slices else units  # adding up for ever would drift
        if slices and now - slices[-1].first < self._grain:
            newest = slices[-1]
            newest.last = now
            newest.units += units
            return newest
        newest = Slice(now, units)
        slices.append(newest)
        return newest

    def refund(self, of: Slice, units: float) -> None:
        """Count `units` of a slice as never sent. What has aged meanwhile stays forgotten."""
        if self._slices and of.last >= self._slices[0].last:
            units = min(units, of.units)
            of.units -= units
            self.used -= units


Spent: TypeAlias = "tuple[Slice | None, Slice | None, float]"
"""What one request took: from the requests, from the tokens, and how many tokens."""


class Budget(Protocol):
    """What may go out per minute. Answers at once, and never waits.

    The seam for limits that processes share: such a one holds a share, renews it by itself, and tells here what it has.
    """

    counts_tokens: bool

    def wait(self, tokens: float) -> float:
        """Tell in how many seconds a request of that many tokens may go; 0 for now."""
        ...

    def spend_nowait(self, tokens: float) -> Spent | None:
        """Count a request as sent now, if it fits now."""
        ...

    def spend(self, tokens: float) -> Spent:
        """Count a request as sent now, whether it fits or not."""
        ...

    def settle(self, spent: Spent, tokens: float) -> None:
        """Replace the guessed tokens of a request by what it really used."""
        ...

    def give_back(self, spent: Spent) -> None:
        """Count a request as never sent."""
        ...

    def limits(self) -> Limits:
        """Tell what is allowed per minute now."""
        ...


@dataclass(slots=True, eq=False)
class LocalBudget:
    """The limits of this process alone. Refunds count from when the request was sent, surcharges from now on."""

    clock: Clock
    requests: Window | None = None
    tokens: Window | None = None
    counts_tokens: bool = False
    period: float = MINUTE

    @classmethod
    def of(cls, limits: Limits, clock: Clock, *, period: float = MINUTE) -> LocalBudget:
        """Make one that holds what `limits` says, per `period` seconds instead of a minute if so told."""
        asked, size = limits.requests_per_minute, limits.tokens_per_minute
        return cls(
            clock,
            Window(asked, period=period) if asked else None,
            Window(size, period=period) if size else None,
            size is not None,
            period,
        )

    def wait(self, tokens: float) -> float:
        now = self.clock.monotonic()
        waits = self.requests.wait(now, 1) if self.requests else 0.0
        return max(waits, self.tokens.wait(now, tokens)) if self.tokens else waits

    def spend_nowait(self, tokens: float) -> Spent | None:
        now, requests, size = self.clock.monotonic(), self.requests, self.tokens
        if (requests is not None and requests.wait(now, 1)) or (size is not None and size.wait(now, tokens)):
            return None
        return self._spend(now, tokens)

    def spend(self, tokens: float) -> Spent:
        return self._spend(self.clock.monotonic(), tokens)

    def _spend(self, now: float, tokens: float) -> Spent:
        request = None if self.requests is None else self.requests.spend(now, 1)
        if self.tokens is None:
            return request, None, 0.0
        tokens = min(tokens, self.tokens.limit)  # one that can never fit is for the provider to judge
        return request, self.tokens.spend(now, tokens), tokens

    def settle(self, spent: Spent, tokens: float) -> None:
        _, of, guessed = spent
        if of is None or self.tokens is None:
            return
        if tokens < guessed:
            self.tokens.refund(of, guessed - tokens)
        elif tokens > guessed:
            self.tokens.spend(self.clock.monotonic(), tokens - guessed)

    def give_back(self, spent: Spent) -> None:
        request, of, guessed = spent
        if request is not None and self.requests is not None:
            self.requests.refund(request, 1)
        if of is not None and self.tokens is not None:
            self.tokens.refund(of, guessed)

    def limits(self) -> Limits:
        return Limits(
            requests_per_minute=self.requests.limit * MINUTE / self.requests.period if self.requests else None,
            tokens_per_minute=self.tokens.limit * MINUTE / self.tokens.period if self.tokens else None,
        )

    def adjust(self, requests: float | None, tokens: float | None) -> None:
        """Hold other limits from now on, counting what went out before."""
        self.requests = _adjusted(self.requests, requests, self.period)
        self.tokens = _adjusted(self.tokens, tokens, self.period)
        self.counts_tokens = self.tokens is not None

    def begin_with(self, requests: float) -> None:
        """Count requests that went out before there was a limit, so that it does not begin with a full minute."""
        if self.requests:
            self.requests.spend(self.clock.monotonic(), min(requests, self.requests.limit))


def _adjusted(window: Window | None, limit: float | None, period: float) -> Window | None:
    if window is None or limit is None:
        return None if limit is None else Window(limit, period=period)
    window.limit = max(1.0, limit)
    return window
