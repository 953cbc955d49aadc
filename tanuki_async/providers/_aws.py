"""One AWS account in one region: its addresses, and what makes a request to them accepted."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import urlsplit

from tanuki_async._errors import SettingsError, clip
from tanuki_async._version import __version__
from tanuki_async.providers._aws_keys import KeyChain
from tanuki_async.providers._aws_signature import signed
from tanuki_async.providers._secrets import Headers

Service = Literal["bedrock-runtime", "bedrock", "s3"]

_AGENT = f"tanuki_async/{__version__}"
_JSON = "application/json"
_LARGE = 2**20
"""Bytes of a body whose hash takes long enough to be made in a thread."""


class AwsAccount:
    """Signs with the credentials that its key chain finds, or shows a Bedrock API key; S3 takes no such key."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        session: Any = None,
        base_url: str | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api_key = api_key
        self._signs = profile is not None or session is not None  # asked for by name: the environment's key waits
        self._chain = KeyChain(profile, session)
        self._region = region
        self._urls: dict[Service, str] = {} if base_url is None else {"bedrock-runtime": base_url}
        self._now = now
        self._bearer: tuple[str, Headers] | None = None

    async def request(
        self, method: str, service: Service, path: str, body: bytes = b"", *, query: str = ""
    ) -> tuple[str, Headers]:
        """Return URL and headers. `path` and `query` are percent-encoded. SettingsError where something is missing."""
        url = (self._urls.get(service) or await self._find_url(service)) + path + (query and f"?{query}")
        kind = _JSON if body and service != "s3" else ""
        if service != "s3" and (key := self._key()):
            return url, self._with_bearer(key)
        region, keys = self._region or await self.region(), await self._chain.keys()
        name = "s3" if service == "s3" else "bedrock"

        def sign() -> Headers:
            return signed(method, url, body, keys=keys, service=name, region=region, at=self._now(), content_type=kind)

        headers = sign() if len(body) < _LARGE else await asyncio.to_thread(sign)
        headers["user-agent"] = _AGENT
        return url, headers

    @property
    def known_region(self) -> str | None:
        """The region, if a request needed it already."""
        return self._region

    def forget_keys(self) -> bool:
        """Look credentials up anew at the next request. False where that would change nothing."""
        return self._chain.forget()

    async def region(self) -> str:
        """The region that was given, or is named by the session, the environment or the profile."""
        if self._region is None:
            named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            self._region = (None if self._signs else named) or await self._chain.region() or named
        if self._region is None:
            raise SettingsError("no AWS region: set AWS_REGION, or pass Bedrock(region=…)")
        if not self._region.replace("-", "").isalnum():
            raise SettingsError(f"an AWS region looks like 'us-east-1', not {clip(self._region)!r}")
        return self._region

    async def _find_url(self, service: Service) -> str:
        variable = f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}"
        if not os.environ.get(variable):
            variable = "AWS_ENDPOINT_URL"
        if told := os.environ.get(variable):
            url = told.strip().rstrip("/")
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
                raise SettingsError(f"{variable} looks like 'https://host', not {clip(told)!r}")
        else:
            region = await self.region()
            url = f"https://{service}.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
        self._urls[service] = url
        return url

    def _key(self) -> str | None:
        if self._api_key is not None:
            return self._api_key.strip()
        return None if self._signs else (os.environ.get("AWS_BEARER_TOKEN_BEDROCK") or "").strip() or None

    def _with_bearer(self, key: str) -> Headers:
        if self._bearer is None or self._bearer[0] != key:
            if not (key.isascii() and key.isprintable()):
                raise SettingsError("the Bedrock API key has characters that cannot be sent, such as a line break")
            headers = Headers({"content-type": _JSON, "authorization": f"Bearer {key}", "user-agent": _AGENT})
            self._bearer = key, headers
        return self._bearer[1]
