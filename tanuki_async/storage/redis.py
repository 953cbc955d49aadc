"""Examples in Redis (or Valkey): for many machines at once. Needs the extra `redis`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from tanuki_async._clock import Clock
from tanuki_async._errors import StorageError, clip
from tanuki_async.abc import Appended, Lease, Storage, Versioned
from tanuki_async.storage._names import check
from tanuki_async.storage._redis_client import Clients
from tanuki_async.storage._redis_lines import Lines, batches
from tanuki_async.storage._redis_place import RedisPlace
from tanuki_async.storage._redis_rewrite import rewrite
from tanuki_async.storage._redis_scripts import CLAIM, LIST, PUT, RELEASE, REMOVE

__all__ = ["RedisStorage"]

LAYOUT = 1


class RedisStorage(Storage):
    """Keeps lines in lists and values in hashes of one Redis 6 or newer, of a Cluster, or behind Sentinels.

    `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://` with TLS, `redis://HOST:PORT?cluster=true` (a node of a Cluster),
    `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE`. `?prefix=` (default "tanuki") begins all keys. What was appended is
    acknowledged by the primary: it is as durable as that server's `appendonly` and `appendfsync` make it, and with
    `?wait=1` it is on one replica too, so that a failover does not lose it. Leases run by the server's clock, unless
    `clock` is given. May serve several event loops; each has its own connections.

    Sentinels that want a password of their own get `?sentinel_password=`, and `sentinel_username=` if need be. Lines
    that were rewritten stay for a minute under a key of their own, for those who are reading them, and are gone then.
    """

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self.place = RedisPlace.parse(url)
        self.address = f"{self.place} {self.place.prefix}"  # where lines wait on this machine while it is down
        self._clients = Clients(self.place)
        self._clock = clock
        self._listed: set[str] = set()  # names that are in the list of names

    def __repr__(self) -> str:
        return f"RedisStorage({str(self.place)!r}, prefix={self.place.prefix!r})"

    async def open(self) -> None:
        mark = f"{self.place.prefix}:format"
        await self._clients.command("open", "SET", mark, LAYOUT, "NX")
        layout = await self._clients.command("open", "GET", mark)
        if not layout.isdigit() or int(layout) > LAYOUT:
            raise StorageError(
                f"{self.place} has layout {clip(repr(layout), 60)}, this release reads up to {LAYOUT}: upgrade "
                "tanuki_async, or choose another ?prefix="
            )

    async def aclose(self) -> None:
        await self._clients.aclose()

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        check(name, "name", lines)
        written = 0
        try:
            for batch in batches(lines):
                await self._list(name)
                written += await self._append(name, batch, latest)
        except StorageError:
            self._listed.clear()  # after a failover the list of names may lack some
            raise
        return Appended(written, len(lines) - written)

    async def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        check(name, "name")
        lines = Lines(self._clients, name)
        async for page in lines.pages(start, *await lines.state()):
            yield page

    async def count(self, name: str) -> int:
        check(name, "name")
        return await Lines(self._clients, name).count()

    async def names(self, prefix: str = "") -> list[str]:
        return await self._existing("names", "lines", prefix)

    async def keys(self, prefix: str = "") -> list[str]:
        return await self._existing("keys", "value", prefix)

    async def get(self, key: str) -> Versioned | None:
        check(key, "key")
        place = self._key(key, "value")
        value, version = await self._clients.command("read a value", "HMGET", place, "value", "version")
        return None if version is None else Versioned(value, version.decode())

    async def put(self, key: str, value: bytes, *, version: str | None) -> str | None:
        check(key, "key")
        if version is None:
            await self._clients.run(LIST, [f"{self.place.prefix}:keys"], key)
        new = await self._clients.run(PUT, [self._key(key, "value")], bytes(value), version or "")
        return new.decode() or None

    async def claim(self, key: str, owner: str, *, seconds: float) -> Lease | None:
        check(key, "key")
        now = "" if self._clock is None else int(self._clock.now().timestamp() * 1000)
        token = await self._clients.run(CLAIM, [self._key(key, "lease")], owner, int(seconds * 1000), now)
        return Lease(key, owner, token) if token else None

    async def release(self, lease: Lease) -> None:
        check(lease.key, "key")
        await self._clients.run(RELEASE, [self._key(lease.key, "lease")], lease.owner, lease.token)

    async def rewrite(self, name: str, change: Callable[[list[bytes]], list[bytes]]) -> int:
        check(name, "name")
        return (await rewrite(Lines(self._clients, name), change)).gone

    async def remove(self, key: str) -> None:
        check(key, "key")
        await self._clients.run(REMOVE, [self._key(key, "value")])

    async def rebuild(self, name: str) -> int:
        check(name, "name")
        return (await rewrite(Lines(self._clients, name), lambda lines: lines, always=True)).kept

    def _key(self, name: str, what: str) -> str:
        return f"{self.place.prefix}:{{{name}}}:{what}"

    async def _list(self, name: str) -> None:
        """Enter a name among the names before its first line is there: nothing may be kept that no one finds."""
        if name not in self._listed:
            await self._clients.run(LIST, [f"{self.place.prefix}:names"], name)
            self._listed.add(name)

    async def _append(self, name: str, batch: Sequence[bytes], latest: bool) -> int:
        lines = Lines(self._clients, name)
        written, before = await (lines.append_latest(batch) if latest else lines.append(batch))
        if written and not before:  # the first: somebody may have deleted everything meanwhile
            self._listed.discard(name)
            await self._list(name)
        return written

    async def _existing(self, index: str, what: str, prefix: str) -> list[str]:
        found: Any = await self._clients.command(f"list {index}", "SMEMBERS", f"{self.place.prefix}:{index}")
        listed = sorted(name for name in map(bytes.decode, found) if name.startswith(prefix))
        exist = await self._clients.commands(f"list {index}", *[("EXISTS", self._key(name, what)) for name in listed])
        return [name for name, there in zip(listed, exist, strict=True) if there]
