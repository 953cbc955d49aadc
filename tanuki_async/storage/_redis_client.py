"""Clients of one Redis, one for each event loop, and the scripts that they run there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import Any

from tanuki_async._errors import StorageError
from tanuki_async.storage._redis_errors import translated
from tanuki_async.storage._redis_place import RedisPlace

__all__ = ["Clients", "Script"]

_REPLICA_SECONDS = 2.0
_MARK_SECONDS = 60
_MOVES = 4
Argument = bytes | str | int | float


class Script:
    """Lua that the server runs as one step: nobody sees it half done, and nothing comes in between."""

    def __init__(self, doing: str, text: str) -> None:
        self.doing = doing
        self.text = text.encode()
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


class Clients:
    """Connections to one Redis for every event loop that asks; each set is closed with its loop, or before."""

    def __init__(self, place: RedisPlace) -> None:
        self.place = place
        self._mutex = threading.Lock()
        self._process = os.getpid()
        self._of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Client] = weakref.WeakKeyDictionary()

    async def run(self, script: Script, keys: Sequence[str], *arguments: Argument, wait: bool = True) -> Any:
        """Run a script, which the server may have to be told first. The keys share one slot.

        Replicas are waited for where the URL asks for that, unless `wait` is false.
        """
        from redis.exceptions import NoScriptError

        send = self._send if wait and self.place.wait else self._just_send
        with translated(script.doing, self.place):
            try:
                return await send("EVALSHA", script.digest, len(keys), *keys, *arguments)
            except NoScriptError:
                return await send("EVAL", script.text, len(keys), *keys, *arguments)

    async def command(self, doing: str, *words: Argument) -> Any:
        """Run one command that reads, or whose loss does no harm."""
        with translated(doing, self.place):
            return await self._just_send(*words)

    async def commands(self, doing: str, *commands: Sequence[Argument]) -> list[Any]:
        """Run several such commands, in order where their keys share one slot."""
        if not commands:
            return []
        with translated(doing, self.place):
            pipeline: Any = self._client().pipeline(transaction=False)
            for words in commands:
                pipeline.execute_command(*words)
            return list(await _heeding(pipeline.execute()))

    async def aclose(self) -> None:
        """Close the connections of the running loop. What comes later opens new ones."""
        with self._mutex:
            held = self._of.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held.aclose()

    async def _just_send(self, *words: Argument) -> Any:
        return await _heeding(self._client().execute_command(*words))

    async def _send(self, *words: Argument) -> Any:
        """Run a script and wait for replicas. In a Cluster, follow a slot that has moved, and ask again there."""
        from redis.exceptions import MovedError

        client, key = self._client(), str(words[3])
        for _ in range(_MOVES):
            answer, marked, replicas = await self._send_to_primary(client, key, words)
            error = next((each for each in (answer, marked, replicas) if isinstance(each, Exception)), None)
            if error is None:
                break
            if self.place.cluster:
                await _heeding(client.execute_command("EXISTS", key))
            if not isinstance(error, MovedError):
                raise error
        else:
            raise StorageError(f"could not write at {self.place}: its slots move about; try again", down=True)
        if replicas < self.place.wait:
            raise StorageError(
                f"written at {self.place}, but only {replicas} of {self.place.wait} replicas have it: bring them back, "
                "or lower ?wait=",
                down=True,
            )
        return answer

    async def _send_to_primary(self, client: Any, key: str, words: Sequence[Argument]) -> Any:
        """Run a script and WAIT, on one connection, so to one server.

        WAIT looks at this connection's last write alone: where the script finds that everything is there already,
        which another connection may have written a moment ago, a mark is written behind it.
        """
        where, how = {}, {}
        if self.place.cluster:
            await client.initialize()
            where, how = {"target_nodes": client.get_node_from_key(key)}, {"allow_redirections": False}
        pipeline: Any = client.pipeline(transaction=False)
        pipeline.execute_command(*words, **where)
        pipeline.execute_command("SET", _beside(self.place.prefix, key), "", "EX", _MARK_SECONDS, **where)
        pipeline.execute_command("WAIT", self.place.wait, int(_REPLICA_SECONDS * 1000), **where)
        return await _heeding(pipeline.execute(raise_on_error=False, **how))

    def _client(self) -> Any:
        loop = asyncio.get_running_loop()
        with self._mutex:
            if self._process != os.getpid():  # after a fork: the connections are the parent's
                self._process, self._of = os.getpid(), weakref.WeakKeyDictionary()
            held = self._of.get(loop)
            if held is None:
                held = self._of[loop] = _Client(self.place)
        return held.client


def _beside(prefix: str, key: str) -> str:
    """Name a key of the same slot."""
    tag = key.partition("{")[2].partition("}")[0]
    return f"{prefix}:{{{tag or key}}}:mark"


async def _heeding(answer: Awaitable[Any]) -> Any:
    """Await an answer. A cancellation that came with it counts, which Python 3.11's wait_for, in redis, forgets."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    answered = await answer
    if task.cancelling() > before:
        raise asyncio.CancelledError
    return answered


class _Client:
    """One client, closed at the end of its loop if nobody does it before."""

    def __init__(self, place: RedisPlace) -> None:
        self.client = place.connect()
        self._keeper = self._keep()
        with contextlib.suppress(StopIteration):
            self._keeper.__anext__().send(None)  # runs to its `yield`, which tells the loop about it

    async def _keep(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self._close()

    async def aclose(self) -> None:
        await self._keeper.aclose()

    async def _close(self) -> None:
        pool: Any = getattr(self.client, "connection_pool", None)
        await self.client.aclose()
        manager: Any = getattr(pool, "sentinel_manager", None)
        for sentinel in manager.sentinels if manager is not None else ():  # it cannot close them itself before redis 7
            await sentinel.aclose()
