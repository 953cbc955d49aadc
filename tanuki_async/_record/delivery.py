"""Lines are handed to storage: whatever it raises is a StorageError, and what it refuses for ever is set aside."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tanuki_async._errors import StorageError
from tanuki_async.abc import Appended, Storage

__all__ = ["Delivery", "RecorderStatistics"]

_SIFT_EVERY = 5
"""After so many failures of one name, lines are tried in halves."""
_DOWN = 16
"""So many failures in a row mean that storage is down, not that it refuses these lines."""
logger = logging.getLogger("tanuki_async.record")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderStatistics:
    """Lines, since the recorder was made. `queued` waits now; `spilled` waits in a local journal; `failed` is lost."""

    queued: int
    written: int
    deduplicated: int
    spilled: int
    failed: int


@dataclass(slots=True)
class _Trouble:
    """A name that fails: how often, and how much had gone well elsewhere when it last did."""

    attempts: int
    successes: int


class Delivery:
    """Writes batches and counts what became of them."""

    def __init__(
        self,
        storage: Storage,
        on_written: Callable[[str, int], None] | None,
        set_aside: Callable[[str, bytes, StorageError], Awaitable[str]],
    ) -> None:
        self._storage, self._on_written, self._set_aside = storage, on_written, set_aside
        self.written = self.deduplicated = self.failed = 0
        self._successes = 0
        self._troubles: dict[str, _Trouble] = {}

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        """Write lines. Raises StorageError."""
        try:
            appended = await self._storage.append(name, lines, latest=latest)
        except StorageError:
            raise
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise StorageError(f"{self._storage!r} was closed meanwhile") from error  # nobody cancelled this one
        except Exception as error:  # a storage of the user's may raise anything; it must not end the recorder
            raise StorageError(f"{self._storage!r} failed in its own way: {error!r}") from error
        self._successes += appended.written > 0  # a full one still knows what it has
        self._count(name, appended)
        return appended

    async def deliver(self, name: str, lines: Sequence[bytes]) -> None:
        """Write lines, all but those that storage refuses while it takes others. Raises StorageError."""
        try:
            await self.append(name, lines)
        except StorageError:
            trouble = self._troubles.setdefault(name, _Trouble(0, self._successes))
            trouble.attempts += 1
            others_go, trouble.successes = self._successes > trouble.successes, self._successes
            if trouble.attempts % _SIFT_EVERY or not await self._sift(name, lines, others_go=others_go):
                raise
        self._troubles.pop(name, None)

    async def _sift(self, name: str, lines: Sequence[bytes], *, others_go: bool) -> bool:
        """Write in ever smaller parts, and set aside what is refused. False where storage may be down, or full.

        A line is refused if storage took another after it.
        """
        refused: list[tuple[bytes, StorageError]] = []
        doubtful: list[tuple[bytes, StorageError]] = []
        parts: list[Sequence[bytes]] = [lines]
        failures = 0
        while parts:
            part = parts.pop()
            try:
                if (await self.append(name, part)).written:
                    refused, doubtful = [*refused, *doubtful], []
                failures = 0
            except StorageError as error:
                failures += 1
                if failures > _DOWN:
                    return False
                if len(part) == 1:
                    doubtful.append((part[0], error))
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
        if doubtful and not others_go:
            return False
        for line, why in [*refused, *doubtful]:
            await self._give_up_on(name, line, why)
        return True

    async def _give_up_on(self, name: str, line: bytes, error: StorageError) -> None:
        self.failed += 1
        try:
            where = await self._set_aside(name, line, error)
        except StorageError as problem:
            where = f"lost, as {problem}"
        logger.error("storage takes other examples, but refuses one of %s (%s); it is %s", name, error, where)

    def _count(self, name: str, appended: Appended) -> None:
        self.written += appended.written
        self.deduplicated += appended.duplicates
        if appended.written and self._on_written is not None:
            try:
                self._on_written(name, appended.written)
            except Exception:  # whoever listens may fail; what is written is written
                logger.exception("a listener failed after %d examples of %s were written", appended.written, name)
