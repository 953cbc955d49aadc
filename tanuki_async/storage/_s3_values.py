"""Small values and leases in S3: one object each, replaced only by whoever has read it."""

from __future__ import annotations

import json
import secrets

from tanuki_async._clock import Clock
from tanuki_async._errors import StorageError
from tanuki_async.abc import Lease, Versioned
from tanuki_async.storage._leases import Held
from tanuki_async.storage._s3_bucket import Bucket

__all__ = ["Values", "check_conditions", "check_layout"]

_LAYOUT = 1


class Values:
    """Values under `values/`, leases under `leases/`. A lease ends by this machine's date: clocks should differ by
    less than the time that a lease is held for beyond its work; its token, not its date, keeps a late holder out.
    """

    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._bucket, self._clock = bucket, clock

    async def get(self, key: str) -> Versioned | None:
        """Return the value of `key`, or None."""
        found = await self._bucket.get(f"values/{key}.json")
        return Versioned(found.content, found.version) if found else None

    async def put(self, key: str, value: bytes, version: str | None) -> str | None:
        """Replace the value if it still has this version."""
        return await self._bucket.put(f"values/{key}.json", value, version=version or None)

    async def remove(self, key: str) -> None:
        """Delete the value, whatever its version; so no condition is needed, which some servers would ignore."""
        place = f"values/{key}.json"
        await self._bucket.delete(place)
        await self._bucket.erase(place)

    async def claim(self, key: str, owner: str, seconds: float) -> Lease | None:
        """Take or renew a lease."""
        place = f"leases/{key}.lease"
        while True:
            found = await self._bucket.get(place)
            held = Held.from_json(found.content) if found else None
            mine = Held.claim(held, owner, self._clock.now().timestamp(), seconds)
            if mine is None:
                return None
            if await self._bucket.put(place, mine.to_json(), version=found.version if found else None):
                return Lease(key, owner, mine.token)

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        place = f"leases/{lease.key}.lease"
        found = await self._bucket.get(place)
        held = Held.from_json(found.content) if found else None
        if found is not None and held is not None and held.is_of(lease):
            await self._bucket.put(place, held.ended().to_json(), version=found.version)


async def check_conditions(bucket: Bucket) -> None:
    """Try whether the server replaces objects only on conditions. StorageError where it does not."""
    if bucket.place.writers == "single":
        return
    key = f"probes/{secrets.token_hex(8)}"
    try:
        first = await bucket.put(key, b"one", version=None)
        if first is None or await bucket.put(key, b"other", version=None) is not None:
            raise _refusal(bucket, "it writes an object that should be new over one that is there (If-None-Match)")
        second = await bucket.put(key, b"two", version=first)
        if second is None:  # some compare versions without their quotation marks
            bucket.quotes = False
            second = await bucket.put(key, b"two", version=first)
        if second is None:
            raise _refusal(bucket, "it does not replace an object of the version that it told of (If-Match)")
        if await bucket.put(key, b"three", version=first) is not None:
            raise _refusal(bucket, "it replaces an object of another version (If-Match)")
    finally:
        await bucket.delete(key)


def _refusal(bucket: Bucket, why: str) -> StorageError:
    return StorageError(
        f"the server of s3://{bucket.place.bucket} cannot be shared by several writers: {why}. Use one that knows "
        "conditional writes, as AWS does; or add ?writers=single and let only one process write"
    )


async def check_layout(bucket: Bucket) -> None:
    """Check that this release understands what is there, and leave a mark where nothing is."""
    if (found := await bucket.get("format")) is None:
        await bucket.put("format", json.dumps({"tanuki_async": _LAYOUT}).encode(), version=None)
        return
    try:
        layout = json.loads(found.content)["tanuki_async"]
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{bucket.place} was not written by tanuki_async") from None
    if not isinstance(layout, int) or layout > _LAYOUT:
        raise StorageError(f"{bucket.place} has layout {layout!r}, this release reads up to {_LAYOUT}: upgrade")
