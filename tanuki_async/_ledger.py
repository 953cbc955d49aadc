"""What was counted here, for each function and for a whole Tanuki, and is added up in storage now and then."""

from __future__ import annotations

import functools
from collections.abc import Callable

from tanuki_async._budget import Account, Allowance, Purse
from tanuki_async._clock import Clock
from tanuki_async._codec.describe import FunctionSpec
from tanuki_async._settings import Options, Settings
from tanuki_async._tally import Tally
from tanuki_async.abc import Storage

__all__ = ["Ledger", "read_tally"]

OWN_TALLY = "tanuki/tally"
"""Where storage keeps what a Tanuki's own budgets count."""


class Ledger:
    """Tallies by their place in storage, and accounts of those that have a budget. `begin` is called at the first."""

    def __init__(self, storage: Storage, settings: Settings, *, clock: Clock, begin: Callable[[], None]) -> None:
        self._storage, self._budget, self._clock, self._begin = storage, settings.budget, clock, begin
        self._tallies: dict[str, Tally] = {}  # what was counted here and not yet saved
        self._accounts: dict[str, Account] = {}

    def tally(self, spec: FunctionSpec, options: Options) -> Tally:
        """Return where the calls of a function are counted; decorating it twice counts together."""
        if options.ignore_data_storage:
            return Tally()
        return self._tallies.setdefault(tally_key(spec.hash, options.environment_id), Tally())

    def purse(self, spec: FunctionSpec, options: Options, tally: Tally) -> Purse | None:
        """Return what the requests of a function must keep to; None where it has no budget and the Tanuki none."""
        allowances: list[Allowance] = []
        if options.budget:
            if options.ignore_data_storage:
                account = Account(tally, clock=self._clock)
            else:
                account = self._account(tally_key(spec.hash, options.environment_id), tally)
            allowances.append(Allowance(f"{spec.name}()", options.budget, account))
        if self._budget:
            ours = self._tallies.setdefault(OWN_TALLY, Tally())
            allowances.append(Allowance("this Tanuki", self._budget, self._account(OWN_TALLY, ours)))
        return Purse(spec.name, tuple(allowances)) if allowances else None

    def _account(self, key: str, tally: Tally) -> Account:
        if key not in self._accounts:
            read = functools.partial(_read_tally, self._storage, key)
            self._accounts[key] = Account(tally, clock=self._clock, read=read)
            self._begin()
        return self._accounts[key]

    async def total(self, spec: FunctionSpec, options: Options) -> Tally:
        """Return what all processes together have counted for a function."""
        await self.save()
        return await read_tally(self._storage, spec.hash, options.environment_id)

    async def save(self) -> None:
        """Add up in storage what was counted here since the last time."""
        for key, tally in list(self._tallies.items()):
            if tally:
                account = self._accounts.get(key)
                mark = account.mark() if account else {}
                counted = tally.take()
                try:
                    total = await _add_tally(self._storage, key, counted)
                except BaseException:
                    tally.add(counted)
                    raise
                if account:
                    account.learn(total, mark)


def tally_key(function_hash: str, environment_id: int) -> str:
    """Where storage keeps a function's tally."""
    return f"{function_hash}/tally-{environment_id}"


async def read_tally(storage: Storage, function_hash: str, environment_id: int) -> Tally:
    """Read a function's tally; an empty one where none was kept yet."""
    return await _read_tally(storage, tally_key(function_hash, environment_id))


async def _read_tally(storage: Storage, key: str) -> Tally:
    there = await storage.get(key)
    return Tally.from_json(there.value) if there else Tally()


async def _add_tally(storage: Storage, key: str, counted: Tally) -> Tally:
    while True:
        there = await storage.get(key)
        total = Tally.from_json(there.value) if there else Tally()
        total.add(counted)
        if await storage.put(key, total.to_json(), version=there.version if there else None) is not None:
            return total
