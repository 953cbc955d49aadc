"""The teacher of the demonstration: a loopback server in a process of its own that knows the right labels."""

from __future__ import annotations

import asyncio
import random
from functools import cache

from tanuki_async._cli import _sms
from tanuki_async.testing import ChatRequest, Value

FASTEST, SLOWEST = 0.06, 0.1  # seconds; hosted models take longer


async def answer(request: ChatRequest) -> Value:
    """Answer what the message is labelled in the set, after as long as a quick model takes."""
    await asyncio.sleep(random.uniform(FASTEST, SLOWEST))
    return Value(_labels()[request.arguments["text"]])


@cache
def _labels() -> dict[str, str]:
    return dict(_sms.load())
