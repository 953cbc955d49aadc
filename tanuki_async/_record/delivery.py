"""Lines are handed to storage: whatever it raises is a StorageError, and what it refuses for good is set aside."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tanuki_async._clock import Clock
from tanuki_async._errors import StorageError
from tanuki_async._record.trouble import Troubles
from tanuki_async.abc import Appended, Storage

__all__ = ["Delivered", "Delivery", "RecorderStatistics"]

T = TypeVar("T")
_AGAIN, _FAILURES = 3, 40
"""So often a line is tried again before those behind it; so many failures there mean that storage is down after all."""
logger = logging.getLogger("tanuki_async.record")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderStatistics:
    """Lines, since the recorder was made. `queued` waits now; `spilled` waits in a local journal; `failed` is lost,
    or set aside as refused.

    What was remembered, kept and taken over from processes that died is in one of these, and in one only.
    What was written, but whose acknowledgement was lost, is found there by the next try: it is `deduplicated`.
    """

    queued: int
    written: int
    deduplicated: int
    spilled: int
    failed: int


@dataclass(slots=True)
class Delivered:
    """What became of lines: those that are left wait, in order, because of `error`."""

    left: list[bytes]
    written: int = 0
    duplicates: int = 0
    refused: int = 0
    error: StorageError | None = None


class Delivery:
    """Writes lines of one name at a time, and counts what became of those that no longer wait anywhere."""

    def __init__(
        self,
        storage: Storage,
        on_written: Callable[[str, int], None] | None,
        set_aside: Callable[[str, bytes, StorageError], Awaitable[str]],
        clock: Clock,
    ) -> None:
        self._storage, self._on_written, self._set_aside = storage, on_written, set_aside
        self.troubles = Troubles(clock)
        self.written = self.deduplicated = self.failed = 0

    async def keep(self, name: str, lines: Sequence[bytes], *, latest: bool) -> Appended:
        """Write lines that wait nowhere. Raises StorageError."""
        appended = await self._append(name, lines, latest=latest)
        self.written += appended.written
        self.deduplicated += appended.duplicates
        return appended

    async def deliver(self, name: str, lines: Sequence[bytes]) -> Delivered:
        """Write lines, in order, as far as storage takes them. Whoever keeps them counts what is returned."""
        delivered = Delivered(list(lines))
        while delivered.left and await self._go_on(name, delivered):
            pass
        return delivered

    def count(self, delivered: Delivered) -> None:
        """Add to the numbers what no longer waits."""
        self.written += delivered.written
        self.deduplicated += delivered.duplicates
        self.failed += delivered.refused

    async def _go_on(self, name: str, delivered: Delivered) -> bool:
        """Write the first of what is left, or find out which line is the reason. False where the name is to wait."""
        left = delivered.left
        size = self.troubles.size(name, len(left))
        if (error := await self._write(name, delivered, 0, size)) is None:
            self.troubles.succeeded(name, size)
            return True
        if error.down:  # whatever else is tried might be written all the same, ahead of this
            self.troubles.stalled(name, error)
            delivered.error = error
            return False
        verdict = self.troubles.failed(name, size, error)
        if verdict == "refused" and await self._give_up_on(name, left[0], error):
            self.troubles.gave_up(name)
            delivered.refused += 1
            del left[0]
            return True
        if verdict in ("beside", "refused") and await self._write_beside(name, delivered):
            self.troubles.succeeded(name, 1)
            return True
        delivered.error = error
        return verdict == "narrow"

    async def _write_beside(self, name: str, delivered: Delivered) -> bool:
        """Write what is behind the first line, if storage goes on refusing that one while it takes one of the others.

        Returns whether it took the first after all. That is tried again once storage is known to be up, as an outage
        in which storage hangs mostly ends between an attempt and its failure. Where writing alone hung or failed, and
        that ends between the attempts here, another line comes before the first.
        """
        others = range(1, len(delivered.left))
        tried = sorted({*others[:3], others[self.troubles.turn(name) % len(others)]}) if others else []
        if not tried or not await self._answers(name):
            return False
        if await self._write(name, delivered, 0, 1) is None:
            return True
        for at in tried:  # several, as others may be refused too
            error = await self._write(name, delivered, at, 1)
            if error is not None and error.down:
                break
            if error is None:
                for _ in range(_AGAIN):
                    if await self._write(name, delivered, 0, 1) is None:
                        return True
                await self._sift(name, delivered)
                break
        return False

    async def _answers(self, name: str) -> bool:
        """Tell whether storage is up, as far as can be seen without writing."""
        try:
            await self._ask(lambda: self._storage.count(name))
        except StorageError:
            return False
        return True

    async def _sift(self, name: str, delivered: Delivered) -> None:
        """Write what is behind the first line, in ever smaller parts, but single lines that are refused too."""
        at, failures = 1, 0
        sizes = [len(delivered.left) - 1] if len(delivered.left) > 1 else []
        while sizes and failures < _FAILURES:
            size = sizes.pop()
            if (error := await self._write(name, delivered, at, size)) is None:
                continue  # what followed is at the same place now
            if error.down:
                return
            failures += 1
            if size > 1:
                sizes += [size - size // 2, size // 2]
            else:
                at += 1

    async def _write(self, name: str, delivered: Delivered, start: int, size: int) -> StorageError | None:
        end = start + size
        try:
            appended = await self._append(name, delivered.left[start:end])
        except StorageError as error:
            return error
        del delivered.left[start:end]
        delivered.written += appended.written
        delivered.duplicates += size - appended.written
        return None

    async def _append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        appended = await self._ask(lambda: self._storage.append(name, lines, latest=latest))
        if appended.written:  # a full one still knows what it has
            self.troubles.took()
            self._tell(name, appended.written)
        return appended

    async def _ask(self, asking: Callable[[], Awaitable[T]]) -> T:
        """Wait for storage; whatever it raises is a StorageError."""
        try:
            return await asking()
        except StorageError:
            raise
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise StorageError(f"{self._storage!r} was closed meanwhile") from error  # nobody cancelled this one
        except Exception as error:  # a storage of the user's may raise anything; it must not end the recorder
            raise StorageError(f"{self._storage!r} failed in its own way: {error!r}") from error

    async def _give_up_on(self, name: str, line: bytes, error: StorageError) -> bool:
        try:
            where = await self._set_aside(name, line, error)
        except StorageError as problem:
            logger.warning("storage refuses an example of %s (%s), which cannot be set aside: %s", name, error, problem)
            return False
        logger.error("storage takes other examples, but refuses one of %s (%s); it is %s", name, error, where)
        return True

    def _tell(self, name: str, written: int) -> None:
        if self._on_written is not None:
            try:
                self._on_written(name, written)
            except Exception:  # whoever listens may fail; what is written is written
                logger.exception("a listener failed after %d examples of %s were written", written, name)
