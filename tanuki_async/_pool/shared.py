"""Limits that many processes share through Redis: each holds a share of what may be sent, and renews it.

A share is asked for in rounds, one script each (`shares`), and may be used until it runs out. What was not used goes
back; what a process that died held counts as sent, and its part of the future goes to the others. While Redis does not
answer, each process keeps to its part: the limit by the number of processes that were last seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import uuid
from collections import deque
from urllib.parse import quote

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._errors import SettingsError, StorageError
from tanuki_async._pool.shares import DEAL
from tanuki_async._pool.windows import MINUTE, SLICES, Slice, Spent, Window
from tanuki_async._records import Limits
from tanuki_async.storage._redis_client import Clients
from tanuki_async.storage._redis_place import RedisPlace

__all__ = ["SharedBudget", "SharedLimits"]

_SAME = 1e-6
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
        for budget in budgets:
            await budget.aclose()
        await self._clients.aclose()


class Share:
    """What this process may send of one kind of unit, and what it sent."""

    def __init__(self, limit: float, period: float) -> None:
        self.window = Window(limit, period=period)  # what this process sent, for the time when it is alone
        self.limit = self.window.limit
        self.left = self.unreported = self.least = self._wanted_before = 0.0
        self._refunds: dict[int, float] = {}
        self._reports: deque[tuple[float, int]] = deque(maxlen=2 * SLICES)

    def spend(self, now: float, units: float) -> Slice:
        """Count units as sent now."""
        self.left -= units
        self.unreported += units
        return self.window.spend(now, units)

    def refund(self, of: Slice, units: float) -> None:
        """Count units of a slice as never sent: here if nobody was told of them yet, else where they were counted."""
        units = min(units, of.units)
        self.window.refund(of, units)
        if not self._reports or of.last > self._reports[-1][0]:
            self.unreported -= units
            self.left += units
            return
        slot = next((slot for told, slot in self._reports if told >= of.last))
        self._refunds[slot] = self._refunds.get(slot, 0.0) + units

    def lacks(self, units: float) -> bool:
        """Tell whether so many units cannot be sent now, and remember that they are wanted."""
        units = min(units, self.limit)
        if self.left >= units - _SAME:
            return False
        self.least = max(self.least, units) if self.least else units
        return True

    def ask(self) -> dict[str, object]:
        """Say what was sent and what is wanted next: much where something lacked, else twice what was sent lately."""
        lately = max(2 * self.unreported, self._wanted_before)  # what came just now may not have been taken yet
        self._wanted_before = self.least
        hold = self.limit if self.least else math.ceil(lately)
        least, self.least = math.ceil(self.least) or 1, 0.0
        self.left = min(max(self.left, 0.0), hold)
        if self.left < min(least, hold):
            self.left = 0.0  # of no use alone: another may complete it
        refunds = {str(slot): units for slot, units in self._refunds.items()}
        asked: dict[str, object] = {
            "limit": self.limit,
            "spent": self.unreported,
            "kept": self.left,
            "wanted": hold - self.left,
            "least": min(least, self.limit),
            "refunds": refunds,
        }
        self.unreported, self._refunds = 0.0, {}
        return asked

    def rest(self) -> None:
        """Hold nothing, and want nothing."""
        self.left = self.least = self._wanted_before = 0.0

    def told(self, at: float, slot: int, grant: float) -> None:
        """Take what a round gave."""
        self._reports.append((at, slot))
        self.left += grant

    def unsaid(self, asked: dict[str, object]) -> None:
        """Take back what a round could not tell. What is held stays good until it runs out."""
        assert isinstance(asked["spent"], float)
        self.unreported += asked["spent"]


_NOTHING: dict[str, object] = {"limit": 0, "spent": 0, "kept": 0, "wanted": 0, "least": 0, "refunds": {}}


class SharedBudget:
    """A `Budget` of which every process has a share, according to what each wants to send."""

    def __init__(self, name: str, limits: Limits, clients: Clients, clock: Clock, period: float = MINUTE) -> None:
        asked, size = limits.requests_per_minute, limits.tokens_per_minute
        self.counts_tokens = size is not None
        self.members = 1
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
        self._good_until = 0.0
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
        for share in self._shares:
            share.rest()
        with contextlib.suppress(StorageError, TimeoutError):  # then it runs out by itself
            await self._round()

    def wait(self, tokens: float) -> float:
        now = self._clock.monotonic()
        if self.alone:
            waits = self._requests.window.wait(now, 1) if self._requests else 0.0
            return max(waits, self._tokens.window.wait(now, tokens)) if self._tokens else waits
        return _SOON if self._lacks(now, tokens) else 0.0

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
        if now > self._good_until:
            for share in self._shares:
                share.left = min(share.left, 0.0)
        requests = self._requests is not None and self._requests.lacks(1)
        lacks = (self._tokens is not None and self._tokens.lacks(tokens)) or requests
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
        try:
            busy = await self._round()
        except (StorageError, TimeoutError) as error:
            patient = isinstance(error, TimeoutError) and self._clock.monotonic() < self._patient_until
            if not patient and self._clock.monotonic() >= self._good_until:
                self._go_on_alone(error)
            return True
        if self.alone:
            self.alone = False
            logger.info("pool: limits of %s are shared again, among %d processes", self._name, self.members)
        return busy

    async def _round(self) -> bool:
        """Tell what was sent, and take what is granted. True where more is wanted or something was sent."""
        began = self._clock.monotonic()
        asked = [share.ask() if share else _NOTHING for share in (self._requests, self._tokens)]
        lasting = self._lasting
        words = self._id, self._period * 1000, 1500 * lasting, json.dumps(asked), 1000 * self._interval
        try:
            async with asyncio.timeout(lasting / 2 if self._good_until else _PATIENCE):
                told = json.loads(await self._clients.run(DEAL, self._keys, *words, wait=False))
        except BaseException:
            for share, ask in zip((self._requests, self._tokens), asked, strict=True):
                if share:
                    share.unsaid(ask)
            raise
        self.members, self._good_until = told["members"], began + lasting
        for share, grant in zip((self._requests, self._tokens), told["grants"], strict=True):
            if share:
                share.told(began, told["slot"], grant)
                share.window.limit = share.limit
        return any(ask["wanted"] or ask["spent"] or ask["kept"] for ask in asked)

    def _go_on_alone(self, error: Exception) -> None:
        for share in self._shares:
            share.window.limit = max(share.limit / self.members, 1.0)
        if not self.alone:
            self.alone = True
            said = str(error) or "no answer in time"
            logger.warning(
                "pool: limits of %s are not shared now, this process keeps to 1/%d of them: %s",
                self._name,
                self.members,
                said,
            )
