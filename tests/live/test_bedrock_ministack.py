"""Bedrock and S3 as another program plays them: ministack, where its command is installed (in an environment of its own).

Every request is signed with made-up credentials, which it accepts.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tanuki_async._pool.http import Connections
from tanuki_async._records import AnswerSchema, Completion, Head, Model, Request, Training, Turn
from tanuki_async.providers.bedrock import Bedrock

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

MINISTACK = os.environ.get("TANUKI_TEST_MINISTACK") or shutil.which("ministack")
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(MINISTACK is None, reason="ministack is not installed; TANUKI_TEST_MINISTACK names its command"),
]
HEAD = Head(function="f", system="Classify.", answer=AnswerSchema(name="f", schema={"type": "object"}, strict=True))


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert MINISTACK is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "GATEWAY_PORT": str(port)}
    folder: Path = tmp_path_factory.mktemp("ministack")
    with subprocess.Popen(
        [MINISTACK], env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_for(url)
            yield url
        finally:
            process.terminate()


def _wait_for(url: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"{url}/_ministack/health", timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("ministack did not start")


@pytest.fixture
async def http() -> AsyncIterator[Connections]:
    http = Connections()
    yield http
    await http.aclose()


@pytest.fixture
def bedrock(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bedrock:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return Bedrock(tuning_bucket="s3://tanuki/jobs", tuning_role="arn:aws:iam::111122223333:role/Tanuki")


@pytest.mark.parametrize(
    ("name", "wire_format"),
    [
        ("us.anthropic.claude-haiku-5-5", None),
        ("amazon.nova-micro-v1:0", None),
        ("amazon.titan-text-express-v1", "titan"),
        ("meta.llama3-3-70b-instruct-v1:0", "llama"),
    ],
)
async def test_models_of_each_family_answer_at_once_and_in_pieces(
    bedrock: Bedrock, http: Connections, name: str, wire_format: str | None
) -> None:
    model: Model = replace(bedrock.model(name), wire_format=wire_format)
    request = Request(model=model, head=HEAD, turns=(Turn("user", "I love you"),))
    completion = await bedrock.complete(request, http)
    assert "mock" in completion.text
    assert completion.usage.input_tokens > 0
    *texts, last = [piece async for piece in bedrock.stream(request, http)]
    assert isinstance(last, Completion)
    assert "".join(map(str, texts)) == last.text == completion.text


async def test_trainings_and_batches_are_started_found_and_stopped(bedrock: Bedrock, http: Connections) -> None:
    await make_bucket(bedrock, http)
    line = b'{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]}'
    training = Training(base="amazon.nova-micro-v1:0:128k", tag="abc", lines=(line,), epochs=2)
    job = await bedrock.tuning.start(training, http)
    assert (await bedrock.tuning.start(training, http)).id == job.id
    assert [each.tag for each in await bedrock.tuning.jobs(http)] == ["abc"]
    assert (await bedrock.tuning.cancel(job.id, http)).status == "cancelled"
    assert await bedrock.tuning.find("other", http) is None
    request = Request(model=bedrock.model("amazon.nova-micro-v1:0"), head=HEAD, turns=(Turn("user", "hi"),))
    batch = await bedrock.batches.submit({f"k{number}": request for number in range(100)}, tag="b", http=http)
    assert (await bedrock.batches.get(batch.id, http)).status in ("running", "succeeded")
    control: Any = bedrock.batches._control
    lines = [line async for line in control.lines(http, "s3://tanuki/jobs/tanuki-b/requests.jsonl")]
    assert len(lines) == 100


async def make_bucket(bedrock: Bedrock, http: Connections) -> None:
    url, headers = await bedrock._account.request("PUT", "s3", "/tanuki")
    assert (await http.send("PUT", url, headers=headers, body=b"")).status == 200
