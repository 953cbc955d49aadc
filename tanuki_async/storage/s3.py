"""Examples kept in a bucket of S3, or of a server that speaks as it does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._errors import StorageError
from tanuki_async.abc import Appended, Finding, Lease, Storage, Versioned
from tanuki_async.storage._aside import Aside
from tanuki_async.storage._names import check
from tanuki_async.storage._s3_bucket import Bucket
from tanuki_async.storage._s3_log import Log, Reading
from tanuki_async.storage._s3_mending import findings
from tanuki_async.storage._s3_place import Place
from tanuki_async.storage._s3_rewriting import Change
from tanuki_async.storage._s3_segments import EMPTY
from tanuki_async.storage._s3_values import Values, check_conditions, check_layout

__all__ = ["S3Storage"]

_HELD = 128  # names, each with its filter
_BATCH = 1 << 20
_MERGING_SECONDS = 300.0
T = TypeVar("T")
_forsaken: list[object] = []
logger = logging.getLogger("tanuki_async.storage")


class S3Storage(Storage):
    """Keeps lines in immutable objects, and values in objects that are replaced only on conditions.

    `url` is `s3://bucket/prefix`, with `?endpoint=…`, `region`, `profile`, `sse` (`AES256`, `aws:kms`), `kms_key`. Keys
    come from the usual AWS chain; `session`, of aioboto3, replaces it. Many processes may share one place if its server
    honours conditional writes, which is tried when it is opened; `writers=single` makes do without, for one process.

    A request that fails in passing is tried again for 30 s. The AWS client has a thread with an event loop of its own.
    What is taken back or removed is deleted for good: in a bucket that keeps versions from these too, for which the key
    needs `s3:ListBucketVersions` and `s3:DeleteObjectVersion`. Replicas, backups and object locks are not ours to undo.
    """

    patience = 5.0

    def __init__(self, url: str, *, session: Any = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.place = Place.from_url(url)
        self.address = self.place.address
        self._session, self._clock = session, clock
        self._aside = Aside("tanuki_async-s3")
        self._owner = ""
        self._ready: _Ready | None = None

    def __repr__(self) -> str:
        return f"S3Storage({str(self.place)!r})"

    async def open(self) -> None:
        await self._do(_nothing)

    async def aclose(self) -> None:
        if self._aside.is_new():
            return
        ready, self._ready = self._ready, None
        try:
            if ready is not None:
                await self._aside.run(ready.aclose())
        finally:
            await self._aside.stop()

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        check(name, "name", lines)
        return await self._do(lambda ready: ready.append(name, list(lines), latest))

    async def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        check(name, "name")
        reading = Reading(start)
        while lines := await self._do(lambda ready: ready.log(name).read(reading)):
            step = max(1, len(lines) * _BATCH // max(1, sum(map(len, lines))))
            for at in range(0, len(lines), step):
                yield lines[at : at + step]

    async def count(self, name: str) -> int:
        check(name, "name")
        return await self._do(lambda ready: ready.log(name).count())

    async def names(self, prefix: str = "") -> list[str]:
        return await self._do(lambda ready: ready.listed("heads/", prefix, larger=EMPTY))

    async def keys(self, prefix: str = "") -> list[str]:
        return await self._do(lambda ready: ready.listed("values/", prefix))

    async def get(self, key: str) -> Versioned | None:
        check(key, "key")
        return await self._do(lambda ready: ready.values.get(key))

    async def put(self, key: str, value: bytes, *, version: str | None) -> str | None:
        check(key, "key")
        return await self._do(lambda ready: ready.values.put(key, bytes(value), version))

    async def claim(self, key: str, owner: str, *, seconds: float) -> Lease | None:
        check(key, "key")
        return await self._do(lambda ready: ready.values.claim(key, owner, seconds))

    async def release(self, lease: Lease) -> None:
        check(lease.key, "key")
        await self._do(lambda ready: ready.values.release(lease))

    async def rewrite(self, name: str, change: Callable[[list[bytes]], list[bytes]]) -> int:
        """Leave out what `change` leaves out, all at once, and delete it for good.

        Where two processes do this to one name at once, one of them fails, having changed nothing. Who is just reading
        `name`, and comes to lines that were taken back, is told by a StorageError to read it again.
        """
        check(name, "name")
        return await self._do(lambda ready: ready.rewrite(name, change))

    async def remove(self, key: str) -> None:
        check(key, "key")
        await self._do(lambda ready: ready.values.remove(key))

    async def rebuild(self, name: str) -> int:
        check(name, "name")
        return await self._do(lambda ready: ready.log(name).rebuild())

    async def inspect(self, *, repair: bool = False) -> list[Finding]:
        names = await self.names()
        return await self._do(lambda ready: ready.inspect(names, repair))

    async def merge(self, name: str) -> None:
        """Put large objects in the place of many small ones, and clear away what killed writers left.

        Happens by itself as the small ones become many.
        """
        check(name, "name")
        await self._do(lambda ready: ready.merge(name))

    async def _do(self, work: Callable[[_Ready], Coroutine[Any, Any, T]]) -> T:
        """Do something with the bucket, on the loop aside. Opens where nobody did, and anew after a fork."""
        if self._aside.is_new():
            _forsaken.append(self._ready)  # after a fork: closing its connections would close the parent's
            self._ready, self._owner, self._opening = None, f"{os.getpid()}-{secrets.token_hex(4)}", None

        async def do() -> T:
            return await work(self._ready or await self._open())

        try:
            return await self._aside.run(do())
        except RuntimeError as error:  # the interpreter is ending
            raise StorageError(f"{self!r} cannot be used any more: {error}") from error

    async def _open(self) -> _Ready:
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._ready is None:
                bucket = Bucket(self.place, self._clock, self._session)
                try:
                    await bucket.connect()
                    await check_layout(bucket)
                    await check_conditions(bucket)
                except BaseException:
                    await bucket.aclose()
                    raise
                self._ready = _Ready(bucket, self._clock, self._owner)
            return self._ready

    _opening: asyncio.Lock | None = None


async def _nothing(ready: _Ready) -> None:
    """Opening was all."""


class _Ready:
    """An opened place. Belongs to the loop aside."""

    def __init__(self, bucket: Bucket, clock: Clock, owner: str) -> None:
        self._bucket, self._clock, self._owner = bucket, clock, owner
        self.values = Values(bucket, clock)
        self._logs: dict[str, Log] = {}
        self._merging: dict[str, asyncio.Task[None]] = {}

    def log(self, name: str) -> Log:
        """Return what is known of a name. Only the names used last are held."""
        log = self._logs.pop(name, None) or Log(self._bucket, name)
        self._logs[name] = log  # the dict's order is that of last use
        if len(self._logs) > _HELD:
            self._logs.pop(next(iter(self._logs)))
        return log

    async def append(self, name: str, lines: list[bytes], latest: bool) -> Appended:
        log = self.log(name)
        appended = await log.append(lines, latest=latest)
        if (log.wants_merging or log.wants_saving) and name not in self._merging:
            self._merging[name] = task = asyncio.create_task(self._tidy(name, log), name="tanuki_async: merge in S3")
            task.add_done_callback(lambda _: self._merging.pop(name, None))
        return appended

    async def _tidy(self, name: str, log: Log) -> None:
        """Merge beside the next appends, not before them."""
        try:
            if log.wants_saving:
                await log.save()
            if log.wants_merging:
                await self.merge(name)
        except StorageError as error:
            logger.warning("segments of %s could not be merged now: %s", name, error)

    async def merge(self, name: str) -> None:
        lease = await self.values.claim(f"{name}.merge", self._owner, _MERGING_SECONDS)
        if lease is None:
            return  # another process does it; the head's version would keep both from doing harm
        try:
            log = self.log(name)
            await log.refresh()
            await log.merge()
            await log.objects.sweep(self._clock.now().timestamp())
        finally:
            await self.values.release(lease)

    async def rewrite(self, name: str, change: Change) -> int:
        return await self.log(name).rewrite(change, self._clock.now().timestamp())

    async def inspect(self, names: Sequence[str], repair: bool) -> list[Finding]:
        return [each for name in names for each in await findings(self.log(name), repair=repair)]

    async def listed(self, tree: str, prefix: str, *, larger: int = -1) -> list[str]:
        listed = await self._bucket.list(tree + prefix)
        return sorted(each.key.removeprefix(tree).removesuffix(".json") for each in listed if each.size > larger)

    async def aclose(self) -> None:
        for task in list(self._merging.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        try:
            for log in self._logs.values():
                await log.save()
        finally:
            await self._bucket.aclose()
