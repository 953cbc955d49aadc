"""Examples kept in this process only: for tests, and for those who want nothing on disk."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

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
        self._names: dict[str, _Lines] = {}
        self._values: dict[str, Versioned] = {}
        self._leases: dict[str, Held] = {}

    def __repr__(self) -> str:
        return f"MemoryStorage({len(self._names)} names, {len(self._values)} values)"

    async def open(self) -> None:
        """Do nothing: memory is ready."""

    async def aclose(self) -> None:
        """Do nothing: what was kept stays readable."""

    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        check(name, "name", lines)
        with self._lock:
            fresh = self._names.setdefault(name, _Lines()).extend(lines, latest=latest)
        return Appended(fresh, len(lines) - fresh)

    async def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        check(name, "name")
        lines = self._names[name].all if name in self._names else []
        end = len(lines)
        for at in range(start, end, _BATCH):
            yield lines[at : min(at + _BATCH, end)]

    async def count(self, name: str) -> int:
        check(name, "name")
        return len(self._names[name].all) if name in self._names else 0

    async def names(self, prefix: str = "") -> list[str]:
        with self._lock:
            return sorted(name for name, lines in self._names.items() if lines.all and name.startswith(prefix))

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

    async def rewrite(self, name: str, change: Callable[[list[bytes]], list[bytes]]) -> int:
        check(name, "name")
        with self._lock:
            before = self._names.get(name, _Lines()).all
            after = change(list(before))
            self._names[name] = _Lines(after)
        return len(before) - len(after)

    async def remove(self, key: str) -> None:
        check(key, "key")
        with self._lock:
            self._values.pop(key, None)


class _Lines:
    """The lines of one name and what is known of them."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        self.all = list(lines)
        self._keys = set(map(key_of, self.all))
        self._newest = Newest()
        self._followed = 0  # lines that `_newest` knows: it is dear, so it follows only where it is asked

    def extend(self, lines: Sequence[bytes], *, latest: bool) -> int:
        fresh = self._changed(lines) if latest else self._unseen(lines)
        self._keys.update(map(key_of, fresh))
        self.all += fresh
        return len(fresh)

    def _unseen(self, lines: Sequence[bytes]) -> list[bytes]:
        first: dict[bytes, bytes] = {}
        for line in lines:
            first.setdefault(key_of(line), line)
        return [line for key, line in first.items() if key not in self._keys]

    def _changed(self, lines: Sequence[bytes]) -> list[bytes]:
        self._newest.feed(self.all[self._followed :])
        fresh, take_in = self._newest.fresh(lines)
        take_in()
        self._followed = len(self.all) + len(fresh)
        return fresh
