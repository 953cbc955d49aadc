from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tanuki_async._cli import _sms, main
from tanuki_async._cli.demo_teacher import FASTEST
from tanuki_async.testing import ChatRequest, LoopbackServer, Value


def run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "tanuki_async", "demo", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=55)


def figures(env: dict[str, str], *arguments: str, stderr: str = "") -> dict[str, Any]:
    done = run(env, "--json", *arguments)
    assert stderr in done.stderr if stderr else not done.stderr
    assert done.returncode == 0
    return json.loads(done.stdout)


def kept(directory: Path) -> list[dict[str, Any]]:
    """All records, every line of which is whole JSON."""
    return [json.loads(line) for path in directory.rglob("*.jsonl") for line in path.read_text("utf-8").splitlines()]


def test_a_student_learns_proves_itself_and_takes_over_and_the_next_run_finds_it(
    subprocess_env: dict[str, str], tmp_path: Path
) -> None:
    first = figures(subprocess_env, "--rows", "1500", "--concurrency", "8", "--dir", "data")
    records = kept(tmp_path / "data")

    assert first["teacher"]["calls"] + first["student"]["calls"] == first["all"]["calls"] == 1500
    assert first["student"]["share"] > 0.5
    assert first["agreement"] >= first["bound"] >= 0.9
    assert first["teacher"]["correct"] == 1.0
    assert first["student"]["correct"] >= 0.9
    assert first["teacher"]["p50_ms"] >= 1000 * FASTEST > 50 * first["student"]["p50_ms"]
    assert first["bill"]["requests"] == first["teacher"]["calls"] + first["audits"]
    assert first["bill"]["cost"] < first["bill_without"]["cost"]
    labels = dict(_sms.load())
    assert {record["args"][0]: record["output"] for record in records}.items() <= labels.items()
    # a few may be missing: the filter takes up to 1 in 100 new lines for known ones
    assert 0.98 * first["bill"]["requests"] <= len(records) <= first["bill"]["requests"]

    second = figures(subprocess_env, "--rows", "300", "--dir", "data")
    assert second["found_again"]
    assert second["takeover_calls"] == 1
    assert second["student"]["share"] > 0.9


def test_the_tables_say_who_answered_and_who_the_teacher_is(subprocess_env: dict[str, str]) -> None:
    done = run(subprocess_env, "--rows", "60", "--dir", "data dir")
    assert done.returncode == 0
    for words in (
        "a server on this machine that answers from the labels of the set",
        "the teacher answers; every answer is recorded",
        "60 calls in",
        "No student serves yet",
        "tanuki functions --dir 'data dir'",
    ):
        assert words in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_fresh_forgets_the_demonstration_and_nothing_else(subprocess_env: dict[str, str], tmp_path: Path) -> None:
    for _ in range(2):
        assert figures(subprocess_env, "--rows", "20", "--dir", "data", "--fresh")["all"]["calls"] == 20
        assert len(kept(tmp_path / "data")) == 20
        (tmp_path / "data" / "other").mkdir(exist_ok=True)
        (tmp_path / "data" / "other" / "mine.txt").write_text("kept")
    assert (tmp_path / "data" / "other" / "mine.txt").read_text() == "kept"


def test_interrupted_it_says_so_in_one_line_and_keeps_what_was_recorded(
    subprocess_env: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tanuki_async", "demo", "--dir", "data"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=subprocess_env, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        while "every answer is recorded" not in process.stdout.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the teacher's process gets it too
        _, complaint = process.communicate(timeout=30)
    assert complaint == "tanuki: interrupted; what was recorded is kept\n"
    assert process.returncode == 130
    labels = dict(_sms.load())
    assert all(labels[record["args"][0]] == record["output"] for record in kept(tmp_path / "data"))


def test_live_without_a_key_says_what_to_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["demo", "--live", "--json"]) == 1
    assert "set OPENAI_API_KEY" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_live_names_the_price_and_asks_before_it_spends(subprocess_env: dict[str, str], tmp_path: Path) -> None:
    done = run({**subprocess_env, "OPENAI_API_KEY": "test"}, "--live", "--rows", "100")
    assert done.returncode == 1
    assert "100 calls to openai:gpt-6.2-sol cost about $0.58 at most" in done.stderr
    assert "--yes" in done.stderr
    assert not (tmp_path / ".tanuki-demo").exists()


def test_live_asks_the_provider(subprocess_env: dict[str, str]) -> None:
    def answer(request: ChatRequest) -> Value:
        assert request.body["max_completion_tokens"] == 512
        return Value("ham")

    with LoopbackServer.in_thread(answer, strict=True, api_key="secret") as server:
        env = {**subprocess_env, "OPENAI_API_KEY": "secret", "OPENAI_BASE_URL": server.url}
        report = figures(env, "--live", "--yes", "--rows", "50", stderr="50 calls to openai:gpt-6.2-sol cost about")
        assert server.served == 50
    assert report["live"]
    assert report["all"]["calls"] == 50
    assert 0.8 < report["all"]["correct"] < 1


def test_a_refused_key_ends_the_run_with_one_line(subprocess_env: dict[str, str]) -> None:
    with LoopbackServer.in_thread(api_key="secret") as server:
        env = {**subprocess_env, "OPENAI_API_KEY": "wrong-key", "OPENAI_BASE_URL": server.url}
        done = run(env, "--live", "--yes", "--rows", "50", "--json")
    assert done.returncode == 1
    assert "OPENAI_API_KEY" in done.stderr.splitlines()[-1]
    assert "wrong-key" not in done.stderr
    assert "Traceback" not in done.stderr


def test_without_scikit_learn_one_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err.endswith("pip install 'tanuki_async[demo]'\n")
