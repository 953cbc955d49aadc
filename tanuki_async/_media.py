"""Images and documents, as a user gives them to a patched function."""

from __future__ import annotations

import os
from typing import ClassVar, Self

from tanuki_async._codec.media import Media
from tanuki_async._errors import InputError, clip
from tanuki_async._records import Attached


class File(Media):
    """What can be read from a file."""

    __slots__ = ()

    @classmethod
    async def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file, in a worker thread, so that the event loop goes on. OSError where it cannot be read.

        InputError for a file that is too large, which is not read at all, or of another format.
        """
        import asyncio

        return await asyncio.to_thread(cls._open, path)

    @classmethod
    def _open(cls, path: str | os.PathLike[str]) -> Self:
        with open(path, "rb") as file:  # noqa: PTH123  # it may be a path of bytes
            size = os.fstat(file.fileno()).st_size
            if size <= cls.most:
                try:
                    return cls(file.read(cls.most + 1))
                except InputError as error:
                    raise cls._unfit(path, error.reason) from None
        raise cls._unfit(path, f"has {size:,} bytes, and at most {cls.most:,} are sent; make it smaller")

    @classmethod
    def _unfit(cls, path: str | os.PathLike[str], reason: str) -> InputError:
        return InputError(f"{cls.__name__}.open", "path", f"{clip(os.fspath(path))!r} {reason}")


class Image(File):
    """An image for a model to look at: an argument of a patched function, alone or inside lists, models, dataclasses.

    `Image(png_bytes)`, `Image(url="https://…")`, which the model's provider fetches, or `await Image.open(path)`.
    PNG, JPEG, GIF or WebP, recognised by content, of at most 20 MiB; providers may take less.
    """

    __slots__ = ()
    kind: ClassVar[Attached] = "image"
    most: ClassVar[int] = 20 * 2**20
    formats: ClassVar[str] = "PNG, JPEG, GIF or WebP"


class Document(File):
    """A PDF for a model to read, given as an Image is. At most 32 MiB; providers may take less."""

    __slots__ = ()
    kind: ClassVar[Attached] = "document"
    most: ClassVar[int] = 32 * 2**20
    formats: ClassVar[str] = "PDF"


for _public in (Image, Document):
    _public.__module__ = "tanuki_async"  # in messages, and in pickles, which outlive a move of this file
