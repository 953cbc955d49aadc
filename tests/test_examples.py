"""Each example runs for real: its own process or a real server, real HTTP, a teacher on this machine."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import socket
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

import tanuki_async as tanuki
from tanuki_async.testing import ChatRequest, Fault, LoopbackServer, Value

MODELS = (
    "together:Qwen/Qwen3.5-9B",
    "gemini:gemini-3.5-flash-lite",
    "groq:qwen3",
    "ollama:qwen3",
    "anyscale:qwen3",
    "anthropic:claude-haiku-5-5",
    "bedrock:us.amazon.nova-lite-v1:0",
    "bedrock:us.anthropic.claude-haiku-5-5",
)
EXAMPLES = Path(__file__).parent.parent / "examples"


def answer(request: ChatRequest) -> Any:
    """Answer as a sensible model would, and fail where the text asks for it."""
    if request.schema_name == "main_colour":
        (picture,) = request.attachments
        first = zlib.decompress((picture.data or b"")[41:-16])[1:4]
        return Value(("red", "green", "blue")[max(range(3), key=lambda place: first[place])])
    text = request.arguments.get("text", "nonsense")  # a repair shows no arguments at its end
    if "refuse" in text:
        return Fault.refusal()
    if "quota" in text:
        return Fault.quota()
    if "nonsense" in text:
        return "I would rather not say"
    if request.schema_name == "language_of":
        return Value("de" if "Guten" in text else "en")
    if "urgency" in str(request.schema):  # not every format tells the name
        return {"topic": "delivery", "urgency": 1 + len(text) % 5, "summary": text}
    return Value("bad" if any(word in text.lower() for word in ("hate", "never", "broke")) else "good")


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackServer]:
    with LoopbackServer.in_thread(answer, strict=True, latency=0.01, api_key="test") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("TANUKI_LOG_DIR", str(tmp_path / "kept"))
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        yield server


def kept(directory: Path, function: Any, dataset: str = "PATCHES") -> list[dict[str, Any]]:
    path = directory / "kept" / tanuki.describe(function).hash / f"{dataset}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def run(*arguments: str) -> str:
    """Run Python as a user would; a warning or a word on standard error fails."""
    env = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments], env=env, capture_output=True, text=True, timeout=50
    )
    assert done.stderr == ""
    assert done.returncode == 0, done.stdout
    return done.stdout


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module(name)


def test_the_quickstart_answers_and_keeps_what_it_learnt(
    teacher: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = run(str(EXAMPLES / "quickstart.py"))
    assert printed.splitlines() == ["I like you: good", "good", "bad", "good", "good", "bad"]
    assert teacher.served == 6  # aligning asked nobody

    classify = load("quickstart", monkeypatch).classify
    assert [record["args"] for record in kept(tmp_path, classify)] == [["I like you"]] + [
        [text] for text in load("quickstart", monkeypatch).MESSAGES
    ]
    aligned = kept(tmp_path, classify, "SYMBOLIC_ALIGNMENTS")
    assert [record["output"] for record in aligned] == ["good", "bad", None]
    assert "I hate you" in str(teacher.requests[0].body)  # the teacher was shown how


def test_the_picture_is_looked_at(teacher: LoopbackServer) -> None:
    assert run(str(EXAMPLES / "colour_of_picture.py")).splitlines() == ["red", "green", "blue"]
    assert teacher.served == 3


def test_the_align_file_is_a_test_that_teaches_and_asks_nobody(
    teacher: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLES / "align_sentiment.py"))
    assert "1 passed" in printed
    assert teacher.served == 0
    mood = load("fastapi_app", monkeypatch).mood
    assert Counter(record["output"] for record in kept(tmp_path, mood, "SYMBOLIC_ALIGNMENTS")) == {
        "good": 4,
        "bad": 1,
        None: 1,
    }


def test_a_provider_of_ones_own_answers(teacher: LoopbackServer) -> None:
    assert run(str(EXAMPLES / "own_provider.py"), teacher.url, "test") == "good\n"


def test_one_program_serves_every_provider_whose_model_is_named(
    teacher: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = str(EXAMPLES / "any_provider.py")
    assert run(program) == "here:played: delivery, urgency 3; cost unknown\n"

    for provider in ("TOGETHER", "GEMINI", "GROQ", "OPENROUTER", "OLLAMA", "ANYSCALE", "ANTHROPIC"):
        monkeypatch.setenv(f"{provider}_BASE_URL", teacher.url)
        monkeypatch.setenv(f"{provider}_API_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", teacher.url)
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    teacher.strict = False  # each in its own dialect
    printed = run(program, "openai:gpt-6-luna", *MODELS)
    assert [line.partition("; ")[0] for line in printed.splitlines()] == [
        f"{model}: delivery, urgency 1" for model in ("openai:gpt-6-luna", *MODELS)
    ]
    asked = [request.model for request in teacher.requests]
    assert asked == [model.partition(":")[2] for model in ("openai:gpt-6-luna", *MODELS)]


@pytest.fixture
async def service(teacher: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the FastAPI app, which runs under uvicorn; after the test nothing of it may be left."""
    app = load("fastapi_app", monkeypatch).app
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started:
        await asyncio.sleep(0.01)
        assert not serving.done()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=address, timeout=30, trust_env=False) as client:
        client.stop = stop = _stopper(server, serving)  # type: ignore[attr-defined]
        yield client
    await stop()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def _stopper(server: uvicorn.Server, serving: asyncio.Task[None]) -> Any:
    async def stop() -> None:
        server.should_exit = True
        await serving

    return stop


async def test_the_service_answers_many_at_once_and_records_each_once(
    service: httpx.AsyncClient,
    teacher: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts = [f"Parcel {number} never came" for number in range(100)]
    gate = asyncio.Semaphore(50)

    async def ask(text: str) -> dict[str, Any]:
        async with gate:
            reply = await service.post("/tickets", json={"text": text})
        assert reply.status_code == 200, reply.text
        return reply.json()

    answers = await asyncio.gather(*map(ask, texts * 2))
    await service.stop()  # type: ignore[attr-defined]

    assert [each["summary"] for each in answers] == texts * 2
    assert {each["urgency"] for each in answers} == {1 + len(text) % 5 for text in texts}
    assert teacher.max_in_flight > 20
    app = load("fastapi_app", monkeypatch)
    assert Counter(record["args"][0] for record in kept(tmp_path, app.triage)) == Counter(texts)
    assert Counter(record["args"][0] for record in kept(tmp_path, app.language_of)) == Counter(texts)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_patched_coroutine_is_a_dependency_and_a_route(service: httpx.AsyncClient) -> None:
    greeting = await service.get("/greeting", params={"text": "Guten Morgen"})
    assert greeting.json() == {"greeting": "Guten Tag"}
    mood = await service.get("/mood", params={"text": "It broke"})
    assert mood.json() == "bad"
    assert (await service.get("/mood")).status_code == 422


@pytest.mark.parametrize(
    ("text", "status", "kind"),
    [
        ("please refuse", 422, "RefusalError"),
        ("no quota", 502, "QuotaExceededError"),
        ("some nonsense", 502, "OutputError"),
    ],
)
async def test_a_failure_becomes_a_status(text: str, status: int, kind: str, service: httpx.AsyncClient) -> None:
    reply = await service.get("/mood", params={"text": text})
    assert (reply.status_code, reply.json()) == (status, {"error": kind})
