"""Lets calls through in the order in which they came, each at the moment at which every limit has room for it."""

from __future__ import annotations

import asyncio
import math

from tanuki_async._clock import Clock
from tanuki_async._errors import NotOpenError
from tanuki_async._pool.lanes import Lane, Progress, Waiter
from tanuki_async._pool.windows import Budget, Spent
from tanuki_async._records import Limits, Usage

_SHORTEST = 0.005  # seconds; a timer per call would cost more than it is worth


class Place:
    """The right of one call to have one request running. Ends with `leave`, or with `give_back` if nothing was sent."""

    __slots__ = ("_budget", "_spent", "_told", "_told_spent", "_turnstile", "lane", "number")

    def __init__(self, turnstile: Turnstile, lane: Lane, spent: Spent | None, told_spent: Spent | None) -> None:
        self._turnstile, self.lane = turnstile, lane
        self._budget, self._spent = turnstile.budget, spent
        self._told, self._told_spent = lane.told, told_spent
        self.number = lane.started()

    def count_from_now(self) -> None:
        """Let the limits count the request from now on: it could not be written when its turn came."""
        if self._budget is not None and self._spent is not None:
            self._budget.give_back(self._spent)
            self._spent = self._budget.spend(self._spent[2])
        if self._told is not None and self._told_spent is not None:
            self._told.give_back(self._told_spent)
            self._told_spent = self._told.spend(self._told_spent[2])

    def settle(self, usage: Usage) -> None:
        """Replace the guessed tokens by those used, where the provider tells."""
        if used := usage.input_tokens + usage.output_tokens:
            self.lane.usual_output += (usage.output_tokens - self.lane.usual_output) / 8
            self._correct(used)

    def refund(self) -> None:
        """Count the request as one that used no tokens."""
        self._correct(0)

    def _correct(self, tokens: float) -> None:
        if self._budget is not None and self._spent is not None:
            self._budget.settle(self._spent, tokens)
        if self._told is not None and self._told_spent is not None:
            self._told.settle(self._told_spent, tokens)

    def leave(self) -> None:
        """Make room for the next."""
        turnstile = self._turnstile
        turnstile.inside -= 1
        self.lane.ended(self.number)
        if turnstile.waiting:
            turnstile.pump()

    def give_back(self) -> None:
        """Leave without having sent anything."""
        if self._budget is not None and self._spent is not None:
            self._budget.give_back(self._spent)
        if self._told is not None and self._told_spent is not None:
            self._told.give_back(self._told_spent)
        self.lane.requests -= 1
        self.leave()


class Turnstile:
    """Where all calls pass that share limits: the models of one account, or one model with limits of its own.

    First come, first served: whoever came first and is too large for now lets nobody pass. Only a model that is held
    back by what it said itself does not stop the others. What waits holds nothing: a place, and what a request may
    cost, are taken in one step, at the moment of sending. The queue has no bound of its own: each entry is a task that
    exists anyway.
    """

    def __init__(self, name: str, limits: Limits, places: int, budget: Budget | None, clock: Clock) -> None:
        self.name, self.limits, self.places = name, limits, places
        self.inside = self.waiting = 0
        self.budget, self._clock = budget, clock
        self._lanes: list[Lane] = []
        self._timer: asyncio.Task[None] | None = None
        self._due = math.inf
        self._closed = False

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how large a request is."""
        return self.budget is not None and self.budget.counts_tokens

    def add(self, lane: Lane) -> None:
        """Serve one model more."""
        self._lanes.append(lane)

    def enter_nowait(self, lane: Lane, tokens: float) -> Place | None:
        """Go through if nobody waits and everything has room."""
        if self.waiting or self.inside >= self.places or self._closed:
            return None
        if not lane.calm and lane.wait(self._clock.monotonic()) != 0:
            return None
        spent = told = None
        if self.budget is not None and (spent := self.budget.spend_nowait(tokens)) is None:
            return None
        if lane.told is not None and (told := lane.told.spend_nowait(tokens)) is None:
            if self.budget is not None and spent is not None:
                self.budget.give_back(spent)
            return None
        self.inside += 1
        return Place(self, lane, spent, told)

    async def enter(self, lane: Lane, tokens: float, ticket: int, progress: Progress) -> Place:
        """Wait for the turn of `ticket`. ProviderError where waiting is in vain, NotOpenError when the pool closes."""
        if self._closed:
            raise NotOpenError("the pool is closed")
        if not lane.calm and (error := lane.refusal(progress, self._clock.monotonic())):
            raise error
        waiter = Waiter(tokens, progress)
        lane.push(ticket, waiter)
        self.pump()
        progress.waiting_for = self._reason(lane, tokens)
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            progress.waiting_for = self._reason(lane, tokens)
            self._let_go(lane, waiter)
            raise

    def close(self) -> None:
        """Send everybody away with NotOpenError, and whoever comes later."""
        self._closed = True
        for lane in self._lanes:
            lane.close()
        self._stop_timer()

    def pump(self) -> None:
        """Let through whoever may go now, and come back when the next may."""
        soonest = math.inf
        while self.waiting and self.inside < self.places:
            lane, soonest = self._next()
            if lane is None:
                break
            waiter = lane.pop()
            waiter.turn.set_result(self._admit(lane, waiter.tokens))
        if not self.waiting:
            self._stop_timer()
        elif self.inside < self.places and soonest < math.inf:
            self._come_back(soonest)

    def _next(self) -> tuple[Lane | None, float]:
        """The model whose first call came first and may go now; else in how many seconds to look again."""
        now, soonest = self._clock.monotonic(), math.inf
        best: tuple[int, Lane, float] | None = None
        for lane in self._lanes:
            if lane.waiting and (first := lane.first()):
                held = lane.wait(now)
                if held == 0 and lane.told is not None:
                    held = lane.told.wait(first[1].tokens)
                if held:
                    soonest = min(soonest, held)
                elif best is None or first[0] < best[0]:
                    best = (first[0], lane, first[1].tokens)
        if best is None:
            return None, soonest
        short = 0.0 if self.budget is None else self.budget.wait(best[2])
        return (None, min(soonest, short)) if short else (best[1], 0.0)

    def _admit(self, lane: Lane, tokens: float) -> Place:
        self.inside += 1
        spent = None if self.budget is None else self.budget.spend(tokens)
        told = None if lane.told is None else lane.told.spend(tokens)
        return Place(self, lane, spent, told)

    def _let_go(self, lane: Lane, waiter: Waiter) -> None:
        """Forget a cancelled call: let through in the same moment, it gives all back."""
        turn = waiter.turn
        if not turn.done() or turn.cancelled():
            lane.forget(waiter)
            self.pump()
        elif turn.exception() is None:
            turn.result().give_back()

    def _reason(self, lane: Lane, tokens: float) -> str:
        if learnt := lane.reason(self._clock.monotonic()):
            return learnt
        if self.inside >= self.places:
            return f"a place among {self.name}'s {self.places} requests at once"
        if lane.told is not None and lane.told.wait(tokens):
            return f"the limit per minute that {lane.name} told"
        return f"{self.name}'s limit per minute"

    def _come_back(self, seconds: float) -> None:
        due = self._clock.monotonic() + max(seconds, _SHORTEST)
        if self._timer is not None and self._due <= due + _SHORTEST:
            return
        self._stop_timer()
        self._due = due
        sleep = self._clock.sleep(due - self._clock.monotonic())
        self._timer = asyncio.create_task(sleep, name=f"tanuki_async: limits of {self.name}")
        self._timer.add_done_callback(self._wake)

    def _wake(self, timer: asyncio.Task[None]) -> None:
        """Look again. Also where somebody else cancelled the timer, as programs do that cancel what they find."""
        if timer is self._timer:
            self._timer, self._due = None, math.inf
            self.pump()

    def _stop_timer(self) -> None:
        timer, self._timer, self._due = self._timer, None, math.inf
        if timer is not None:
            timer.cancel()
