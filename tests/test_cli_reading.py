from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from _pictures import png

import tanuki_async as tanuki
from tanuki_async._cli import main
from tanuki_async.testing import FakeProvider, Value


@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"]:
    """Classify a message."""


@tanuki.patch(environment_id=3)
async def classify_files(text: str, *, strict: bool = False) -> list[str]:
    """List the classes of a message. [bold]No markup[/bold]."""


@tanuki.align
async def align_classify() -> None:
    assert await classify("I love it") == "good"


async def _use(directory: Path) -> None:
    provider = FakeProvider(lambda request: Value("bad") if request.schema_name == "classify" else Value(["[red]\x1b"]))
    async with tanuki.Tanuki(storage=directory, providers=[provider], teacher_models="fake:teacher"):
        await align_classify()
        for number in range(30):
            await classify(f"message {number}")
        await classify_files("a [bold]file[/bold]", strict=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory in which two functions left data."""
    directory = tmp_path_factory.mktemp("data")
    asyncio.run(_use(directory))
    return str(directory)


def snapshot(directory: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_functions_lists_each_function_with_its_data(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in json_of(capsys, "functions", "--dir", data)}
    assert list(rows) == ["classify", "classify_files"]
    assert rows["classify"]["hash"] == tanuki.describe(classify).hash
    assert rows["classify"]["datasets"]["PATCHES"] == 30
    assert rows["classify"]["datasets"]["SYMBOLIC_ALIGNMENTS"] == 1
    assert rows["classify"]["phase"] == "collecting"
    assert rows["classify"]["served_by"] == ["fake:teacher"]
    assert rows["classify_files"]["environment_id"] == 3


def test_a_negative_environment_is_listed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @tanuki.patch(environment_id=-5)
    async def elsewhere(text: str) -> str:
        """Say it."""
        ...

    async def use() -> None:
        async with tanuki.Tanuki(storage=tmp_path, providers=[FakeProvider(["x"])], teacher_models="fake:teacher"):
            await elsewhere("x")

    asyncio.run(use())
    (row,) = json_of(capsys, "functions", "--dir", str(tmp_path))
    assert row["environment_id"] == -5


def test_functions_prints_a_table_when_nobody_asks_for_json(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["functions", "--dir", data]) == 0
    printed = capsys.readouterr().out
    assert tanuki.describe(classify).hash[:8] in printed
    assert "collecting" in printed


def test_the_directory_is_taken_from_the_environment(
    data: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANUKI_LOG_DIR", data)
    assert len(json_of(capsys, "functions")) == 2


@pytest.mark.parametrize("how", ["name", "qualified name", "hash", "prefix"])
def test_status_finds_a_function_by(how: str, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    described = tanuki.describe(classify)
    qualified = f"{described.module}.{described.qualname}"
    wanted = {"name": "classify", "qualified name": qualified, "hash": described.hash, "prefix": described.hash[:6]}
    status = json_of(capsys, "status", wanted[how], "--dir", data)
    assert status["hash"] == described.hash
    assert status["answered_by_teacher"] == 30
    assert status["usage"]["requests"] == 30


def test_status_tells_all_there_is_to_a_reader(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "classify", "--dir", data]) == 0
    printed = capsys.readouterr().out
    for word in ("phase", "collecting", "30 PATCHES", "teacher 30, student 0", "unknown price"):
        assert word in printed


def test_status_of_another_environment_counts_its_calls(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    here = json_of(capsys, "status", "classify_files", "--environment", "3", "--dir", data)
    elsewhere = json_of(capsys, "status", "classify_files", "--dir", data)
    assert (here["answered_by_teacher"], elsewhere["answered_by_teacher"]) == (1, 0)


def test_an_ambiguous_prefix_lists_what_it_may_mean(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(data, tanuki.describe(classify).hash[:4] + "0" * 28, "function.json")
    card = json.loads(Path(data, tanuki.describe(classify).hash, "function.json").read_text())
    copy.parent.mkdir()
    copy.write_text(json.dumps({**card, "name": "classify_older", "qualname": "older", "hash": copy.parent.name}))
    try:
        assert main(["status", copy.parent.name[:4], "--dir", data]) == 1
    finally:
        copy.unlink()
        copy.parent.rmdir()
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert copy.parent.name in complaint
    assert tanuki.describe(classify).hash in complaint


def test_an_unknown_function_is_answered_with_the_known_ones(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "nothing", "--dir", data]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "tanuki: no function is called 'nothing'; recorded are: classify, classify_files\n"


def test_examples_are_the_newest_in_the_order_of_writing(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "classify", "--last", "2", "--json", "--dir", data]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["args"] for record in records] == [["message 28"], ["message 29"]]
    assert {record["output"] for record in records} == {"bad"}


def test_examples_of_all_calls_are_shown_on_request(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "classify", "--last", "0", "--json", "--dir", data]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 30


def test_aligned_examples_are_a_dataset_of_their_own(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "classify", "--dataset", "aligned", "--dir", data]) == 0
    printed = capsys.readouterr().out
    assert "I love it" in printed
    assert "align" in printed


def test_an_empty_dataset_names_the_others(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "classify", "--dataset", "negative", "--dir", data]) == 0
    assert "--dataset patches has 30" in capsys.readouterr().out


def test_recorded_text_is_neither_markup_nor_a_command_to_the_terminal(
    data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["examples", "classify_files", "--dir", data]) == 0
    printed = capsys.readouterr().out
    assert "[bold]file[/bold]" in printed
    assert "[red]" in printed
    assert "\x1b" not in printed


@tanuki.patch
async def look(photo: tanuki.Image, pages: list[tanuki.Image]) -> int:
    """Count."""


def test_a_recorded_image_is_shown_by_its_kind_and_whole_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def use() -> None:
        async with tanuki.Tanuki(storage=tmp_path, providers=[FakeProvider()], teacher_models="fake:teacher"):
            await look(png(1), [png(2)])

    asyncio.run(use())
    example = json_of(capsys, "examples", "look", "--dir", str(tmp_path))
    assert example["args"] == [png(1).record(), [png(2).record()]]
    assert main(["examples", "look", "--dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "image/png" in printed
    assert "iVBOR" not in printed


def test_looking_changes_nothing(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(data)
    for command in (["functions"], ["status", "classify"], ["examples", "classify"]):
        assert main([*command, "--dir", data]) == 0
    assert snapshot(data) == before
    assert "classify" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["functions"], ["status", "f"], ["examples", "f"]])
def test_a_directory_that_is_not_there_is_not_made(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--dir", str(tmp_path / "none")]) == 1
    assert "there is no directory" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_directory_is_not_taken_for_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["functions", "--dir", str(tmp_path)]) == 1
    assert "nothing recorded" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_rich_one_line_says_what_to_install(
    data: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["functions", "--dir", data]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "pip install 'tanuki_async[cli]'" in captured.err
    assert json_of(capsys, "functions", "--dir", data)


def test_the_module_runs_as_the_command(subprocess_env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tanuki_async", "--version"]
    done = subprocess.run(command, env=subprocess_env, capture_output=True, text=True, check=True)
    assert done.stdout == f"tanuki_async {tanuki.__version__}\n"


def test_a_wrong_command_line_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["examples", "f", "--dataset", "all"])
    assert ended.value.code == 2
    assert "patches" in capsys.readouterr().err
