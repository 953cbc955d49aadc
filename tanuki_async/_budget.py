"""Budgets: what a request may cost is set aside before it is sent, and settled by what it used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from tanuki_async._clock import Clock
from tanuki_async._errors import BudgetExceededError, SettingsError
from tanuki_async._pool.pool import Progress
from tanuki_async._records import Budget, Model, Usage
from tanuki_async._route import ANSWER_RESERVE
from tanuki_async._tally import LIFE, Spent, Tally

logger = logging.getLogger("tanuki_async.call")

RECALL_TIMEOUT = 5.0
"""Seconds that a first call waits for slow storage before it counts from nothing, until the tally is next saved."""
NOTHING = Spent()


class Account:
    """What one function, or all of a Tanuki, has spent, and has set aside for requests on their way.

    Exact in this process. What was spent elsewhere, or before, is known from the tally: from when this one was first
    used, and again whenever the tally was saved.
    """

    def __init__(self, tally: Tally, *, clock: Clock, read: Callable[[], Awaitable[Tally]] | None = None) -> None:
        self.aside = NOTHING
        self._tally, self._clock, self._read = tally, clock, read
        self._here: dict[str, Spent] = {}  # by period: settled in this process
        self._elsewhere: dict[str, Spent] = {}
        self._recalling: asyncio.Task[None] | None = None
        self.recalled = read is None

    @property
    def today(self) -> str:
        """The UTC day that it is."""
        return self._clock.now().date().isoformat()

    @property
    def tomorrow(self) -> str:
        """When the next day begins."""
        return f"{(self._clock.now().date() + timedelta(days=1)).isoformat()} 00:00 UTC"

    def spent(self, budget: Budget) -> Spent:
        """What is spent in the budget's period, and what may be by requests on their way."""
        period = LIFE if budget.per == "life" else self.today
        return self._here.get(period, NOTHING) + self._elsewhere.get(period, NOTHING) + self.aside

    def count(self, amount: Spent) -> None:
        """Take note of what a request used."""
        today = self.today
        self._here = {period: self._here.get(period, NOTHING) + amount for period in (LIFE, today)}
        self._tally.count(today, amount)

    def mark(self) -> dict[str, Spent]:
        """Remember what is settled here, before the tally is saved."""
        return self._here

    def learn(self, total: Tally, mark: dict[str, Spent]) -> None:
        """Take note of what all processes together had spent, which includes what was settled here at `mark`."""
        self._elsewhere = {period: amount - mark.get(period, NOTHING) for period, amount in total.spent.items()}

    async def recall(self) -> None:
        """Wait until storage was read, at the first request only. Many first requests read once."""
        if self._recalling is None:
            self._recalling = asyncio.ensure_future(self._recall())
        try:
            await asyncio.shield(self._recalling)
        finally:
            self.recalled = self._recalling.done()

    async def _recall(self) -> None:
        assert self._read is not None
        try:
            async with asyncio.timeout(RECALL_TIMEOUT):
                self.learn(await self._read(), {})
        except Exception as error:  # noqa: BLE001  # a user's storage may raise anything; the next save tells
            logger.warning("what a budget has spent cannot be read now: %s", str(error) or "storage is too slow")


@dataclass(frozen=True, slots=True)
class Allowance:
    """The budgets of one owner, and the account that they look at."""

    whose: str
    budgets: tuple[Budget, ...]
    account: Account


class Purse:
    """All that the requests of one function must keep to: its own budgets and those of its Tanuki."""

    def __init__(self, function: str, allowances: tuple[Allowance, ...]) -> None:
        self._function, self._allowances = function, allowances
        self._priced = any(budget.usd is not None for each in allowances for budget in each.budgets)
        self._answers = self._answer_tokens = 0

    def hold(self, model: Model, size: int, room: int | None, progress: Progress) -> Held:
        """Set aside what a request with `size` tokens of input may cost, for as long as the context lasts.

        `room` is the limit of its answer in tokens; without one the answer is taken to be as long as this function's
        mean so far. Entering raises BudgetExceededError.
        """
        return Held(
            self, model, Usage(requests=1, input_tokens=size, output_tokens=self._answer(model, room)), progress
        )

    def _answer(self, model: Model, room: int | None) -> int:
        if room is None:
            room = -(-self._answer_tokens // self._answers) if self._answers else ANSWER_RESERVE
        return min(room, model.max_output or room)

    async def recall(self) -> None:
        """Learn what was spent before."""
        for each in self._allowances:
            if not each.account.recalled:
                await each.account.recall()

    def amount(self, model: Model, usage: Usage) -> Spent:
        """Say what `usage` costs. SettingsError where that is unknown and a budget is in dollars."""
        cost = model.cost(usage)
        if cost is None and self._priced:
            raise SettingsError(
                f"{self._function}() has a budget in usd, but the price of {str(model)!r} is unknown, not zero: "
                f"name the model as Model(provider={model.provider!r}, name={model.name!r}, price_input=…, "
                "price_output=…), in US dollars per million tokens"
            )
        return Spent(cost or 0.0, usage.input_tokens + usage.output_tokens, usage.requests)

    def set_aside(self, amount: Spent) -> None:
        """Take `amount` from every account, or from none and raise BudgetExceededError."""
        for each in self._allowances:
            for budget, what, limit in _limits(each.budgets):
                spent, needed = getattr(each.account.spent(budget), what), getattr(amount, what)
                if spent + needed > limit + 1e-12:
                    resets = each.account.tomorrow if budget.per == "day" else None
                    raise BudgetExceededError(self._function, each.whose, what, limit, spent, needed, resets)
        for each in self._allowances:
            each.account.aside += amount

    def settle(self, amount: Spent, used: Spent | None) -> None:
        """Give back what was set aside, and count what was used instead."""
        for each in self._allowances:
            each.account.aside -= amount
            if used is not None:
                each.account.count(used)

    def answered(self, usage: Usage) -> None:
        """Learn how long answers are."""
        self._answers += 1
        self._answer_tokens += usage.output_tokens

    def left(self) -> dict[str, float]:
        """What may still be spent, by what is limited and how long: `{"usd per day": 3.2}`."""
        left: dict[str, float] = {}
        for each in self._allowances:
            for budget, what, limit in _limits(each.budgets):
                rest = max(0.0, limit - getattr(each.account.spent(budget), what))
                key = f"{what} per {budget.per}"
                left[key] = min(rest, left.get(key, rest))
        return left


class Held:
    """One request's share of its budgets. Set `used` when its answer has come.

    A request that fails costs nothing. One that is cancelled on its way costs its input, which the provider has read.
    """

    __slots__ = ("_amount", "_expected", "_model", "_progress", "_purse", "used")

    def __init__(self, purse: Purse, model: Model, expected: Usage, progress: Progress) -> None:
        self._purse, self._model, self._expected, self._progress = purse, model, expected, progress
        self._amount = NOTHING
        self.used: Usage | None = None

    async def __aenter__(self) -> Self:
        """Set aside what the request may cost. BudgetExceededError where that is too much."""
        await self._purse.recall()
        self._progress.sent_at = None
        amount = self._purse.amount(self._model, self._expected)
        self._purse.set_aside(amount)
        self._amount = amount
        return self

    async def __aexit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        """Settle."""
        used = self.used
        if used is not None:
            if used.input_tokens + used.output_tokens == 0:  # the server does not count: unknown is not zero
                used = self._expected
            self._purse.answered(used)
        elif kind is not None and issubclass(kind, asyncio.CancelledError) and self._progress.sent_at is not None:
            used = Usage(requests=1, input_tokens=self._expected.input_tokens)
        self._purse.settle(self._amount, None if used is None else self._purse.amount(self._model, used))


def _limits(budgets: tuple[Budget, ...]) -> Iterator[tuple[Budget, str, float]]:
    for budget in budgets:
        for what in ("usd", "tokens", "requests"):
            if (limit := getattr(budget, what)) is not None:
                yield budget, what, limit
