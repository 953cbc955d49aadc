"""One hand at a time: what rewrites data holds a lease, so that two of these never work on one storage at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncGenerator

from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._errors import StorageError
from tanuki_async.abc import Lease, Storage

__all__ = ["alone"]

KEY = "tanuki/keeping"
SECONDS = 60.0


@contextlib.asynccontextmanager
async def alone(storage: Storage, *, clock: Clock = SYSTEM_CLOCK) -> AsyncGenerator[None]:
    """Hold the lease of those who rewrite data, as long as it takes. StorageError while another holds it."""
    owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    lease = await storage.claim(KEY, owner, seconds=SECONDS)
    if lease is None:
        raise StorageError(
            "another process rewrites this data now (verify, compact, forget); try again when it has ended, "
            f"or in {SECONDS:g} s if it was killed"
        )
    renewal = asyncio.create_task(_renew(storage, lease, clock), name="tanuki keeping lease")
    try:
        yield
    finally:
        renewal.cancel()
        await asyncio.wait({renewal})
        await storage.release(lease)


async def _renew(storage: Storage, lease: Lease, clock: Clock) -> None:
    while True:
        await clock.sleep(SECONDS / 4)
        with contextlib.suppress(StorageError):  # the next try is in time, too
            await storage.claim(lease.key, lease.owner, seconds=SECONDS)
