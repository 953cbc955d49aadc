"""Examples in Redis (or Valkey): for many machines at once. Needs the extra `redis`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from tanuki_async._bloom import stamped
from tanuki_async._clock import Clock
from tanuki_async._errors import StorageError, clip
from tanuki_async._lines import key_of
from tanuki_async.abc import Appended, Lease, Storage, Versioned
from tanuki_async.storage._names import check
from tanuki_async.storage._redis_client import Clients
from tanuki_async.storage._redis_place import RedisPlace
from tanuki_async.storage._redis_scripts import APPEND, APPEND_LATEST, CLAIM, FOLLOW, LAYERS, PUT, RELEASE
from tanuki_async.storage._seen import question_of

__all__ = ["RedisStorage"]

LAYOUT = 1
_LINES, _BYTES = 1000, 1 << 20
"""What one script takes and one page of a scan aims at: the server does nothing else meanwhile."""


class RedisStorage(Storage):
    """Keeps lines in lists and values in hashes of one Redis 6 or newer, of a Cluster, or behind Sentinels.

    `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://` with TLS, `redis://HOST:PORT?cluster=true` (a node of a Cluster),
    `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE`. `?prefix=` (default "tanuki") begins all keys. What was appended is
    acknowledged by the primary: it is as durable as that server's `appendonly` and `appendfsync` make it, and with
    `?wait=1` it is on one replica too, so that a failover does not lose it. Leases run by the server's clock, unless
    `clock` is given. May serve several event loops; each has its own connections.
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
            for batch in _batches(lines):
                await self._list(name)
                written += await (self._append_latest(name, batch) if latest else self._append(name, batch))
        except StorageError:
            self._listed.clear()  # after a failover the list of names may lack some
            raise
        return Appended(written, len(lines) - written)

    async def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        check(name, "name")
        at, end, page = start, await self.count(name), 32
        while at < end:
            key, last = self._key(name, "lines"), min(at + page, end) - 1
            lines: list[bytes] = await self._clients.command("read lines", "LRANGE", key, at, last)
            if not lines:
                return
            yield lines
            at += len(lines)
            page = page * 2 if sum(map(len, lines)) < _BYTES // 2 else max(page // 2, 1)
            page = min(page, _LINES * 4)

    async def count(self, name: str) -> int:
        check(name, "name")
        return int(await self._clients.command("count lines", "LLEN", self._key(name, "lines")))

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
            await self._clients.command("list a key", "SADD", f"{self.place.prefix}:keys", key)
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

    def _key(self, name: str, what: str) -> str:
        return f"{self.place.prefix}:{{{name}}}:{what}"

    def _keys(self, name: str) -> list[str]:
        layers = (f"seen-{level}" for level in range(LAYERS))
        return [self._key(name, what) for what in ("lines", "known", "about", "newest", *layers)]

    async def _list(self, name: str) -> None:
        """Enter a name among the names before its first line is there: nothing may be kept that no one finds."""
        if name not in self._listed:
            await self._clients.command("list a name", "SADD", f"{self.place.prefix}:names", name)
            self._listed.add(name)

    async def _append(self, name: str, lines: Sequence[bytes]) -> int:
        stamps = b"".join(stamped(map(key_of, lines)))
        written, behind = await self._clients.run(APPEND, self._keys(name), stamps, b"\n".join(lines))
        return await self._first(name, written, behind)

    async def _append_latest(self, name: str, lines: Sequence[bytes]) -> int:
        stamps = stamped(map(key_of, lines))
        both = b"".join([stamp + question_of(line) for stamp, line in zip(stamps, lines, strict=True)])
        while True:
            written, told = await self._clients.run(APPEND_LATEST, self._keys(name), both, b"\n".join(lines))
            if written >= 0:
                return await self._first(name, written, told)
            await self._follow(name, told)

    async def _first(self, name: str, written: int, behind: int) -> int:
        """List a name anew whose lines are the first: somebody may have deleted everything meanwhile."""
        if written and not behind:
            self._listed.discard(name)
            await self._list(name)
        return written

    async def _follow(self, name: str, followed: int) -> None:
        """Tell the server the newest answers among lines that were appended the other way."""
        async for lines in self.scan(name, start=followed):
            for at in range(0, len(lines), _LINES):
                some = lines[at : at + _LINES]
                keys = b"".join([key_of(line) + question_of(line) for line in some])
                told = await self._clients.run(FOLLOW, self._keys(name), followed, keys)
                followed += len(some)
                if told != followed:  # another process follows too
                    return

    async def _existing(self, index: str, what: str, prefix: str) -> list[str]:
        found: Any = await self._clients.command(f"list {index}", "SMEMBERS", f"{self.place.prefix}:{index}")
        listed = sorted(name for name in map(bytes.decode, found) if name.startswith(prefix))
        exist = await self._clients.exist(f"list {index}", [self._key(name, what) for name in listed])
        return [name for name, there in zip(listed, exist, strict=True) if there]


def _batches(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    begin = size = 0
    for at, line in enumerate(lines):
        if at - begin == _LINES or (size + len(line) > _BYTES and at > begin):
            yield lines[begin:at]
            begin, size = at, 0
        size += len(line)
    if begin < len(lines):
        yield lines[begin:]
