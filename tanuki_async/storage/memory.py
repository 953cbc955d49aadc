"""Examples kept in this process only: for tests, and for those who want nothing on disk."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._lines import key_of
from tanuki_async.abc import Appended, Lease, Storage, Versioned
from tanuki_async.storage._leases import Held
from tanuki_async.storage._names import check
from tanuki_async.storage._seen import Newest

__all__ = ["MemoryStorage"]

_BATCH = 1000


class MemoryStorage(Storage):
    """Keeps everything in memory, also after `aclose`: it goes when the object goes. Remembers exactly what it has."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # several event loops may share it; never held across an await
        self._lines: dict[str, list[bytes]] = {}
        self._seen: dict[str, set[bytes]] = {}
        self._newest: dict[str, Newest] = {}
        self._values: dict[str, Versioned] = {}
        self._leases: dict[str, Held] = {}

    def __repr__(self) -> str:
        return f"MemoryStorage({len(self._lines)} names, {len(self._values)} values)"

    async def open(self) -> None:
        """Do nothing: memory is ready."""

    async def aclose(self) -> None:
        """Do nothing: what was kept stays readable."""

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        check(name, "name", lines)
        with self._lock:
            seen = self._seen.setdefault(name, set())
            newest = self._newest.setdefault(name, Newest())
            fresh = [line for line in lines if self._is_new(line, seen, newest, latest)]
            if fresh:
                self._lines.setdefault(name, []).extend(fresh)
        return Appended(len(fresh), len(lines) - len(fresh))

    def _is_new(self, line: bytes, seen: set[bytes], newest: Newest, latest: bool) -> bool:
        key = key_of(line)
        if not (newest.add(line) if latest else key not in seen):
            return False
        if not latest:
            newest.add(line)
        seen.add(key)
        return True

    async def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        check(name, "name")
        lines = self._lines.get(name, [])
        end = len(lines)
        for at in range(start, end, _BATCH):
            yield lines[at : min(at + _BATCH, end)]

    async def count(self, name: str) -> int:
        check(name, "name")
        return len(self._lines.get(name, []))

    async def names(self, prefix: str = "") -> list[str]:
        with self._lock:
            return sorted(name for name in self._lines if name.startswith(prefix))

    async def get(self, key: str) -> Versioned | None:
        check(key, "key")
        return self._values.get(key)

    async def put(self, key: str, value: bytes, *, version: str | None) -> str | None:
        check(key, "key")
        with self._lock:
            held = self._values.get(key)
            if version != (held.version if held else None):
                return None
            new = str(int(held.version) + 1 if held else 1)
            self._values[key] = Versioned(bytes(value), new)
            return new

    async def keys(self, prefix: str = "") -> list[str]:
        with self._lock:
            return sorted(key for key in self._values if key.startswith(prefix))

    async def claim(self, key: str, owner: str, *, seconds: float) -> Lease | None:
        check(key, "key")
        with self._lock:
            held = Held.claim(self._leases.get(key), owner, self._clock.now().timestamp(), seconds)
            if held is None:
                return None
            self._leases[key] = held
            return Lease(key, owner, held.token)

    async def release(self, lease: Lease) -> None:
        with self._lock:
            held = self._leases.get(lease.key)
            if held is not None and held.is_of(lease):
                self._leases[lease.key] = held.ended()
