"""Who holds a lease, until when: the rules, for storages that keep leases themselves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from tanuki_async.abc import Lease

__all__ = ["Held"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A lease as it is kept. It stays when it has ended, so that tokens go on growing."""

    owner: str
    token: int
    until: float  # seconds since 1970, the one clock that processes share

    @staticmethod
    def claim(held: Held | None, owner: str, now: float, seconds: float) -> Held | None:
        """Return the lease after `owner` asked for it, or None where another holds it."""
        if held is None:
            return Held(owner=owner, token=1, until=now + seconds)
        if held.until <= now:
            return Held(owner=owner, token=held.token + 1, until=now + seconds)
        return replace(held, until=now + seconds) if held.owner == owner else None

    def is_of(self, lease: Lease) -> bool:
        """Tell whether `lease` is this one, not an earlier one."""
        return (self.owner, self.token) == (lease.owner, lease.token)

    def ended(self) -> Held:
        """Return it as given back."""
        return replace(self, until=0.0)

    def to_json(self) -> bytes:
        """Write it down."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Held | None:
        """Read it, or return None where it is torn: then nobody holds it."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None
