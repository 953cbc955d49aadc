"""Where a URL leads, and how an exchange with it fails."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from tanuki_async._errors import ProviderUnreachableError, SettingsError, clip
from tanuki_async._pool.parser import MalformedError

_PACKED, _PLAIN = "accept-encoding: gzip\r\n", "accept-encoding: identity\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads: taken apart once, then kept."""

    scheme: str
    host: str
    port: int
    authority: str
    """Host and port as the URL has them."""
    path: str
    origin: tuple[str, str, int]
    start: str
    """What follows the method: the rest of the request line, and the headers that every request has."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def unpacked(self) -> Target:
        """The same, asking for an answer that is not compressed."""
        return replace(self, start=self.start.replace(_PACKED, _PLAIN))


def split_url(url: str, *, absolute: bool = False) -> Target:
    """Take a URL apart. SettingsError for one that is not absolute http or https.

    `absolute` is for a proxy that is told the whole URL in the request line.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"{clip(url)!r} is not a URL: {error}") from error
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    shown = parts.netloc.rpartition("@")[2]
    plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise SettingsError(f"{clip(url)!r} is not an absolute http or https URL")
    asked = f"{parts.scheme}://{shown}{path}" if absolute else path
    start = f" {asked} HTTP/1.1\r\nhost: {shown}\r\n{_PACKED}"
    origin = (parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80))
    return Target(*origin, authority=shown, path=path, origin=origin, start=start)


class CutError(Exception):
    """The exchange was cut off.

    `begun` tells whether a part of the answer had come; `unprocessed` that the server says it did nothing yet.
    """

    def __init__(self, *, begun: bool, cause: object = None, unprocessed: bool = False) -> None:
        super().__init__(begun, cause, unprocessed)
        self.begun, self.cause, self.unprocessed = begun, cause, unprocessed


def unreachable(target: Target, error: CutError) -> ProviderUnreachableError:
    """Make the error for an exchange that was cut off."""
    when = "before its answer was whole" if error.begun else "without an answer"
    why = f": {clip(str(error.cause))}" if error.cause else ""
    return ProviderUnreachableError(f"{target} closed the connection {when}{why}")


def malformed(target: Target, error: MalformedError) -> ProviderUnreachableError:
    """Make the error for an answer that is none."""
    return ProviderUnreachableError(f"what {target} sent is not a valid HTTP answer: {error}")
