"""What a long run has answered so far: one line per answer, so that a killed run asks no input twice."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
from array import array
from collections import OrderedDict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tanuki_async._errors import StorageError, UsageError
from tanuki_async.storage._files import open_locked, translated, write_all

VERSION = 1
BLOCK = 256
"""Lines that are read back together."""
BLOCKS = 8
"""Blocks kept in memory."""
_LINE = re.compile(rb'\{"i":(\d+),"k":"([0-9a-f]{16})","o":(.*)\}$', re.DOTALL)


def key_of(text: str) -> str:
    """Return 16 hex digits that tell inputs apart."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class Checkpoint:
    """A JSONL file: a head that names the function and the run, then index, key and output of each answer, as it came.

    Keeps 8 bytes per item in memory. One process at a time: the file is locked. An answer counts only for the same
    input at the same place, so a run over changed items asks anew what changed. Open it with `await Checkpoint.open`.
    """

    def __init__(self, path: Path, file: int, run: str, offsets: array[int], jobs: dict[str, str]) -> None:
        self.run = run
        """Names this run, over restarts."""
        self.jobs = jobs
        """The provider's ids of batches that were sent, by tag."""
        self._path, self._file, self._offsets = path, file, offsets
        self._queue: list[bytes] = []
        self._gathering: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._blocks: OrderedDict[int, asyncio.Task[dict[int, tuple[str, bytes]]]] = OrderedDict()

    @classmethod
    async def open(cls, path: str | Path, function: str) -> Checkpoint:
        """Open a file, or begin one. UsageError for another function's, StorageError where it cannot be used."""
        return await asyncio.to_thread(cls._open, Path(path), function)

    @classmethod
    def _open(cls, path: Path, function: str) -> Checkpoint:
        with translated("open the checkpoint", path):
            file = open_locked(path)
            try:
                with path.open("rb") as lines:
                    run, offsets, jobs, size = _read(path, lines, function)
                os.truncate(file, size)  # a line that was torn by a kill
                if size == 0:
                    head = json.dumps({"v": VERSION, "function": function, "run": run}).encode() + b"\n"
                    write_all(file, head)
            except BaseException:
                os.close(file)
                raise
        return cls(path, file, run, offsets, jobs)

    async def find(self, index: int, key: str) -> bytes | None:
        """Return the output that was kept for this input at this place, as JSON, or None."""
        if index >= len(self._offsets) or self._offsets[index] < 0:
            return None
        found_key, output = (await self._block(index // BLOCK)).get(index, ("", b""))
        return output if found_key == key else None

    async def keep(self, index: int, key: str, output: bytes) -> None:
        """Add one answer; it outlives a kill when this returns. Many at the same time are written together."""
        await self._add(b'{"i":%d,"k":"%b","o":%b}\n' % (index, key.encode(), output))

    async def keep_job(self, tag: str, job: str) -> None:
        """Remember the provider's id of a batch."""
        self.jobs[tag] = job
        await self._add(json.dumps({"batch": tag, "job": job}).encode() + b"\n")

    async def _add(self, line: bytes) -> None:
        self._queue.append(line)
        if self._gathering is None:
            self._gathering = asyncio.create_task(self._write(self._writing), name="tanuki checkpoint")
            self._gathering.add_done_callback(_seen)
        await asyncio.shield(self._gathering)

    async def _write(self, before: asyncio.Task[None] | None) -> None:
        """Write what has gathered while the write before went on."""
        if before is not None and not before.done():
            await asyncio.wait({before})
        else:
            await asyncio.sleep(0)  # let those come along whose answers are there already
        lines, self._queue = self._queue, []
        self._writing, self._gathering = self._gathering, None
        await asyncio.to_thread(self._append, b"".join(lines))

    def _append(self, lines: bytes) -> None:
        with translated("write the checkpoint", self._path):
            write_all(self._file, lines)

    async def _block(self, number: int) -> dict[int, tuple[str, bytes]]:
        task = self._blocks.get(number)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._read_block, number), name="tanuki checkpoint block")
            self._blocks[number] = task
            while len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)
        return await asyncio.shield(task)

    def _read_block(self, number: int) -> dict[int, tuple[str, bytes]]:
        found: dict[int, tuple[str, bytes]] = {}
        with translated("read the checkpoint", self._path), self._path.open("rb") as lines:
            for offset in self._offsets[number * BLOCK : (number + 1) * BLOCK]:
                if offset >= 0:
                    lines.seek(offset)
                    match = _LINE.match(lines.readline().rstrip(b"\n"))
                    if match is not None:
                        found[int(match[1])] = match[2].decode(), match[3]
        return found

    async def aclose(self) -> None:
        """Write what waits, and close the file. Safe to call twice."""
        while tasks := {task for task in (self._gathering, self._writing) if task is not None and not task.done()}:
            await asyncio.wait(tasks)
        file, self._file = self._file, -1
        if file >= 0:
            await asyncio.to_thread(os.close, file)


def _seen(task: asyncio.Task[None]) -> None:
    """Take note of how a write ended: those who waited for it were told, if they still do."""
    if not task.cancelled():
        task.exception()


def _read(path: Path, lines: Any, function: str) -> tuple[str, array[int], dict[str, str], int]:
    """Return the run, the offset of each item's line by index, the batches, and the size without a torn end."""
    offsets, jobs = array("q"), dict[str, str]()
    head = lines.readline()
    if not head.endswith(b"\n"):
        return secrets.token_hex(4), offsets, jobs, 0
    try:
        document: Any = json.loads(head)
        run, version, named = str(document["run"]), document["v"], document["function"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no checkpoint of amap; name another file") from error
    if version != VERSION:
        raise StorageError(f"{path} has version {version!r}: install a newer tanuki_async")
    if named != function:
        raise UsageError(f"{path} is the checkpoint of another function, or of this one before it changed")
    size = len(head)
    for line in lines:
        if not line.endswith(b"\n"):
            break
        if (match := _LINE.match(line.rstrip(b"\n"))) is not None:
            index = int(match[1])
            if index >= len(offsets):
                offsets.extend([-1] * (index + 1 - len(offsets)))
            offsets[index] = size
        elif line.startswith(b'{"batch"'):
            document = json.loads(line)
            jobs[document["batch"]] = document["job"]
        size += len(line)
    return run, offsets, jobs, size
