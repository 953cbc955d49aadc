"""What a Redis says when it fails, as a StorageError that says what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator

from tanuki_async._errors import StorageError, clip
from tanuki_async.storage._redis_place import RedisPlace

__all__ = ["translated"]

_SENTINEL_LOGIN = (
    "the Sentinels want another password of their own: add ?sentinel_password= to the URL, and sentinel_username= if "
    "they have users"
)
_KEPT_ELSE = "something else is kept under our keys: choose another ?prefix="
_BY_WORD = (
    ("WRONGPASS", "user or password is wrong: correct the URL, redis://USER:PASSWORD@HOST"),
    ("invalid username-password", "user or password is wrong: correct the URL, redis://USER:PASSWORD@HOST"),
    ("invalid password", "the password is wrong: correct the URL, redis://:PASSWORD@HOST"),
    ("NOAUTH", "it wants a password: write it into the URL, redis://:PASSWORD@HOST"),
    ("Authentication required", "it wants a password: write it into the URL, redis://:PASSWORD@HOST"),
    ("without any password configured", "it has no password: leave it out of the URL"),
    ("NOPERM", "this user may not do that: allow it keys with our prefix, scripts and @read @write"),
    ("has no permissions", "this user may not do that: allow it keys with our prefix, scripts and @read @write"),
    ("READONLY", "it is a replica that takes no writes: name the primary, or its Sentinels with redis+sentinel://"),
    ("read only replica", "it is a replica that takes no writes: name the primary, or its Sentinels"),
    ("previous master is now", "its primary has changed: the next attempt goes to the new one"),
    ("OOM", "its memory is full: raise maxmemory, or remove other data"),
    ("maxmemory", "its memory is full: raise maxmemory, or remove other data"),
    ("LOADING", "it is still loading its data: wait"),
    ("loading the dataset", "it is still loading its data: wait"),
    ("MISCONF", "it cannot write to its disk: free some space there, or look at its log"),
    ("NOREPLICAS", "too few replicas are connected to it: bring them back"),
    ("MASTERDOWN", "its primary is gone: bring it back, or wait for the failover"),
    ("CLUSTERDOWN", "a part of the Cluster has no primary: bring it back, or wait for the failover"),
    ("No master found", "the Sentinels know of no primary for this service: check its name, or wait for the failover"),
    ("BUSY", "a script that does not end keeps it busy: SCRIPT KILL ends that"),
    ("WRONGTYPE", _KEPT_ELSE),
    ("max number of clients", "too many clients are connected: raise maxclients"),
    ("DB index is out of range", "it has no such database: correct the number after the host"),
    ("Cluster mode", "it is no Cluster: leave ?cluster=true out of the URL"),
    ("cluster support disabled", "it is no Cluster: leave ?cluster=true out of the URL"),
    ("MOVED", "it is a part of a Cluster: add ?cluster=true to the URL"),
    ("CROSSSLOT", "it is a part of a Cluster: add ?cluster=true to the URL"),
    ("Name or service not known", "its host is not known: correct the URL"),
    ("Connection refused", "nobody listens there: start Redis, or correct the URL"),
    ("Connect call failed", "nobody listens there: start Redis, or correct the URL"),
    ("Connection closed", "it cut the connection: see whether it was stopped"),
    ("Connection reset", "it cut the connection: see whether it was stopped"),
    ("Timeout", "it does not answer in time: see whether it is stopped or overloaded"),
)
_OTHERWISE = "see its log"
_CLIENT = re.compile(r"<redis\.asyncio.*?> - ")
"""Names each Sentinel that failed, in half a screen."""


@contextlib.contextmanager
def translated(doing: str, place: RedisPlace) -> Generator[None]:
    """Turn any failure of Redis into a StorageError that names the place and what to do, and holds no password."""
    from redis.exceptions import ConnectionError as Cut
    from redis.exceptions import RedisError
    from redis.exceptions import TimeoutError as Late

    try:
        yield
    except (RedisError, OSError) as error:
        said = _CLIENT.sub("", f"{type(error).__name__}: {error}")
        for secret in place.secrets:
            said = said.replace(secret, "***")
        advice = next((advice for word, advice in _BY_WORD if word in said), _OTHERWISE)
        if "No master found" in said and "AuthenticationError" in said:
            advice = _SENTINEL_LOGIN
        down = isinstance(error, OSError | Cut | Late) or advice not in (_OTHERWISE, _KEPT_ELSE)
        raise StorageError(f"could not {doing} at {place}: {advice} ({clip(said)})", down=down) from None
