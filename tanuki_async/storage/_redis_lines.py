"""The lines of one name in Redis: appended, counted, and read page by page, also while they are rewritten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

from tanuki_async._bloom import stamped
from tanuki_async._errors import StorageError
from tanuki_async._lines import key_of
from tanuki_async.storage._redis_client import Clients
from tanuki_async.storage._redis_scripts import APPEND, APPEND_LATEST, FOLLOW, LAYERS
from tanuki_async.storage._seen import question_of

__all__ = ["Lines", "batches"]

_LINES, _BYTES = 1000, 1 << 20
"""What one script takes and one page aims at: the server does nothing else meanwhile."""
_HELD, _BEHIND = -2, -1
_MOMENT = 0.005
_KEPT = ("lines", "known", "about", "newest", *(f"seen-{level}" for level in range(LAYERS)))


class Lines:
    """One name. Its keys share a hash tag, so they are of one slot; each rewrite begins a new generation of lines."""

    def __init__(self, clients: Clients, name: str) -> None:
        self.clients, self.name = clients, name
        self._begin = f"{clients.place.prefix}:{{{name}}}:"
        self.key = f"{self._begin}lines"
        self.keys = [self._begin + what for what in _KEPT]
        self.draft_keys = [f"{self._begin}draft-{what}" for what in _KEPT]

    def old_key(self, generation: int) -> str:
        """Name the key of lines that were rewritten a moment ago."""
        return f"{self._begin}lines-{generation}"

    async def count(self) -> int:
        """Count the lines."""
        return int(await self.clients.command("count lines", "LLEN", self.key))

    async def state(self) -> tuple[int, int]:
        """Tell how many lines there are, and their generation; in this order, the count is never of a later one."""
        asked = ("LLEN", self.key), ("HGET", self.keys[2], "generation")
        count, generation = await self.clients.commands("count lines", *asked)
        return int(count), int(generation or 0)

    async def pages(self, start: int, end: int, generation: int) -> AsyncIterator[list[bytes]]:
        """Read lines from `start` to before `end`. Where they are rewritten meanwhile, goes on with the old ones."""
        size = 32
        while start < end:
            lines = await self._page(start, min(start + size, end) - 1, generation)
            if not lines:
                return
            yield lines
            start += len(lines)
            size = size * 2 if sum(map(len, lines)) < _BYTES // 2 else max(size // 2, 1)
            size = min(size, _LINES * 4)

    async def append(self, lines: Sequence[bytes]) -> tuple[int, int]:
        """Add what is new of one batch; return how many that are, and how many lines were there before."""
        stamps = b"".join(stamped(map(key_of, lines)))
        while True:
            written, before = await self.clients.run(APPEND, self.keys, stamps, b"\n".join(lines))
            if written != _HELD:
                return written, before
            await asyncio.sleep(_MOMENT)

    async def append_latest(self, lines: Sequence[bytes]) -> tuple[int, int]:
        """The same, leaving out what equals the newest answer to the same arguments."""
        stamps = stamped(map(key_of, lines))
        both = b"".join([stamp + question_of(line) for stamp, line in zip(stamps, lines, strict=True)])
        while True:
            written, told = await self.clients.run(APPEND_LATEST, self.keys, both, b"\n".join(lines))
            if written >= 0:
                return written, told
            if written == _BEHIND:
                await self._follow(told)
            else:
                await asyncio.sleep(_MOMENT)

    async def _page(self, first: int, last: int, generation: int) -> list[bytes]:
        asked = ("LRANGE", self.key, first, last), ("HGET", self.keys[2], "generation")
        lines, now = await self.clients.commands("read lines", *asked)
        if int(now or 0) == generation:
            return list(lines)
        old: list[bytes] = await self.clients.command("read lines", "LRANGE", self.old_key(generation), first, last)
        if not old:
            raise StorageError(f"the lines of {self.name!r} were rewritten while they were read: read them again")
        return old

    async def _follow(self, followed: int) -> None:
        """Tell the server the newest answers among lines that were appended the other way."""
        end, generation = await self.state()
        async for lines in self.pages(followed, end, generation):
            for some in batches(lines):
                keys = b"".join([key_of(line) + question_of(line) for line in some])
                told = await self.clients.run(FOLLOW, self.keys, followed, keys, generation)
                followed += len(some)
                if told != followed:  # another process follows too, or rewrites
                    return


def batches(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Part lines into what one script takes."""
    begin = size = 0
    for at, line in enumerate(lines):
        if at - begin == _LINES or (size + len(line) > _BYTES and at > begin):
            yield lines[begin:at]
            begin, size = at, 0
        size += len(line)
    if begin < len(lines):
        yield lines[begin:]
