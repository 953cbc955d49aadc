"""From what settings say about storage to a Storage."""

from __future__ import annotations

from pathlib import Path

from tanuki_async._errors import SettingsError
from tanuki_async._settings import data_directory
from tanuki_async.abc import Storage


def open_place(place: Storage | str | Path | None) -> Storage:
    """Make the Storage that is meant. Nothing is opened or created yet."""
    from tanuki_async.storage.filesystem import FilesystemStorage
    from tanuki_async.storage.memory import MemoryStorage

    if isinstance(place, Storage):
        return place
    if place is None:
        return FilesystemStorage(data_directory())
    if isinstance(place, Path):
        return FilesystemStorage(place)
    if not isinstance(place, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
        raise SettingsError(f"storage is a directory, 'file:DIR', 's3://…', 'memory:' or a Storage, not {place!r}")
    scheme, colon, rest = place.partition(":")
    if scheme == "memory" and colon and not rest.strip("/"):
        return MemoryStorage()
    if scheme == "file" and colon and rest:
        return FilesystemStorage(Path(rest.removeprefix("//")))
    if scheme == "s3" and rest.startswith("//"):
        from tanuki_async.storage.s3 import S3Storage

        return S3Storage(place)
    if "://" in place or not place or (colon and len(scheme) > 1):
        raise SettingsError(
            f"storage {place!r} is of no known kind; give a directory, 'file:DIR', 's3://bucket/prefix' or 'memory:'"
        )
    return FilesystemStorage(Path(place))
