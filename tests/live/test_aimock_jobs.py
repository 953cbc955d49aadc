"""Trainings and batches against somebody else's imitation of OpenAI: aimock, an npm package.

    npm install @copilotkit/aimock@1.43.0
    AIMOCK_CLI_PATH=node_modules/@copilotkit/aimock/dist/cli.js pytest -m live tests/live/test_aimock_jobs.py
"""  # fmt: skip

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter

import tanuki_async as tanuki
from tanuki_async import Tanuki
from tanuki_async._pool.http import Connections
from tanuki_async._records import Job, Training
from tanuki_async.abc import Batches, Tuning
from tanuki_async.providers.openai import OpenAI

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

CLI = os.environ.get("AIMOCK_CLI_PATH")
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not CLI, reason="AIMOCK_CLI_PATH names no cli.js of aimock"),
]

CHAT = json.dumps(
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": '{"value":"good"}'}]}
).encode()


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """A server of its own for each test, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fixtures = tmp_path / "fixtures"
    await asyncio.to_thread(fixtures.mkdir)
    await asyncio.to_thread((fixtures / "none.json").write_text, '{"fixtures":[]}')
    process = await asyncio.create_subprocess_exec("node", str(CLI), "-p", str(port), "-f", str(fixtures))
    try:
        async with asyncio.timeout(20):
            while not await answers(port):  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        await process.wait()


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.fixture
async def http() -> AsyncIterator[Connections]:
    connections = Connections()
    yield connections
    await connections.aclose()


async def ended(jobs: Tuning | Batches, job: Job, http: Connections) -> Job:
    async with asyncio.timeout(30):
        while job.status == "running":
            job = await jobs.get(job.id, http)
            await asyncio.sleep(0.05)
    return job


async def test_a_training_runs_to_its_end_once(url: str, http: Connections) -> None:
    tuning = OpenAI("sk-test", url).tuning
    assert tuning is not None
    training = Training(base="gpt-4.1-mini-2025-04-14", tag="tanuki-abc-1", lines=(CHAT,) * 12)

    job = await tuning.start(training, http)
    again = await tuning.start(training, http)
    job = await ended(tuning, job, http)

    assert again.id == job.id
    assert job.status == "succeeded"
    assert job.model is not None
    assert await tuning.events(job.id, http)
    found = await tuning.find("tanuki-abc-1", http)
    assert found is not None
    assert found.id == job.id


async def test_a_batch_is_answered(url: str) -> None:
    @tanuki.patch(teacher_models="openai:gpt-6-luna")
    async def mood(text: str) -> str:
        """Tell the mood of a text."""
        ...

    async with Tanuki(storage="memory:", providers=[OpenAI("sk-test", url)]):
        items = ["a lovely day", "an awful day", "a lovely night"]
        found = [mood async for mood in tanuki.amap(mood, items, mode="batch")]

    assert found == ["Mock batch completion"] * 3  # it answers all lines of a batch so
