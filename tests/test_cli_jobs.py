"""`tanuki jobs`: what providers train, and for which function."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from _jobs import OpenAIJobs

import tanuki_async as tanuki
from tanuki_async._cli import main
from tanuki_async._distill.state import Task
from tanuki_async._distill.tuned import tag_of
from tanuki_async.testing import FakeProvider, Fault, LoopbackServer

BASE = "openai:gpt-4.1-mini-2025-04-14"


@tanuki.patch
async def spell(text: str) -> str:
    """Spell a word."""
    ...


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIJobs]:
    with LoopbackServer.in_thread() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
        yield OpenAIJobs(server)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A directory in which `spell` left data."""

    async def use() -> None:
        provider = FakeProvider(["w o r d"])
        async with tanuki.Tanuki(storage=tmp_path / "data", providers=[provider], teacher_models="fake:teacher"):
            await spell("word")

    asyncio.run(use())
    return str(tmp_path / "data")


def add(jobs: OpenAIJobs, tag: str) -> None:
    jobs.add({"model": "gpt-4.1-mini-2025-04-14", "training_file": "file-1", "metadata": {"tanuki_tag": tag}})


def test_trainings_are_listed_with_their_functions(
    jobs: OpenAIJobs, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Task(hash=tanuki.describe(spell).hash, name="spell", closed=False, inputs_of=lambda _, given: given)
    add(jobs, tag_of(task, 0, BASE))
    add(jobs, "somebody-elses")

    assert main(["jobs", "--dir", data, "--json"]) == 0
    found = {each["tag"]: each for each in json.loads(capsys.readouterr().out)}
    ours = found[tag_of(task, 0, BASE)]
    assert (ours["provider"], ours["id"], ours["function"], ours["status"]) == ("openai", "ftjob-1", "spell", "running")
    assert found["somebody-elses"]["function"] is None

    assert main(["jobs", "--dir", data]) == 0
    printed = capsys.readouterr().out
    assert "ftjob-2" in printed
    assert "running (validating_files)" in printed


def test_nothing_recorded_here_and_nothing_trained_is_no_error(
    jobs: OpenAIJobs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs"]) == 0
    assert capsys.readouterr().out == "Nothing was trained yet.\n"


def test_without_any_key_the_variables_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs"]) == 1
    assert "OPENAI_API_KEY, TOGETHER_API_KEY" in capsys.readouterr().err
    assert main(["jobs", "--provider", "together"]) == 1
    assert "set TOGETHER_API_KEY" in capsys.readouterr().err


def test_one_provider_that_fails_does_not_hide_the_others(
    jobs: OpenAIJobs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(jobs, "mine")
    monkeypatch.setenv("TOGETHER_API_KEY", "tg-0123456789")
    monkeypatch.setenv("TOGETHER_BASE_URL", jobs.server.url)
    jobs.server.route("GET", "/v1/fine-tunes", Fault.status(503))
    assert main(["jobs", "--json"]) == 1
    captured = capsys.readouterr()
    assert [each["tag"] for each in json.loads(captured.out)] == ["mine"]
    assert "together: scripted failure (HTTP 503)" in captured.err
