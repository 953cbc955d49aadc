"""Exchanges over a client of httpx or httpx2: one that the user brings, or ours for proxies that we do not speak to."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tanuki_async._errors import NotOpenError, ProviderUnreachableError, SettingsError, TanukiError, clip
from tanuki_async._pool.proxy import Proxy
from tanuki_async._records import Reply
from tanuki_async.abc import Streamed


class Lent:
    """Exchanges over an AsyncClient of httpx or httpx2. Closes it only if it is `ours`."""

    def __init__(self, client: Any, *, ours: bool = False) -> None:
        self._client = client
        self._ours = ours

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """Exchange one request for one whole answer."""
        try:
            response = await self._client.request(method, url, headers=headers, content=body)
        except Exception as error:  # either library's errors, known by name so that neither need be imported
            ours = self._translated(error)
            if ours is None:
                raise
            raise ours from error
        return Reply(status=response.status_code, headers=dict(response.headers), body=response.content)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncGenerator[Streamed]:
        """Exchange one request for an answer that is read as it comes."""
        plain = {**headers, "accept-encoding": "identity"}
        try:
            async with self._client.stream(method, url, headers=plain, content=body) as response:
                yield Streamed(response.status_code, dict(response.headers), response.aiter_bytes())
        except Exception as error:  # as in `send`; what the reader raises itself is none of theirs, and goes on
            ours = self._translated(error)
            if ours is None:
                raise
            raise ours from error

    async def aclose(self) -> None:
        """Close the client if it is ours."""
        if self._ours:
            await self._client.aclose()

    def _translated(self, error: Exception) -> TanukiError | None:
        if getattr(self._client, "is_closed", False):
            return NotOpenError("the http_client is closed; keep it open for as long as the Tanuki is")
        name = type(error).__name__
        if not any(kind.__name__ in ("RequestError", "InvalidURL") for kind in type(error).__mro__):
            return None
        if name in ("ReadTimeout", "WriteTimeout", "PoolTimeout"):
            return ProviderUnreachableError(
                f"the http_client's own timeout passed ({name}); make it with `timeout=None`, calls have their own"
            )
        return ProviderUnreachableError(f"{name}: {clip(str(error))}" if str(error) else name)


def open_lent(proxy: Proxy, context: ssl.SSLContext, connect_seconds: float) -> Lent:
    """Make a client of httpx for a proxy that we do not speak to ourselves. Loads much."""
    import httpx

    try:
        client = httpx.AsyncClient(
            proxy=httpx.Proxy(proxy.url, ssl_context=context if proxy.scheme == "https" else None),
            verify=context,
            trust_env=False,
            timeout=httpx.Timeout(None, connect=connect_seconds),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        )
    except ImportError as error:
        raise SettingsError(
            f"the environment names the {proxy.scheme} proxy {proxy}, and that needs a package; "
            "install tanuki_async[socks]"
        ) from error
    return Lent(client, ours=True)
