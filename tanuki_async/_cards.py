"""What a function looked like, kept beside its data, and where storage keeps small things of a function."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tanuki_async._clock import Clock, timestamp
from tanuki_async._codec.describe import FunctionSpec
from tanuki_async._errors import StorageError
from tanuki_async._lines import compact
from tanuki_async.abc import Storage

__all__ = ["Card", "card_key", "forgotten_key", "put_card"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a function looked like, kept beside its data so that the data can be told apart."""

    name: str
    qualname: str
    module: str
    signature: str
    doc: str
    hash: str
    first_seen: str

    def to_json(self) -> bytes:
        """Write the card as a small JSON document."""
        return compact({"v": 1, **{name: getattr(self, name) for name in self.__slots__}})

    @classmethod
    def from_json(cls, text: bytes) -> Card:
        """Read what `to_json` wrote; StorageError where it is something else."""
        try:
            document: dict[str, Any] = json.loads(text)
            document.pop("v")
            return cls(**document)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StorageError(f"not a function's card: {error!r}") from error


def card_key(function_hash: str) -> str:
    """Where storage keeps a function's card."""
    return f"{function_hash}/function"


def forgotten_key(function_hash: str) -> str:
    """Where storage keeps how often examples of a function were forgotten, for those who remember them."""
    return f"{function_hash}/forgotten"


async def put_card(storage: Storage, spec: FunctionSpec, clock: Clock) -> None:
    """Keep what a function looks like beside its data, unless that was done before."""
    key = card_key(spec.hash)
    if await storage.get(key) is None:
        card = Card(
            name=spec.name,
            qualname=spec.qualname,
            module=spec.module,
            signature=spec.signature,
            doc=spec.doc,
            hash=spec.hash,
            first_seen=timestamp(clock.now()),
        )
        await storage.put(key, card.to_json(), version=None)
