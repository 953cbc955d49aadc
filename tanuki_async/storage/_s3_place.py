"""Which bucket, where, how: what a URL or arguments say about a place in S3."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from tanuki_async._errors import SettingsError, clip

__all__ = ["Place"]

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"(?:[A-Za-z0-9._=-]+/)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A bucket and what must be said to use it. `prefix` is empty or ends with `/`."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    sse: str | None = None
    kms_key: str | None = None
    writers: Literal["many", "single"] = "many"

    def __post_init__(self) -> None:
        """Refuse what cannot be a place."""
        if not _BUCKET.fullmatch(self.bucket):
            raise SettingsError(f"an S3 place looks like 's3://bucket/prefix'; {clip(self.bucket)!r} is no bucket")
        if not _PREFIX.fullmatch(self.prefix):
            raise SettingsError(f"the prefix {clip(self.prefix)!r} has characters other than A-Z a-z 0-9 . _ = - and /")
        if self.endpoint is not None and not _is_endpoint(self.endpoint):
            raise SettingsError(f"endpoint looks like 'https://host:port', not {_without_login(self.endpoint)!r}")
        if self.writers not in ("many", "single"):
            raise SettingsError(f"writers is 'many' or 'single', not {self.writers!r}")
        if self.kms_key is not None and self.sse not in ("aws:kms", "aws:kms:dsse"):
            raise SettingsError("kms_key needs sse=aws:kms beside it")

    @classmethod
    def from_url(cls, url: str) -> Place:
        """Read `s3://bucket/prefix?endpoint=…&region=…`. SettingsError where that, or the extra, is missing."""
        if find_spec("aioboto3") is None:  # told now, not at the first write
            raise SettingsError("S3 needs the extra 's3': pip install 'tanuki_async[s3]'")
        parts = _parts(url)
        told = dict(parse_qsl(parts.query, keep_blank_values=True))
        known = [field.name for field in fields(cls) if field.name not in ("bucket", "prefix")]
        if unknown := sorted(set(told) - set(known)):
            raise SettingsError(f"{unknown[0]!r} says nothing to S3; known after '?' are {', '.join(known)}")
        prefix = unquote(parts.path).strip("/")
        return cls(bucket=parts.netloc, prefix=prefix and f"{prefix}/", **told)  # type: ignore[arg-type]

    @property
    def address(self) -> str:
        """What names the place alone, and stays when it is used in another way."""
        return f"s3://{self.bucket}/{self.prefix}" + (f" at {self.endpoint.rstrip('/')}" if self.endpoint else "")

    def __str__(self) -> str:
        """Write it as a URL."""
        told = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("bucket", "prefix") and getattr(self, field.name) != field.default
        }
        return f"s3://{self.bucket}/{self.prefix.rstrip('/')}" + (f"?{urlencode(told, safe=':/')}" if told else "")


def _parts(url: str) -> SplitResult:
    """Take a URL apart, which may hold no key. The error tells nothing of it, as it may hold one all the same."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme == "s3" and "@" not in parts.netloc + parts.path and not parts.port and not parts.fragment:
            return parts
    raise SettingsError("an S3 place looks like 's3://bucket/prefix?region=…'; keys come from the AWS chain") from None


def _without_login(endpoint: str) -> str:
    return clip(endpoint.rpartition("@")[2])


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username and parts.port != 0
    except ValueError:
        return False
