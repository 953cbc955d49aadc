"""Which formats there are, how their bytes begin, and what an address may look like."""

from __future__ import annotations

from urllib.parse import urlsplit

from tanuki_async._records import Attached

_PDF = "application/pdf"
_PDF_HEADER = 1_024  # bytes among which readers look for it
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_ENDINGS = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "pdf": _PDF,
}


def recognised(data: bytes) -> str | None:
    """Return the media type that bytes begin like, of those that models take."""
    for start, media_type in _STARTS:
        if data.startswith(start):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return _PDF if b"%PDF-" in data[:_PDF_HEADER] else None


def kind_of(media_type: str) -> Attached:
    """Tell what is of this type."""
    return "document" if media_type == _PDF else "image"


def by_ending(url: str, kind: Attached) -> str:
    """Guess the media type of what is at an address; `image/*` where it does not tell."""
    found = _ENDINGS.get(urlsplit(url).path.rpartition(".")[2].lower())
    if found is not None and kind_of(found) == kind:
        return found
    return _PDF if kind == "document" else "image/*"


def is_address(url: str) -> bool:
    """Tell an address that a provider may be told to fetch: https, whole, without a name or password in it."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.username is None and parts.password is None
    except ValueError:
        return False
