"""What the tests of whole calls share: an open Tanuki in front of a loopback server, and what it recorded."""

from __future__ import annotations

import json
from typing import Any

import tanuki_async as tanuki
from tanuki_async import Tanuki
from tanuki_async.abc import Storage
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.testing import LoopbackServer


def tanuki_for(server: LoopbackServer, storage: Storage, **settings: Any) -> Tanuki:
    """A Tanuki whose only teacher is the model `small` of `server`."""
    return Tanuki(**settings_for(server, storage, **settings))


def settings_for(server: LoopbackServer, storage: Any, **settings: Any) -> dict[str, Any]:
    return {
        "storage": storage,
        "providers": [OpenAICompatible(server.url, name="loopback")],
        "teacher_models": "loopback:small",
        "embedding_model": "loopback:embed",
        **settings,
    }


async def recorded(storage: Storage, f: Any, dataset: str = "PATCHES") -> list[dict[str, Any]]:
    """All records of a function, once everything is written."""
    await tanuki.flush()
    name = f"{tanuki.describe(f).hash}/{dataset}"
    return [json.loads(line) async for batch in storage.scan(name) for line in batch]


def last_user_turn(server: LoopbackServer, place: int = -1) -> str:
    """What the model was asked last in one request."""
    return next(m["content"] for m in reversed(server.requests[place].body["messages"]) if m["role"] == "user")


def at_rest(opened: Tanuki) -> bool:
    """Whether no call is on its way or waits."""
    pool = opened.statistics().pool
    return pool.in_flight == 0 and pool.waiting == 0
