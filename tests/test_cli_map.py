"""`tanuki map`: rows in, rows with answers out, whatever happens in between."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tanuki_async._cli import main
from tanuki_async.testing import Fault, LoopbackServer, Value
from tanuki_async.testing.answers import ChatRequest

MODULE = '''
import tanuki_async as tanuki
from pydantic import BaseModel

class Found(BaseModel):
    words: list[str]

@tanuki.patch(max_repairs=0)
async def shout(text: str) -> str:
    """Say it louder."""

@tanuki.patch
async def split(text: str, most: int = 9) -> Found:
    """Split a text into words."""

async def plain(text: str) -> str:
    return text
'''


class Model:
    """Answers by the function's name; what it was asked is kept. `broken` texts are refused."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.broken: set[str] = set()
        self.fault = Fault.status(400, message="no")

    def __call__(self, request: ChatRequest) -> Any:
        self.asked.append(request.arguments)
        text = request.arguments["text"]
        if text in self.broken:
            return self.fault
        return Value({"words": text.split()} if "def split" in request.system else text.upper())


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    answering = Model()
    with LoopbackServer.in_thread(answering) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
        Path("shouting.py").write_text(MODULE)
        yield answering
    sys.modules.pop("shouting", None)


def write_lines(path: str, *rows: Any) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines(path: str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_rows_come_back_in_their_order_with_answers(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines("in.jsonl", "hi", {"text": "a b", "id": 7}, "ho")
    assert main(["map", "shouting:shout", "in.jsonl", "out.jsonl", "--json"]) == 0
    assert lines("out.jsonl") == [
        {"input": "hi", "output": "HI", "error": None},
        {"text": "a b", "id": 7, "output": "A B", "error": None},
        {"input": "ho", "output": "HO", "error": None},
    ]
    assert json.loads(capsys.readouterr().err) == {"answered": 3, "failed": 0}
    assert not Path("out.jsonl.checkpoint").exists()


def test_a_table_is_spread_over_the_parameters(model: Model) -> None:
    Path("in.csv").write_text('id,text,most\n1,"a, b",3\n2,c d,4\n')
    assert main(["map", "shouting:split", "in.csv", "out.csv"]) == 0
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], json.loads(row["output"]), row["error"]) for row in rows] == [
        ("1", {"words": ["a,", "b"]}, ""),
        ("2", {"words": ["c", "d"]}, ""),
    ]
    assert sorted(asked["most"] for asked in model.asked) == [3, 4]


def test_a_row_that_fails_has_its_error_and_is_asked_for_again(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines("in.jsonl", "one", "two", 3)
    model.broken.add("two")
    assert main(["map", "shouting:shout", "in.jsonl", "out.jsonl"]) == 1
    first, second, third = lines("out.jsonl")
    assert first == {"input": "one", "output": "ONE", "error": None}
    assert second["error"].startswith("RequestRejectedError: ")
    assert third["error"].startswith("InputError: argument 'text' of shout()")
    assert "1 rows answered, 2 failed" in capsys.readouterr().err

    model.broken.clear()
    write_lines("in.jsonl", "one", "two", "three")
    assert main(["map", "shouting:shout", "in.jsonl", "out.jsonl"]) == 0
    assert [row["output"] for row in lines("out.jsonl")] == ["ONE", "TWO", "THREE"]
    assert [asked["text"] for asked in model.asked].count("one") == 1  # what was answered is not asked again


@pytest.mark.parametrize("out", ["out.jsonl", "out.csv"])
def test_a_row_with_half_a_character_does_not_take_the_others_along(model: Model, out: str) -> None:
    write_lines("in.jsonl", {"text": "one"}, {"text": "a\ud800"})
    assert main(["map", "shouting:shout", "in.jsonl", out]) == 1
    _, first, second = ["", *lines(out)] if out == "out.jsonl" else Path(out).read_text().splitlines()
    assert first == {"text": "one", "output": "ONE", "error": None} or first == "one,ONE,"
    assert second["text"] == "a\ud800" if isinstance(second, dict) else second.startswith(r"a\ud800,,")


def test_a_cell_may_be_long(model: Model) -> None:
    Path("in.csv").write_text(f"text\n{'x' * 200_000}\n")
    assert main(["map", "shouting:shout", "in.csv", "out.jsonl"]) == 0
    assert [len(row["output"]) for row in lines("out.jsonl")] == [200_000]


def test_what_would_fail_every_row_ends_the_run_and_writes_nothing(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines("in.jsonl", *map(str, range(100)))
    model.broken, model.fault = {"5"}, Fault.status(401)
    assert main(["map", "shouting:shout", "in.jsonl", "out.jsonl", "--concurrency", "2"]) == 1
    assert "HTTP 401" in capsys.readouterr().err
    assert len(model.asked) < 30
    assert not Path("out.jsonl").exists()
    assert not list(Path().glob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["shouting", "in.jsonl", "out.jsonl"], "'package.module:function', not 'shouting'"),
        (["shouting:plain", "in.jsonl", "out.jsonl"], "no patched function 'plain'; it has: shout, split"),
        (["shouting:none", "in.jsonl", "out.jsonl"], "no patched function 'none'"),
        (["nowhere:x", "in.jsonl", "out.jsonl"], "'nowhere' cannot be imported"),
        (["shouting:shout", "in.txt", "out.jsonl"], "'in.txt' should end in .jsonl, .csv, .parquet"),
        (["shouting:shout", "missing.jsonl", "out.jsonl"], "'missing.jsonl' cannot be read: No such file"),
        (["shouting:shout", "in.jsonl", "no/where/out.jsonl"], "cannot be written: No such file"),
        (["shouting:shout", "broken.jsonl", "out.jsonl"], "'broken.jsonl', line 2: this is no JSON"),
        (["shouting:shout", "short.csv", "out.jsonl"], "'short.csv', line 2: it has another number of cells"),
        (["shouting:shout", "deep.jsonl", "out.jsonl"], "'deep.jsonl', line 1: this is no JSON"),
        (["shouting:shout", "twice.csv", "out.jsonl"], "'twice.csv' has two columns 'text': rename one"),
        (["shouting:shout", "taken.jsonl", "out.jsonl"], "a column 'output' already"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    model: Model, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines("in.jsonl", "hi")
    Path("broken.jsonl").write_text('"hi"\n{"hi\n')
    Path("short.csv").write_text("text,more\nhi\n")
    Path("deep.jsonl").write_text("[" * 100_000)
    Path("twice.csv").write_text("text,text\na,b\n")
    write_lines("taken.jsonl", {"text": "hi", "output": 1})
    assert main(["map", *arguments]) in (1, 2)
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1
    assert not Path("out.jsonl").exists()


def test_parquet_goes_in_and_out(model: Model) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"id": [1, 2], "text": ["a b", "c"]}), "in.parquet")
    model.broken.add("c")
    assert main(["map", "shouting:split", "in.parquet", "out.parquet"]) == 1
    first, second = parquet.read_table("out.parquet").to_pylist()
    assert (first["id"], json.loads(first["output"]), first["error"]) == (1, {"words": ["a", "b"]}, None)
    assert (second["id"], second["output"]) == (2, None)
    assert second["error"].startswith("RequestRejectedError")


def test_parquet_without_its_library_says_what_to_install(
    model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tanuki_async._cli.extras.find_spec", lambda _: None)
    assert main(["map", "shouting:shout", "in.parquet", "out.jsonl"]) == 2
    assert "pip install 'tanuki_async[parquet]'" in capsys.readouterr().err
