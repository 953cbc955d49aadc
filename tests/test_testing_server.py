from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tanuki_async.testing import server

QUESTION: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(autouse=True)
def findable(monkeypatch: pytest.MonkeyPatch, subprocess_env: dict[str, str]) -> None:
    monkeypatch.setenv("PYTHONPATH", subprocess_env["PYTHONPATH"])


@pytest.mark.parametrize(
    ("arguments", "content"),
    [(["--echo"], "hi"), (["--answer", "yes"], "yes"), (["--value", '"good"'], '"good"'), (["--call", "os:fspath"], None)],
)  # fmt: skip
def test_a_server_runs_in_a_process_of_its_own_and_ends_with_the_block(
    arguments: list[str], content: str | None
) -> None:
    with server.in_process(*arguments) as url, httpx.Client(trust_env=False) as client:
        answer = client.post(f"{url}/chat/completions", json=QUESTION)
        assert client.get(f"{url}/statistics").json() == {
            "served": 2,
            "in_flight": 0,
            "max_in_flight": 1,
            "connections": 1,
            "connections_made": 1,
        }
    if content is None:  # os.fspath refuses a ChatRequest: the function was found and called
        assert "os.PathLike" in answer.json()["error"]["message"]
    else:
        assert answer.json()["choices"][0]["message"]["content"] == content
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/models", trust_env=False)


def test_a_server_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="did not start"), server.in_process("--port", "99999"):
        pass


def test_its_help_works_without_a_warning() -> None:
    command = [sys.executable, "-W", "error", "-m", "tanuki_async.testing.server", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert "--latency" in shown.stdout
