"""Where a Redis is: what its URL says, a client for it, and a name for messages that tells no secret."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from tanuki_async._errors import SettingsError

__all__ = ["SCHEMES", "RedisPlace"]

SCHEMES = ("redis", "rediss", "redis+sentinel", "rediss+sentinel")
_PREFIX = re.compile(r"[A-Za-z0-9._:/-]{1,100}")
_SECONDS = 5.0
"""How long a connection may take, and an answer: a server that is stopped must not stop its clients."""
_FORMS = (
    "write redis://HOST:PORT/DB, rediss:// for TLS, redis://HOST:PORT?cluster=true for a Cluster, "
    "or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisPlace:
    """One Redis, Cluster, or service of Sentinels. Its text and repr never hold a password."""

    name: str
    url: str = field(repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    cluster: bool = False
    prefix: str = "tanuki"
    wait: int = 0
    """How many replicas must have a write before it counts as durable."""
    sentinel_login: tuple[str, str] = field(default=("", ""), repr=False)
    """User and password of the Sentinels themselves, where they want them."""
    members: int = 1
    """How many processes share limits at most, for one that starts while this Redis is away."""
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, url: str) -> RedisPlace:
        """Understand a URL; SettingsError, without the URL's password, where that cannot be done."""
        try:
            import_module("redis.asyncio.sentinel")  # now, not within the first call
        except ImportError:
            raise SettingsError("Redis needs the extra 'redis': pip install 'tanuki_async[redis]'") from None
        try:
            return cls._parse(url)
        except ValueError as error:
            raise SettingsError(f"not the URL of a Redis ({error}): {_FORMS}") from None

    @classmethod
    def _parse(cls, url: str) -> RedisPlace:
        parts = _parts(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        prefix, cluster = query.pop("prefix", "tanuki"), query.pop("cluster", "false").lower()
        wait, members = int(query.pop("wait", "0")), int(query.pop("members", "1"))
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"prefix {prefix!r} is not made of A-Z a-z 0-9 . _ - : and /")
        if cluster not in ("true", "false", "1", "0") or wait < 0 or members < 1:
            raise ValueError("cluster is true or false, wait a number of replicas, members a number of processes")
        is_cluster = cluster in ("true", "1")
        login, _, hosts = parts.netloc.rpartition("@")
        path = parts.path.strip("/")
        sentinel_login = query.pop("sentinel_username", ""), query.pop("sentinel_password", "")
        sentinel = parts.scheme.endswith("+sentinel")
        addresses = _addresses(hosts) if sentinel else ()
        service, _, database = path.partition("/") if sentinel else ("", "", path)
        if sentinel and not service:
            raise ValueError("the service's name is missing after the hosts")
        if any(sentinel_login) and not sentinel:
            raise ValueError("sentinel_username and sentinel_password go with redis+sentinel://")
        if database and not database.isdigit():
            raise ValueError(f"database {database!r} is not a number")
        if is_cluster and database not in ("", "0"):
            raise ValueError("a Cluster has database 0 only")
        _ = parts.port if not sentinel else None  # raises where it is no number
        where = f"{parts.scheme}://{hosts}/{path}".rstrip("/")
        plain = _plain(parts, login, hosts if not sentinel else "localhost", database, query)
        password = login.partition(":")[2]
        others = (value for key, value in query.items() if "password" in key)
        return cls(
            name=where,
            url=plain,
            sentinels=addresses,
            service=service,
            cluster=is_cluster,
            prefix=prefix,
            wait=wait,
            members=members,
            sentinel_login=sentinel_login,
            secrets=tuple(filter(None, (unquote(password), password, sentinel_login[1], *others))),
        )

    def connect(self) -> Any:
        """Make a client for the running loop. It connects when it is used, and never repeats a command by itself."""
        clients: Any = import_module("redis.asyncio")  # whose types leave out most of what they take
        retries: Any = import_module("redis.asyncio.retry")
        never = retries.Retry(import_module("redis.backoff").NoBackoff(), 0)
        how = {"socket_timeout": _SECONDS, "socket_connect_timeout": _SECONDS, "protocol": 2, "retry": never}
        how |= _nameless()
        if self.cluster:
            moves = retries.Retry(import_module("redis.backoff").NoBackoff(), 3)  # to where a slot has moved
            return clients.RedisCluster.from_url(self.url, **how | {"retry": moves})
        if not self.sentinels:
            return clients.Redis.from_url(self.url, **how)
        options = import_module("redis.asyncio.connection").parse_url(self.url)
        login = {key: options[key] for key in ("username", "password", "db") if key in options}
        secure = {"ssl": True} if self.url.startswith("rediss:") else {}
        user, password = self.sentinel_login
        watchers = how | secure | {"username": user or None, "password": password or None}
        sentinels = import_module("redis.asyncio.sentinel").Sentinel(self.sentinels, sentinel_kwargs=watchers)
        return sentinels.master_for(self.service, **login, **secure, **how)


def _parts(url: str) -> SplitResult:
    """Take a URL apart; ValueError, which tells nothing of it, where its password would end up in another part."""
    try:
        parts = urlsplit(url)
    except ValueError:  # whose text may hold all of it
        raise ValueError("its host is malformed") from None
    if parts.scheme not in SCHEMES:
        raise ValueError(f"scheme {parts.scheme!r}")
    if parts.fragment or "@" in parts.path or ("@" in parts.query and "@" not in parts.netloc):
        raise ValueError("in a password, / ? # and @ are written %2F %3F %23 and %40")
    return parts


def _nameless() -> dict[str, None]:
    """Keep a client from looking up its own version, which reads files while a loop runs."""
    if find_spec("redis.driver_info") is None:  # before redis 7.1
        return {"lib_name": None, "lib_version": None}
    return {"driver_info": None}


def _addresses(hosts: str) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for host in hosts.split(","):
        each = urlsplit(f"//{host}")
        if not each.hostname:
            raise ValueError("a Sentinel's host is missing")
        found.append((each.hostname, each.port or 26379))
    return tuple(found)


def _plain(parts: SplitResult, login: str, hosts: str, database: str, query: dict[str, str]) -> str:
    """Write the URL as the client understands it, without what is ours."""
    netloc = f"{login}@{hosts}" if login else hosts
    scheme = parts.scheme.removesuffix("+sentinel")
    return urlunsplit((scheme, netloc, f"/{database}" if database else "", urlencode(query), ""))
