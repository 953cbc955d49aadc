"""From what settings say about storage to a Storage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from tanuki_async._clock import Clock
from tanuki_async._errors import SettingsError
from tanuki_async._settings import Settings, data_directory
from tanuki_async.abc import Storage

if TYPE_CHECKING:
    from tanuki_async._pool.shared import SharedLimits

_KNOWN = "a directory, 'file:DIR', 'memory:', 'redis://HOST' or 's3://BUCKET/PREFIX'"


def open_place(place: Storage | str | Path | None) -> Storage:
    """Make the Storage that is meant. Nothing is opened or created yet."""
    from tanuki_async.storage._redis_place import SCHEMES
    from tanuki_async.storage.filesystem import FilesystemStorage
    from tanuki_async.storage.memory import MemoryStorage
    from tanuki_async.storage.redis import RedisStorage

    if isinstance(place, Storage):
        return place
    if place is None:
        return FilesystemStorage(data_directory())
    if isinstance(place, Path):
        return FilesystemStorage(place)
    if not isinstance(place, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
        raise SettingsError(f"storage is {_KNOWN}, or a Storage, not {place!r}")
    scheme, colon, rest = place.partition(":")
    if scheme == "memory" and colon and not rest.strip("/"):
        return MemoryStorage()
    if scheme == "file" and (path := _path_in(place, rest)):
        return FilesystemStorage(path)
    if scheme in SCHEMES and rest.startswith("//"):
        return RedisStorage(place)
    if scheme == "s3" and rest.startswith("//"):
        from tanuki_async.storage.s3 import S3Storage

        return S3Storage(place)
    if "://" in place or not place or (colon and len(scheme) > 1):
        raise SettingsError(f"storage {_without_login(place)!r} is of no known kind; give {_KNOWN}")
    return FilesystemStorage(Path(place))


def _path_in(place: str, rest: str) -> str:
    """Read the path of a `file:` URL, relative or absolute; empty where it has none."""
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host and host.lower() != "localhost":
            raise SettingsError(
                f"storage {_without_login(place)!r} names a host, {host.rpartition('@')[2]!r}; write 'file:DIR' or "
                "'file:///DIR' for a directory of this machine"
            )
        rest = slash + path
    return os.fsdecode(unquote_to_bytes(rest)) if rest.strip("/") else ""


def open_limits(settings: Settings, storage: Storage, clock: Clock) -> SharedLimits | None:
    """Make what shares limits between processes: where `shared_limits` says, or else where storage is a Redis."""
    wanted = settings.shared_limits
    if wanted is False or (wanted is None and not type(storage).__module__.startswith("tanuki_async.storage.redis")):
        return None
    from tanuki_async._pool.shared import SharedLimits
    from tanuki_async.storage._redis_place import RedisPlace
    from tanuki_async.storage.redis import RedisStorage

    if isinstance(wanted, str):
        return SharedLimits(RedisPlace.parse(wanted), clock=clock)
    return SharedLimits(storage.place, clock=clock) if isinstance(storage, RedisStorage) else None


def _without_login(place: str) -> str:
    _, login, rest = place.rpartition("@")
    return f"{place.partition(':')[0]}://{rest}" if login else place
