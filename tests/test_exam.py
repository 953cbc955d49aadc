"""Align functions as an evaluation of the model, over HTTP."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Literal

import tanuki_async as tanuki
from tanuki_async import Tanuki
from tanuki_async._align import is_align
from tanuki_async._exam import Exam
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.testing import LoopbackServer


@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"] | None:
    """Classify the sentiment of a message, or None if it has none."""
    ...


@tanuki.align
async def lesson() -> None:
    cases = {"I love you": "good", "I hate you": "bad"}
    for text, expected in cases.items():
        assert await classify(text) == expected
    assert "good" == await classify("lovely")  # noqa: SIM300
    assert not await classify("a table")
    assert len(cases) == 2


@tanuki.align
async def with_a_parameter(text: str) -> None:
    assert await classify(text) == "good"


async def test_every_assert_is_judged_against_the_model_and_nothing_is_taught() -> None:
    async with LoopbackServer(answer='{"value":"good"}') as server:
        provider = OpenAICompatible(server.url, name="loopback")
        async with Tanuki(storage="memory:", providers=[provider], teacher_models="loopback:m"):
            exam = Exam()
            await exam.take(lesson)
            status = await tanuki.status(classify)

    told = [(each.holds, each.actual, each.expected) for each in exam.verdicts]
    assert told == [
        (True, "good", "good"),
        (False, "good", "bad"),
        (True, "good", "good"),
        (False, "good", False),
    ]
    first = lesson.__wrapped__.__code__.co_firstlineno  # type: ignore[attr-defined]
    assert [each.line - first for each in exam.verdicts] == [4, 4, 5, 6]
    assert {each.file for each in exam.verdicts} == {__file__}
    assert status.datasets["SYMBOLIC_ALIGNMENTS"] == 0


def test_align_functions_are_told_from_others() -> None:
    assert is_align(lesson)
    assert not is_align(with_a_parameter)
    assert not is_align(classify)


ALIGN_FILE = '''
from typing import Literal
import tanuki_async as tanuki

@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"]:
    """Classify a message."""
    ...

@tanuki.align
async def test_classify() -> None:
    assert await classify("I love you") == "good"
    assert await classify("I hate you") == "bad"
'''


async def run(directory: Path, environment: dict[str, str], *command: str) -> tuple[int, str, str]:
    (directory / "lesson_file.py").write_text(ALIGN_FILE)
    async with LoopbackServer(answer='{"value":"good"}') as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *command,
            cwd=directory,
            env={**environment, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_command_reports_expected_against_actual(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    status, out, err = await run(tmp_path, subprocess_env, "tanuki_async", "eval", "lesson_file", "--json")

    assert status == 1
    assert "1 of 2 answers differ" in err
    assert [(each["holds"], each["actual"], each["expected"]) for each in json.loads(out)] == [
        (True, "'good'", "'good'"),
        (False, "'good'", "'bad'"),
    ]


async def test_the_command_names_what_it_cannot_find(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    status, _, err = await run(tmp_path, subprocess_env, "tanuki_async", "eval", "lesson_file:nothing", "--json")
    assert (status, "it has: test_classify" in err) == (1, True)
    status, _, err = await run(tmp_path, subprocess_env, "tanuki_async", "eval", "no_such_file", "--json")
    assert (status, "no module 'no_such_file'" in err) == (1, True)


async def test_the_command_finds_what_is_imported_while_it_runs(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    (tmp_path / "late.py").write_text("from lesson_file import classify\n")
    (tmp_path / "early.py").write_text(
        "import tanuki_async as tanuki\n"
        "@tanuki.align\nasync def lesson():\n    import late\n    assert await late.classify('x') == 'good'\n"
    )
    environment = {**subprocess_env, "PYTHONSAFEPATH": "1"}  # as for the installed command

    status, _, err = await run(tmp_path, environment, "tanuki_async", "eval", "early", "--json")

    assert status == 0, err


async def test_pytest_judges_align_functions_on_request(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    options = ("-p", "tanuki_async.testing.plugin", "-o", "asyncio_mode=auto", "-q", "lesson_file.py")
    plain = {name: each for name, each in subprocess_env.items() if not name.startswith("PYTEST")}
    if importlib.metadata.entry_points(group="pytest11", name="tanuki_async"):
        options = options[2:]

    status, out, _ = await run(tmp_path, plain, "pytest", *options)
    assert (status, "1 passed" in out) == (0, True), out
    status, out, _ = await run(tmp_path, plain, "pytest", *options, "--tanuki-eval")
    assert status == 1, out
    assert "1 of 2 answers differ from what was expected" in out
