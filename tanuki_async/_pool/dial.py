"""Makes connections: looks up names, asks a proxy where one stands between, speaks TLS. Sends nothing itself."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from tanuki_async._errors import NotOpenError, ProviderUnreachableError, SettingsError, clip
from tanuki_async._pool.limits import Gate
from tanuki_async._pool.names import Names, shared
from tanuki_async._pool.proxy import Proxy, open_tunnel
from tanuki_async._pool.targets import Target
from tanuki_async._pool.trust import Trust, Verify, read_trust

P = TypeVar("P", bound=asyncio.BaseProtocol)

CONNECT_SECONDS = 10.0
ADDRESS_SECONDS = 2.0  # for one address of a host that has several
CONNECTING_AT_ONCE = 100  # a thousand in one round would stop the loop for a fifth of a second


class Dialer:
    """Makes connections on one event loop, a bounded number at once, each within `connect_seconds`.

    A connection that is cancelled while it is made is closed.
    """

    def __init__(self, *, connect_seconds: float = CONNECT_SECONDS, verify: Verify = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._verify = verify
        self._names = Names()
        self._gate = Gate(CONNECTING_AT_ONCE)
        self._trust: asyncio.Task[Trust] | None = None
        self._closed = False
        self.connect_seconds = connect_seconds

    async def connect(self, make: Callable[[], P], target: Target, proxy: Proxy | None) -> P:
        """Connect `make()` to `target`. ProviderUnreachableError where that fails."""
        where = f"{target} over the proxy {proxy}" if proxy else str(target)
        await self._gate.enter()
        try:
            async with asyncio.timeout(self.connect_seconds):
                trust = await self.trust() if target.scheme == "https" else None
                context = trust.context if trust else None
                transport, protocol = await self._connect_somewhere(make, target, proxy, context)
        except TimeoutError as error:
            raise ProviderUnreachableError(f"no connection to {where} within {self.connect_seconds:g} s") from error
        except ssl.SSLCertVerificationError as error:
            raise _untrusted(where, error) from error
        except (OSError, UnicodeError) as error:  # a host name that cannot be looked up is a UnicodeError
            raise ProviderUnreachableError(f"cannot connect to {where}: {clip(str(error))}") from error
        finally:
            self._gate.leave()
        if self._closed:
            transport.abort()
            raise NotOpenError("the connections were closed while one was being made")
        if trust and not trust.http2 and transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            transport.abort()
            raise SettingsError(
                f"the SSLContext in verify= offers HTTP/2, and {target} picked that; install tanuki_async[http2], or "
                "leave 'h2' out of its set_alpn_protocols"
            )
        return protocol

    async def trust(self) -> Trust:
        """The certificates to trust, read once, in a thread: that takes tens of milliseconds."""
        if self._trust is None:
            reading = asyncio.to_thread(read_trust, self._verify)
            self._trust = asyncio.create_task(reading, name="tanuki_async: read certificates")
        return await shared(self._trust)

    def close(self) -> None:
        """End what is being looked up and read. Who waits for it gets NotOpenError."""
        self._closed = True
        self._names.close()
        self._gate.close()
        if self._trust is not None:
            self._trust.cancel()

    async def _connect_somewhere(
        self, make: Callable[[], P], target: Target, proxy: Proxy | None, context: ssl.SSLContext | None
    ) -> tuple[Any, P]:
        host, port = (proxy or target).host, (proxy or target).port
        *others, last = await self._names.addresses(host, port)
        for address in others:
            try:
                async with asyncio.timeout(ADDRESS_SECONDS):
                    return await self._connect_to(address, make, target, proxy, context)
            except OSError:  # TimeoutError is one
                self._names.failed(host, port, address)
        return await self._connect_to(last, make, target, proxy, context)

    async def _connect_to(
        self, address: str, make: Callable[[], P], target: Target, proxy: Proxy | None, context: ssl.SSLContext | None
    ) -> tuple[Any, P]:
        name = None if context is None else target.host
        if proxy is not None and context is not None:
            tunnel = await open_tunnel(proxy, address, target)  # closed by create_connection, should that fail
            made = await self._loop.create_connection(make, sock=tunnel, ssl=context, server_hostname=name)
        else:
            port = (proxy or target).port
            made = await self._loop.create_connection(make, address, port, ssl=context, server_hostname=name)
        return made


def _untrusted(where: str, error: ssl.SSLCertVerificationError) -> ProviderUnreachableError:
    told = ProviderUnreachableError(
        f"the certificate of {where} is not to be trusted: {clip(str(error))}; if an authority of your own has signed "
        "it, name that authority's file in SSL_CERT_FILE or Tanuki(verify=…)"
    )
    told.should_retry = False
    return told
