"""Objects in one bucket, read and replaced only on conditions: the few requests that everything else is made of."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tanuki_async._clock import Clock
from tanuki_async._errors import StorageError
from tanuki_async.storage._s3_errors import MISSING, REFUSED, code_of, explained, is_passing
from tanuki_async.storage._s3_place import Place

__all__ = ["ANY", "Bucket", "Found", "Listed"]

T = TypeVar("T")
ANY = "*"
"""Stands for a version where whatever is there may be replaced."""
_PATIENCE = 30.0
_UNREACHABLE = "EndpointConnectionError"
_NOBODY = 5.0
"""Seconds after which nobody is expected to answer at an address any more."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_CONNECTIONS = 16
_NEXT = ("NextContinuationToken", "NextKeyMarker", "NextVersionIdMarker")
_WRITER = "writer"
"""Metadata by which whoever wrote an object recognises it, after an answer that got lost."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object and its version."""

    content: bytes
    version: str
    writer: str | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """One key of a listing."""

    key: str
    size: int
    modified: float


class Bucket:
    """A client for one place. Belongs to one event loop. Keys are below the prefix.

    What passes (503 SlowDown, 500, timeouts, cut connections) is tried again with growing pauses for `patience`
    seconds. Every failure is a StorageError.
    """

    def __init__(self, place: Place, clock: Clock, session: Any = None, *, patience: float = _PATIENCE) -> None:
        self.place, self._clock, self._session, self._patience = place, clock, session, patience
        self._stack = contextlib.AsyncExitStack()
        self._client: Any = None
        self._single = asyncio.Lock()  # with one writer, reading and replacing is made one step here
        self.quotes = True  # whether the server compares versions with their quotation marks
        self._keeps_old = False  # whether the bucket keeps what was deleted or replaced, as an older version
        self._extra: dict[str, str] = {}
        if place.sse:
            self._extra["ServerSideEncryption"] = place.sse
        if place.kms_key:
            self._extra["SSEKMSKeyId"] = place.kms_key

    async def connect(self) -> None:
        """Make the client. Credentials are looked for at the first request."""
        if self._client is not None:
            return
        library: Any = importlib.import_module("aioboto3")
        config: Any = importlib.import_module("aiobotocore.config")
        own = self.place.endpoint is not None
        options = config.AioConfig(
            retries={"total_max_attempts": 1, "mode": "standard"},  # ours are bounded by time, and seen by `put`
            max_pool_connections=_CONNECTIONS,
            connect_timeout=5,
            read_timeout=30,
            s3={"addressing_style": "path" if own else "auto"},
            # checksums of newer kinds are not known to every server
            request_checksum_calculation="when_required" if own else "when_supported",
            response_checksum_validation="when_required" if own else "when_supported",
        )
        with explained("use", f"s3://{self.place.bucket}/{self.place.prefix}"):
            session = self._session or library.Session(profile_name=self.place.profile, region_name=self.place.region)
            client = session.client(
                "s3", endpoint_url=self.place.endpoint, region_name=self.place.region, config=options
            )
            self._client = await self._stack.enter_async_context(client)

    async def aclose(self) -> None:
        """Close the connections."""
        self._client = None
        await self._stack.aclose()

    async def get(self, key: str) -> Found | None:
        """Read an object, or return None."""

        async def read() -> Found | None:
            try:
                answer = await self._client.get_object(Bucket=self.place.bucket, Key=self.place.prefix + key)
            except Exception as error:
                if code_of(error) in MISSING:
                    return None
                raise
            async with answer["Body"] as body:
                content = await body.read()
            return Found(content, answer["ETag"].strip('"'), answer.get("Metadata", {}).get(_WRITER))

        return await self._patiently("read", key, read)

    async def put(self, key: str, content: bytes, *, version: str | None) -> str | None:
        """Replace an object that has this version (None: if there is none; ANY: whatever is there).

        Returns the new version, or None when somebody else was first.
        """
        if self.place.writers == "single" and version != ANY:
            async with self._single:
                held = await self.get(key)
                if version != (held.version if held else None):
                    return None
                return await self._put(key, content, ANY)
        return await self._put(key, content, version)

    async def _put(self, key: str, content: bytes, version: str | None) -> str | None:
        writer = secrets.token_hex(8)
        conditions = self._conditions(version)

        async def write() -> str | None:
            try:
                answer = await self._client.put_object(
                    Bucket=self.place.bucket,
                    Key=self.place.prefix + key,
                    Body=content,
                    Metadata={_WRITER: writer},
                    **self._extra,
                    **conditions,
                )
            except Exception as error:
                if conditions and code_of(error) in REFUSED:
                    return None
                raise
            self._keeps_old |= "VersionId" in answer
            return str(answer["ETag"]).strip('"')

        new = await self._patiently("write", key, write)
        if new is None and (held := await self.get(key)) is not None and held.writer == writer:
            return held.version  # it was written at an earlier try, whose answer got lost
        return new

    def _conditions(self, version: str | None) -> dict[str, str]:
        if version == ANY:
            return {}
        if version is None:
            return {"IfNoneMatch": "*"}
        return {"IfMatch": f'"{version}"' if self.quotes else version}

    async def delete(self, *keys: str) -> None:
        """Delete objects; those that are missing are no error."""
        for key in keys:
            await self._delete(key)

    async def _delete(self, key: str, **version: str) -> None:
        async def one() -> None:
            place = self.place.prefix + key
            answer = await self._client.delete_object(Bucket=self.place.bucket, Key=place, **version)
            self._keeps_old |= "VersionId" in answer

        await self._patiently("delete", key, one)

    async def erase(self, prefix: str) -> None:
        """Where the bucket keeps what was deleted or replaced below `prefix` as older versions, delete these too."""
        if not self._keeps_old:
            return
        try:
            pages = [page async for page in self._pages("list versions of", "list_object_versions", prefix)]
            old = [each for page in pages for each in page.get("Versions", ()) if not each["IsLatest"]]
            marks = [each for page in pages for each in page.get("DeleteMarkers", ())]
            for each in (*old, *marks):  # marks of deletion last: they hide the others
                await self._delete(each["Key"][len(self.place.prefix) :], VersionId=each["VersionId"])
        except StorageError as error:
            raise StorageError(
                f"what was deleted is out of the data, but s3://{self.place.bucket} keeps older versions of objects, "
                f"which are still there: {error}. Deleting them needs s3:ListBucketVersions and s3:DeleteObjectVersion"
            ) from error

    async def list(self, prefix: str) -> list[Listed]:
        """List the keys that begin with `prefix`, in order."""
        cut = len(self.place.prefix)
        return [
            Listed(each["Key"][cut:], each["Size"], each["LastModified"].timestamp())
            async for page in self._pages("list", "list_objects_v2", prefix)
            for each in page.get("Contents", ())
        ]

    async def _pages(self, doing: str, method: str, prefix: str) -> AsyncIterator[dict[str, Any]]:
        where = {"Bucket": self.place.bucket, "Prefix": self.place.prefix + prefix}

        async def page() -> dict[str, Any]:
            answer: dict[str, Any] = await getattr(self._client, method)(**where)
            return answer

        while True:
            answer = await self._patiently(doing, prefix, page)
            yield answer
            if not answer.get("IsTruncated"):
                return
            where |= {each.removeprefix("Next"): answer[each] for each in _NEXT if each in answer}

    async def _patiently(self, doing: str, key: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again what may pass, with growing pauses, until patience ends."""
        give_up = self._clock.monotonic() + self._patience
        pause = _FIRST_PAUSE
        with explained(doing, f"s3://{self.place.bucket}/{self.place.prefix}{key}"):
            while True:
                try:
                    return await attempt()
                except Exception as error:
                    wait = pause * random.uniform(0.5, 1.0)
                    late = give_up - (self._patience - _NOBODY if code_of(error) == _UNREACHABLE else 0)
                    if not is_passing(error) or self._clock.monotonic() + wait > late:
                        raise
                await self._clock.sleep(wait)
                pause = min(2 * pause, _LONGEST_PAUSE)
