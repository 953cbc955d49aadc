"""Limits that many processes share through Redis: each holds a share of what may be sent, and renews it.

A share is asked for in rounds, one script each (`shares`), and may be used until it runs out. What was sent in the last
period and what all hold is never more than the limit. Far from the limit each holds a reserve, so that calls wait for
no round; near it there is none. What a process that died held counts as sent, and its part goes to the others.

Where Redis does not answer until the share runs out, a process goes on alone. For one period it sends no more than it
sent in the last one and still held: over all processes that is at most the limit, however unequal they are. Then who
had more keeps to an equal part of the limit, by the number of processes last seen; after another period, who had less
may send as much. When Redis is back, each tells what it sent and still holds, and nothing is granted until all have.
So the limit holds throughout, but for these:

- a process that alone loses its way to Redis is taken for dead: what it sends comes on top, and is at most its part;
- one that starts while Redis is away knows of no others: it takes the limit by `?members=`, or else all of it;
- where the server's clock is set ahead, or another's that takes over is, what was sent is forgotten earlier by as much;
- a request larger than an equal part goes alone in its period: each process sends one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from typing import Any
from urllib.parse import quote

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._errors import SettingsError, StorageError
from tanuki_async._pool.share import Share
from tanuki_async._pool.shares import DEAL
from tanuki_async._pool.windows import MINUTE, SLICES, Spent
from tanuki_async._records import Limits
from tanuki_async.storage._redis_client import Clients
from tanuki_async.storage._redis_place import RedisPlace

__all__ = ["SharedBudget", "SharedLimits"]

_SHORTEST = 0.025  # seconds between two rounds
_CROWD = 20  # processes; where there are more, each asks less often
_ROUNDS = 8  # for which a share is good
_QUIET = 4  # rounds in one where nothing happens
_PATIENCE = 5.0  # seconds for the first round, before which nobody knows how many there are
_SOON = 0.01  # seconds until somebody who waits looks again
logger = logging.getLogger("tanuki_async.pool")


class SharedLimits:
    """All limits that this process shares with others at one Redis, for one event loop."""

    def __init__(self, place: RedisPlace, *, clock: Clock = SYSTEM_CLOCK, period: float = MINUTE) -> None:
        self.place, self._clock, self._period = place, clock, period
        self._clients = Clients(place)
        self._budgets: list[SharedBudget] = []

    def budget(self, name: str, limits: Limits) -> SharedBudget | None:
        """Begin to share the limits of `name`; None where nothing is limited. SettingsError for less than one."""
        asked = [each for each in (limits.requests_per_minute, limits.tokens_per_minute) if each]
        if not asked:
            return None
        if min(asked) < 1:
            raise SettingsError(
                f"the limit of {min(asked):g} a minute for {name} cannot be shared, as it is less than one; allow one, "
                "or pass shared_limits=False and run one process"
            )
        budget = SharedBudget(name, limits, self._clients, self._clock, self._period)
        budget.start()
        self._budgets.append(budget)
        return budget

    async def aclose(self) -> None:
        """Give all shares back and close the connections. Safe to call twice."""
        budgets, self._budgets = self._budgets, []
        await asyncio.gather(*(budget.aclose() for budget in budgets))
        await self._clients.aclose()


_NOTHING = {"limit": 0, "sent": (), "refunds": (), "used": 0, "kept": 0, "wanted": 0, "least": 0}


class SharedBudget:
    """A `Budget` of which every process has a share, according to what each wants to send."""

    def __init__(self, name: str, limits: Limits, clients: Clients, clock: Clock, period: float = MINUTE) -> None:
        asked, size = limits.requests_per_minute, limits.tokens_per_minute
        self.counts_tokens = size is not None
        self.members = clients.place.members
        """How many processes share the limits, as far as is known."""
        self.alone = False
        """Whether Redis does not answer, so that this process keeps to its part."""
        self._name, self._limits, self._clients, self._clock = name, limits, clients, clock
        self._requests = Share(asked, period) if asked else None
        self._tokens = Share(size, period) if size else None
        self._shares = [share for share in (self._requests, self._tokens) if share]
        self._period = period
        self._id = uuid.uuid4().hex
        tag = f"{clients.place.prefix}:{{limits/{quote(name, safe='')}}}:"
        self._keys = [tag + what for what in ("members", "requests", "tokens")]
        self._wake = asyncio.Event()
        self._asked = True  # whether the next round is due anyway
        self._heard = False  # whether Redis ever answered
        self._number = self._since = 0  # of the last round, and of the last that Redis is known to have heard
        self._ahead: float | None = None  # of our clock, in milliseconds, the server's
        self._good_until = self._alone_since = 0.0
        self._patient_until = clock.monotonic() + _PATIENCE
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to renew the share, on the running loop."""
        self._task = asyncio.create_task(self._work(), name=f"tanuki_async: shared limits of {self._name}")

    async def aclose(self) -> None:
        """Give the share back."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait({task})
        self.alone = False
        for share in self._shares:
            share.rest()
        if not self._heard:
            return
        with contextlib.suppress(StorageError, TimeoutError):  # then it runs out by itself
            await self._round(self._patience)

    def wait(self, tokens: float) -> float:
        return _SOON if self._lacks(self._clock.monotonic(), tokens) else 0.0

    def spend_nowait(self, tokens: float) -> Spent | None:
        return None if self.wait(tokens) else self.spend(tokens)

    def spend(self, tokens: float) -> Spent:
        now = self._clock.monotonic()
        request = self._requests.spend(now, 1) if self._requests else None
        if self._tokens is None:
            return request, None, 0.0
        tokens = min(tokens, self._tokens.limit)
        return request, self._tokens.spend(now, tokens), tokens

    def settle(self, spent: Spent, tokens: float) -> None:
        _, of, guessed = spent
        if of is None or self._tokens is None:
            return
        if tokens < guessed:
            self._tokens.refund(of, guessed - tokens)
        elif tokens > guessed:
            self._tokens.spend(self._clock.monotonic(), tokens - guessed)

    def give_back(self, spent: Spent) -> None:
        request, of, guessed = spent
        if request is not None and self._requests is not None:
            self._requests.refund(request, 1)
        if of is not None and self._tokens is not None:
            self._tokens.refund(of, guessed)

    def limits(self) -> Limits:
        return self._limits

    def _lacks(self, now: float, tokens: float) -> bool:
        requests, size = self._requests, self._tokens
        if now > self._good_until and not self.alone:  # what is left may be another's by now
            for share, units in ((requests, 1), (size, tokens)):
                if share:
                    share.want(units)
            lacks = True
        else:
            lacks = requests is not None and requests.lacks(1)
            lacks = (size is not None and size.lacks(tokens)) or lacks
        if lacks and not self._asked:
            self._asked = True
            self._wake.set()
        return lacks

    @property
    def _interval(self) -> float:
        return max(self._period / SLICES, _SHORTEST) * max(1.0, self.members / _CROWD)

    @property
    def _lasting(self) -> float:
        return max(_ROUNDS * self._interval, 1.0)

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while not task.cancelling():  # Python 3.11's wait_for, which redis uses, loses one that comes with its answer
            busy = await self._try_round()
            self._asked = busy
            await asyncio.sleep(self._interval)
            if not busy:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval * (_QUIET - 1)):
                        await self._wake.wait()
            self._wake.clear()

    async def _try_round(self) -> bool:
        began, patience = self._clock.monotonic(), self._patience
        try:
            busy = await self._round(patience)
        except (StorageError, TimeoutError) as error:
            now = self._clock.monotonic()
            stalled = now - began > 2 * patience  # this process, and perhaps not Redis
            patient = not self._heard and isinstance(error, TimeoutError) and now < self._patient_until
            if not (stalled or patient or self.alone) and now >= self._good_until - self._interval:
                self._go_on_alone(now, error)
            return True
        if self.alone:
            self.alone = False
            logger.info("pool: limits of %s are shared again, among %d processes", self._name, self.members)
        return busy

    @property
    def _patience(self) -> float:
        """How long a round may take: when the share runs out, it should be known that there is no other."""
        if not self._heard:
            return _PATIENCE
        left = self._good_until - self._clock.monotonic()
        return min(max(left, self._lasting / _ROUNDS), self._lasting / 2)

    async def _round(self, patience: float) -> bool:
        """Tell what was sent, and take what is granted. True where more is wanted or something was sent."""
        async with asyncio.timeout(patience):
            while True:
                began, asked = self._clock.monotonic(), self._ask(patience)
                # no replica is waited for, as what a lost server knew of limits is told again
                told = json.loads(await self._clients.run(DEAL, self._keys, self._id, json.dumps(asked), wait=False))
                self._ahead = told["now"] - began * 1000
                if "grants" in told:
                    break
                self._since = min(self._since, told["number"])  # it lost what was told after that, or its clock is new
        self._since, self._heard = self._number, True
        self.members, self._good_until = told["members"], began + self._lasting
        for share, grant, hold in zip((self._requests, self._tokens), told["grants"], told["holds"], strict=True):
            if share:
                share.told(told["now"], grant, hold)
        return not told["settled"] or any(ask["wanted"] or ask["sent"] for ask in asked["kinds"])

    def _ask(self, patience: float) -> dict[str, Any]:
        now = self._clock.monotonic()
        if self.alone:
            self._hold_alone(now)
        elif now > self._good_until + self._interval:
            for share in self._shares:
                share.run_out()
        self._number += 1
        shares = (self._requests, self._tokens)
        return {
            "number": self._number,
            "since": self._since,
            "knew": self.members if self._heard else 0,
            "at": 0 if self._ahead is None else round(now * 1000 + self._ahead),
            "patience": 1000 * patience,
            "period": 1000 * self._period,
            "lasting": 1000 * self._lasting,
            "interval": 1000 * self._interval,
            "kinds": [share.ask(now, self._number, self._since) if share else _NOTHING for share in shares],
        }

    def _hold_alone(self, now: float) -> None:
        for share in self._shares:
            share.hold_alone(now, now - self._alone_since, share.limit / self.members)

    def _go_on_alone(self, now: float, error: Exception) -> None:
        self.alone, self._alone_since = True, now
        if not self._heard:
            for share in self._shares:
                share.begin_alone(share.limit / self.members)
        self._hold_alone(now)
        said = str(error) or "no answer in time"
        if self._heard:
            logger.warning(
                "pool: limits of %s are not shared now, this process keeps to its part, in the end 1/%d of them: %s",
                self._name,
                self.members,
                said,
            )
            return
        logger.warning(
            "pool: limits of %s cannot be shared, and how many processes do is not known: this one keeps to 1/%d of "
            "them. Start Redis, or tell how many there are at most with ?members= in its URL: %s",
            self._name,
            self.members,
            said,
        )
