"""Our transport alone: the bytes that `ours` sends, exchanged by the same connections; the answer is not read."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from _clients.ours import judge
from _clients.task import KEY, MODEL, Judge

import tanuki_async as tanuki
from tanuki_async._pool.http import Connections
from tanuki_async.providers.openai import OpenAICompatible

PLACE = "The text stands here."


class Eavesdropper:
    """Stands where an httpx client may stand, and keeps what it is to send."""

    async def request(self, method: str, url: str, *, headers: Mapping[str, str], content: bytes) -> Any:
        self.url, self.headers, self.content = url, dict(headers), content
        answer = {"choices": [{"message": {"content": '{"label":"good","score":1}'}, "finish_reason": "stop"}]}
        return SimpleNamespace(status_code=200, headers={}, content=json.dumps(answer).encode())


@asynccontextmanager
async def opened(url: str, scratch: Path) -> AsyncGenerator[Judge]:
    heard = Eavesdropper()
    provider = OpenAICompatible(url, name="local", api_key=KEY)
    async with tanuki.Tanuki(
        storage="memory:", providers=[provider], teacher_models=f"local:{MODEL}", http_client=heard
    ):
        await judge(PLACE)
    begin, _, end = heard.content.partition(PLACE.encode())
    connections = Connections()

    async def call(text: str) -> object:
        body = begin + text.encode() + end
        return await connections.send("POST", heard.url, headers=heard.headers, body=body)

    try:
        yield call
    finally:
        await connections.aclose()
