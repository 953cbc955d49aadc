"""Where hosts are: many who ask at once share one answer, which is kept for a short while."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from typing import TypeVar

from tanuki_async._errors import NotOpenError, own

T = TypeVar("T")

KEPT_SECONDS = 30.0


class Names:
    """Looks up the addresses of hosts. A thousand connections that are made at once need one look-up, not a thousand.

    The addresses take turns, so that connections spread over them; one that failed comes last for a while.
    """

    def __init__(self, *, kept_seconds: float = KEPT_SECONDS) -> None:
        self._kept_seconds = kept_seconds
        self._found: dict[tuple[str, int], tuple[asyncio.Task[list[str]], float]] = {}
        self._turn = 0

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of `host`, the one to try first in front. OSError when it has none."""
        if is_address(host):
            return [host]
        task, until = self._found.get((host, port), (None, 0.0))
        if task is None or time.monotonic() > until or (task.done() and (task.cancelled() or task.exception())):
            task = asyncio.create_task(_look_up(host, port), name=f"tanuki_async: look up {host}")
            self._found[host, port] = (task, time.monotonic() + self._kept_seconds)
        found = await shared(task)
        self._turn += 1
        return _rotated(found, self._turn)

    def failed(self, host: str, port: int, address: str) -> None:
        """Try `address` last until the next look-up."""
        task, _ = self._found.get((host, port), (None, 0.0))
        if task is not None and task.done() and not task.cancelled() and not task.exception():
            found = task.result()
            if address in found:
                found.remove(address)
                found.append(address)

    def close(self) -> None:
        """End the look-ups that are running."""
        for task, _ in self._found.values():
            task.cancel()
        self._found.clear()


async def shared(task: asyncio.Task[T]) -> T:
    """Wait for a task that others wait for too: being cancelled does not end it, and its own end is no cancellation.

    An error of it reaches all who wait, each with a copy.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        waiter = asyncio.current_task()
        if task.cancelled() and not (waiter and waiter.cancelling()):
            raise NotOpenError("the connections were closed while one was being made") from None
        raise
    except Exception as error:  # noqa: BLE001  # raised below, where this one is not its context
        failed = own(error)
    raise failed


def is_address(host: str) -> bool:
    """Tell whether `host` is an address rather than a name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def _look_up(host: str, port: int) -> list[str]:
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _rotated(found: list[str], turn: int) -> list[str]:
    """Let the addresses of the family that the system prefers take turns; the others stay behind, for the worst."""
    six = ":" in found[0]
    front = next((place for place, address in enumerate(found) if (":" in address) != six), len(found))
    turn %= front
    return [*found[turn:front], *found[:turn], *found[front:]]
