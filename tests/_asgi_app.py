"""What the HTTP/2 server of tests/test_pool_http2_real.py runs: counts what comes up, sends down what is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] != "http":
        return
    came = 0
    while True:
        message = await receive()
        came += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    if scope["path"] == "/down":
        for _ in range(int(scope["query_string"])):
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.05)
    told = {"version": scope["http_version"], "came": came}
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
