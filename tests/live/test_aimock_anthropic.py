"""Anthropic's provider against a mock that nobody here wrote: `npm install @copilotkit/aimock`.

Found as `llmock` on PATH, or named by AIMOCK_CLI_PATH. It knows nothing of this project, so it misunderstands other things.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from typing import Literal

import pytest
from pydantic import TypeAdapter

import tanuki_async as tanuki
from tanuki_async import ProviderUnavailableError, ProviderUnreachableError, RateLimitedError
from tanuki_async._errors import ProviderError
from tanuki_async._pool.http import Connections
from tanuki_async._records import AnswerSchema, Completion, Head, Request, Turn
from tanuki_async.providers.anthropic import Anthropic
from tanuki_async.storage.memory import MemoryStorage

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

COMMAND = os.environ.get("AIMOCK_CLI_PATH") or shutil.which("llmock")
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(COMMAND is None, reason="aimock is not installed: npm install -g @copilotkit/aimock"),
]

FIXTURES = [
    {"match": {"userMessage": "love"}, "response": {"content": '{"value":"good"}'}},
    {
        "match": {"userMessage": "broken"},
        "response": {"content": '{"value":"' + "good" * 50 + '"}'},
        "truncateAfterChunks": 2,
    },
]
HEAD = Head(function="f", system="Classify.", answer=AnswerSchema(name="f", schema={"type": "object"}, strict=True))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert COMMAND is not None
    told = tmp_path_factory.mktemp("aimock") / "fixtures.json"
    told.write_text(json.dumps({"fixtures": FIXTURES}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*(["node"] if COMMAND.endswith(".js") else []), COMMAND, "-p", str(port), "-f", str(told)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "aimock did not start"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.fixture
async def http() -> AsyncIterator[Connections]:
    http = Connections()
    yield http
    await http.aclose()


def question(provider: Anthropic, text: str) -> Request:
    return Request(model=provider.model("claude-haiku-5-5"), head=HEAD, turns=(Turn("user", text),))


async def test_a_patched_function_is_answered(url: str) -> None:
    @tanuki.patch(teacher_models="anthropic:claude-haiku-5-5")
    async def classify(text: str) -> Literal["good", "bad"]:
        """Classify."""
        ...

    async with tanuki.Tanuki(storage=MemoryStorage(), providers=[Anthropic("k", url)]):
        assert await asyncio.gather(*(classify(f"I love {number}") for number in range(20))) == ["good"] * 20


async def test_a_stream_is_read(url: str, http: Connections) -> None:
    provider = Anthropic("k", url)
    *pieces, completion = [piece async for piece in provider.stream(question(provider, "I love you"), http)]
    assert isinstance(completion, Completion)
    assert "".join(map(str, pieces)) == completion.text == '{"value":"good"}'


async def test_a_stream_that_is_cut_is_an_error(url: str, http: Connections) -> None:
    provider = Anthropic("k", url)
    with pytest.raises(ProviderUnreachableError):
        async for _ in provider.stream(question(provider, "broken"), http):
            pass


@pytest.mark.parametrize(
    ("chaos", "kind"),
    [
        ("ratelimit", RateLimitedError),
        ("drop", ProviderUnavailableError),
        ("malformed", ProviderUnavailableError),
        ("disconnect", ProviderUnreachableError),
    ],
)
async def test_its_chaos_has_our_classes(url: str, http: Connections, chaos: str, kind: type[ProviderError]) -> None:
    provider = Anthropic("k", url, headers={f"x-aimock-chaos-{chaos}": "1"})
    with pytest.raises(ProviderError) as caught:
        await provider.complete(question(provider, "I love you"), http)
    assert type(caught.value) is kind
