"""A place for data: lines under names, and small values under keys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from tanuki_async._errors import StorageError


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch of lines."""

    written: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Versioned:
    """A small value and the version that a `put` must name to replace it."""

    value: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on something until it runs out. `token` grows with each holder, so a late one is recognised."""

    key: str
    owner: str
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong with what is kept, at a name, a key or a file. `mended` says what was done about it."""

    place: str
    what: str
    mended: str = ""


class Storage(ABC):
    """Keeps lines under names and small versioned values under keys; edits what it has written in `rewrite` alone.

    Names and keys are made of `A-Z a-z 0-9 . _ -` and `/`. Every failure is a StorageError, with `down=True` where the
    place itself fails, so that no line is taken for the reason. Safe for many tasks, processes and event loops at once.
    `open` before use; `aclose` may be called twice.
    """

    address: str | None = None
    """What names this place to all processes on a machine, without secrets; None: lines never wait for it on disk."""
    patience: float = 0.0
    """Seconds that lines may wait in a local journal, so that one write carries many; where each write costs money."""

    @abstractmethod
    async def open(self) -> None:
        """Make ready, creating what is missing. Raises StorageError when the place cannot be used."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of files and connections. What was appended is safe already."""

    @abstractmethod
    async def append(self, name: str, lines: Sequence[bytes], *, latest: bool = False) -> Appended:
        """Add lines in order; they are durable when this returns.

        A line whose example is there already (see `example_key`) is left out, also when another process wrote it.
        By default that is decided by a filter that may, for fewer than 1 % of distinct lines, be wrong. With `latest`
        it is exact, and a line is left out only if the newest line with the same arguments has the same output.
        """

    @abstractmethod
    def scan(self, name: str, *, start: int = 0) -> AsyncIterator[list[bytes]]:
        """Read lines in the order of appending, in batches, leaving out the first `start`. Torn lines never appear.

        Stops at what was there when it began, or later.
        """

    @abstractmethod
    async def count(self, name: str) -> int:
        """Return how many lines `name` has."""

    @abstractmethod
    async def names(self, prefix: str = "") -> list[str]:
        """List the names that have lines, sorted."""

    @abstractmethod
    async def get(self, key: str) -> Versioned | None:
        """Return the value of `key`, or None."""

    @abstractmethod
    async def put(self, key: str, value: bytes, *, version: str | None) -> str | None:
        """Replace the value if its version is still `version` (None: if there is none yet).

        Returns the new version, or None when somebody else was first. Durable when it returns.
        """

    @abstractmethod
    async def keys(self, prefix: str = "") -> list[str]:
        """List the keys that have a value, sorted."""

    @abstractmethod
    async def claim(self, key: str, owner: str, *, seconds: float) -> Lease | None:
        """Take or renew the lease `key`, or return None while another owner holds it. Runs out by itself."""

    @abstractmethod
    async def release(self, lease: Lease) -> None:
        """Give a lease back early. Harmless if it has run out or passed to another."""

    async def rewrite(self, name: str, change: Callable[[list[bytes]], list[bytes]]) -> int:
        """Leave out the lines that `change`, given batch after batch in order, leaves out; return how many.

        All at once or not at all, for every process; what is known of the lines follows. `change` is a pure function
        and may run in a thread. A scan under way goes on with the lines as they were, or raises StorageError; so does
        this where nothing can be taken back, as by default.
        """
        raise StorageError(f"{type(self).__name__} cannot take back what it has written")

    async def remove(self, key: str) -> None:
        """Take the value of `key` away, whatever its version. By default an empty one takes its place."""
        while (held := await self.get(key)) is not None and held.value:
            if await self.put(key, b"", version=held.version) is not None:
                return

    async def rebuild(self, name: str) -> int:
        """Derive anew from the lines all that is kept beside them (filters, counts), and return how many there are.

        By default nothing is kept beside them.
        """
        return await self.count(name)

    async def inspect(self, *, repair: bool = False) -> list[Finding]:
        """Look for what only this kind of storage can have wrong; mend it where asked to, and delete nothing.

        What has to go is moved aside: lines under `<name>.damaged`. By default there is nothing to look for.
        """
        return []
