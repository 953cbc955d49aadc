"""What holds for trainings and batches at every provider that has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter

from tanuki_async._errors import ProviderUnavailableError
from tanuki_async._records import AnswerSchema, Head, Reply, Request, Training, Turn
from tanuki_async.abc import Provider
from tanuki_async.providers.anthropic import Anthropic
from tanuki_async.providers.anyscale import Anyscale
from tanuki_async.providers.bedrock import Bedrock
from tanuki_async.providers.openai import OpenAI, OpenAICompatible
from tanuki_async.providers.together import TogetherAI

TypeAdapter(int)  # pydantic looks for its plugins on disk, once; patched functions always come first

KEY = "sk-jobs-secret-0123456789"
URL = "http://127.0.0.1:1/v1"
LINES = tuple(b'{"messages":[{"role":"user","content":"hi"}]}' for _ in range(12))
HEAD = Head(function="f", system="Classify.", answer=AnswerSchema(name="f", schema={"type": "object"}, strict=False))
PROVIDERS: dict[str, tuple[Callable[[], Provider], str]] = {
    "openai": (lambda: OpenAI(KEY, URL), "gpt-4.1-mini-2025-04-14"),
    "compatible": (lambda: OpenAICompatible(URL, api_key=KEY, jobs=True), "m"),
    "together": (lambda: TogetherAI(KEY, URL), "Qwen/Qwen3.5-9B"),
    "anyscale": (lambda: Anyscale(KEY, URL), "m"),
    "anthropic": (lambda: Anthropic(KEY, URL), "claude-haiku-5-5"),
    "bedrock": (
        lambda: Bedrock(KEY, region="us-east-1", tuning_bucket="s3://acme/t", tuning_role="arn:aws:iam::1:role/t"),
        "us.anthropic.claude-haiku-5-5",
    ),
}


class Forgetful:
    """Answers everything with success, has no jobs, takes files, and tells no id of what it makes of them."""

    def __init__(self, created: dict[str, Any]) -> None:
        self.created = created

    async def send(self, method: str, url: str, *, headers: Any, body: bytes | None = None) -> Reply:
        told: dict[str, Any] = {"data": []}
        if method == "POST":
            told = {"id": "file-1"} if url.endswith("/files") else self.created
        return Reply(status=200, headers={}, body=json.dumps(told).encode())

    def stream(self, method: str, url: str, *, headers: Any, body: bytes | None = None) -> Any:
        raise AssertionError("nothing is read here")


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret-0123456789")


@pytest.mark.parametrize("id_", [{}, {"id": None, "jobArn": None}, {"id": "", "jobArn": " "}])
@pytest.mark.parametrize("name", [name for name, (make, _) in PROVIDERS.items() if make().tuning])
async def test_a_training_that_is_told_without_its_id_is_no_job(name: str, id_: dict[str, Any]) -> None:
    make, model = PROVIDERS[name]
    tuning, http = make().tuning, Forgetful({"status": "queued", "note": f"by {KEY}", **id_})
    assert tuning is not None
    with pytest.raises(ProviderUnavailableError, match=r"success, but without .*queued") as caught:
        await tuning.start(Training(base=model, tag="tanuki-abc", lines=LINES), http)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("id_", [{}, {"id": None, "jobArn": None}, {"id": "", "jobArn": " "}])
@pytest.mark.parametrize("name", [name for name, (make, _) in PROVIDERS.items() if make().batches])
async def test_a_batch_that_is_told_without_its_id_is_no_job(name: str, id_: dict[str, Any]) -> None:
    make, model = PROVIDERS[name]
    provider, http = make(), Forgetful({"status": "queued", "note": f"by {KEY}", **id_})
    asked = Request(model=provider.model(model), head=HEAD, turns=(Turn("user", "hi"),))
    assert provider.batches is not None
    with pytest.raises(ProviderUnavailableError, match=r"success, but without .*queued") as caught:
        await provider.batches.submit({f"k{place}": asked for place in range(100)}, tag="tanuki-abc", http=http)
    assert KEY not in str(caught.value)
