"""The care of kept data, on real files, through the command that users run."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tanuki_async as tanuki
from tanuki_async._cli import main
from tanuki_async._keeping.alone import alone
from tanuki_async._lines import decode_line, encode_example
from tanuki_async._record.journal import journal_for
from tanuki_async._records import Example
from tanuki_async.storage.filesystem import FilesystemStorage
from tanuki_async.testing import FakeProvider, Value

ORIGINAL = Path(__file__).parent / "fixtures" / "tanuki_py"

SHOP = '''
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Literal
from pydantic import BaseModel
import tanuki_async as tanuki

class Size(Enum):
    SMALL = "small"
    LARGE = "large"

class Customer(BaseModel):
    name: str
    since: date
    tags: set[str] = set()

class Order(BaseModel):
    id: int
    customer: Customer
    placed: datetime
    total: Decimal
    size: Size

class Shipment(BaseModel):
    order_id: int
    day: int
    parts: list[str]
    note: str | None = None

@tanuki.patch
async def classify(text: str) -> Literal["good", "bad"] | None:
    """Classify the sentiment of a message, or None if it has none."""

@tanuki.patch
async def ship(order: Order, within: timedelta = timedelta(days=2), *, hints: dict[str, tuple[int, float]] = {}) -> Shipment:
    """Plan how an order is shipped."""

@tanuki.patch
async def count(texts: list[str], since: datetime) -> int:
    """Count the complaints."""

@tanuki.patch
async def embed(text: str) -> tanuki.Embedding[list[float]]:
    """Embed a message."""
'''


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's in the working directory, where Tanuki.py's functions are coroutines now."""
    name = f"shop_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SHOP)
    yield name
    sys.modules.pop(name, None)


def write(directory: Path, name: str, examples: list[Example]) -> None:
    storage = FilesystemStorage(directory)

    async def put() -> None:
        await storage.open()
        await storage.append(name, [encode_example(each) for each in examples], latest=True)
        await storage.aclose()

    asyncio.run(put())


def read(directory: Path, name: str) -> list[Example]:
    return [decode_line(line) for line in (directory / f"{name}.jsonl").read_bytes().splitlines()]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main([*arguments]) == status
    return capsys.readouterr().out


def document(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    return json.loads(run(capsys, *arguments, "--json", status=status))


def hashes(shop: str) -> dict[str, str]:
    module = sys.modules[shop]
    return {name: tanuki.describe(getattr(module, name)).hash for name in ("classify", "ship", "count", "embed")}


def imported(shop: str, capsys: pytest.CaptureFixture[str]) -> tuple[Path, dict[str, str]]:
    run(capsys, "import", str(ORIGINAL), "--module", shop, status=1)
    return Path(".align"), hashes(shop)


def test_data_of_tanuki_py_is_imported_in_a_process_of_its_own(shop: str, subprocess_env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tanuki_async", "import", str(ORIGINAL), "--module", shop, "--json"]
    done = subprocess.run(command, env=subprocess_env, capture_output=True, text=True, check=False)
    assert done.returncode == 1  # one line does not fit, as it makes an input differ from itself
    sources = {each["function"]: each for each in json.loads(done.stdout)}
    assert sources["ship"]["added"] == {"PATCHES": 2}
    assert sources["count"]["added"] == {"PATCHES": 3}
    assert sources["classify"]["added"] == {"PATCHES": 4, "SYMBOLIC_ALIGNMENTS": 3}
    assert sources["embed"]["added"] == {"POSITIVE_EMBEDDABLE_ALIGNMENTS": 2, "NEGATIVE_EMBEDDABLE_ALIGNMENTS": 2}
    (misfit,) = sources["embed"]["misfits"]
    assert misfit["place"].endswith(".negative")
    assert misfit["line"] == 3
    assert "differ from itself" in misfit["reason"]


def test_imported_values_are_those_that_a_call_would_have_recorded(
    shop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, hash_of = imported(shop, capsys)
    first, second = read(directory, f"{hash_of['ship']}/PATCHES")
    order = first.args[0]
    assert isinstance(order, dict)
    assert order["customer"] == {"name": 'O\'Neill "X"', "since": "2020-01-01", "tags": ["vip"]}
    assert (order["placed"], order["total"], order["size"]) == ("2024-02-28T12:30:00Z", "12.50", "large")
    assert second.kwargs == {"hints": {"a": [1, 2.5]}}
    assert second.output == {"order_id": 8, "day": 1, "parts": ["it's"], "note": "läuft"}
    assert [each.output for each in read(directory, f"{hash_of['classify']}/PATCHES")] == ["good", "bad", None, "good"]
    assert read(directory, f"{hash_of['count']}/PATCHES")[0].args == (["text 0"], "2024-01-02T00:00:00+01:00")


def test_importing_twice_adds_nothing(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    directory, _ = imported(shop, capsys)
    before = {path: path.read_bytes() for path in directory.rglob("*.jsonl")}
    again = document(capsys, "import", str(ORIGINAL), "--module", shop, status=1)
    assert not any(count for each in again for count in each["added"].values())
    assert {path: path.read_bytes() for path in directory.rglob("*.jsonl")} == before


def test_what_does_not_fit_is_told_with_file_and_line_and_the_rest_is_imported(
    shop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old" / "functions" / "0123.patches"
    file.parent.mkdir(parents=True)
    bad = ["{'args': ('x',), 'kwargs': {}, 'output': 'maybe'}", "__import__('os').abort()", "{'args': ('y',), 'out"]
    good = "{'args': ('z',), 'kwargs': {}, 'output': 'good'}"
    file.write_bytes("\n".join([*bad, good, "\udcff"]).encode(errors="surrogateescape"))
    (told,) = document(capsys, "import", "old", "--module", shop, status=1)
    assert told["function"] == "classify"
    assert told["added"] == {"PATCHES": 1}
    assert [(each["place"], each["line"]) for each in told["misfits"]] == [
        (str(file.relative_to(tmp_path)), line) for line in (1, 2, 3, 5)
    ]
    assert "'good' or 'bad'" in told["misfits"][0]["reason"]


def test_a_file_that_fits_two_functions_is_the_users_to_assign(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = "@tanuki.patch\nasync def {}(text: str) -> str:\n    '''Say {}.'''\n"
    (tmp_path / "twins.py").write_text(
        "import tanuki_async as tanuki\n" + stub.format("a", "a") + stub.format("b", "b")
    )
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "77.patches").write_text("{'args': ('x',), 'kwargs': {}, 'output': 'y'}\n")
    try:
        (told,) = document(capsys, "import", "old", "--module", "twins", status=1)
        assert told["function"] is None
        assert "--map 77=a" in told["misfits"][0]["reason"]
        (told,) = document(capsys, "import", "old", "--module", "twins", "--map", "77=b")
        assert (told["function"], told["added"]) == ("b", {"PATCHES": 1})
    finally:
        sys.modules.pop("twins", None)


@pytest.mark.parametrize("form", ["openai", "together", "bedrock", "jsonl"])
def test_export_writes_a_line_for_every_input_and_splits_some_off(
    form: str, shop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, hash_of = imported(shop, capsys)
    many = [Example(args=(f"text {n}",), kwargs={}, output="bad", source="call", at="2026") for n in range(200)]
    many.append(Example(args=("I love you",), kwargs={}, output="bad", source="call", at="2026"))  # aligned otherwise
    write(directory, f"{hash_of['classify']}/PATCHES", many)
    out = tmp_path / "train.jsonl"
    run(capsys, "export", "classify", "--format", form, "--out", str(out), "--validation", "0.2")
    held = tmp_path / "train.validation.jsonl"
    training, validation = ([json.loads(line) for line in path.read_text().splitlines()] for path in (out, held))
    assert len(training) + len(validation) == 3 + 4 + 200
    assert 20 <= len(validation) <= 65
    assert out.stat().st_mode & 0o777 == 0o600
    about = [line for line in map(json.dumps, training + validation) if "I love you" in line]
    assert len(about) == 1
    assert "good" in about[0].rpartition("I love you")[2]
    if form == "bedrock":
        assert training[0]["schemaVersion"] == "bedrock-conversation-2024"
    elif form != "jsonl":
        assert [each["role"] for each in training[0]["messages"]] == ["system", "user", "assistant"]


def test_export_of_a_function_that_changed_says_how_to_adopt_its_data(
    shop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(shop, capsys)
    sys.modules.pop(shop)
    (tmp_path / f"{shop}.py").write_text(SHOP.replace("Count the complaints.", "Count all complaints."))
    _forget_compiled(tmp_path)
    assert main(["export", "count"]) == 1
    assert f"{shop}:count" in capsys.readouterr().err


def _forget_compiled(directory: Path) -> None:
    for path in directory.rglob("*.pyc"):
        path.unlink()


def test_data_of_a_changed_function_is_an_orphan_until_it_is_adopted(
    shop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, before = imported(shop, capsys)
    assert document(capsys, "functions", "--orphans") == []
    sys.modules.pop(shop)
    changed = SHOP.replace(
        "count(texts: list[str], since: datetime) -> int", "count(since: datetime, texts: list[str]) -> bool"
    )
    (tmp_path / f"{shop}.py").write_text(changed)
    _forget_compiled(tmp_path)
    (orphan,) = document(capsys, "functions", "--orphans")
    assert (orphan["hash"], orphan["examples"], orphan["now"]) == (before["count"], 3, f"{shop}:count")
    told = document(capsys, "adopt", before["count"][:8], f"{shop}:count", status=1)[0]
    assert told["added"] == {"PATCHES": 1}
    assert [each["line"] for each in told["misfits"]] == [1, 3]  # 3 and 250 are no bool, 0 is
    (adopted,) = read(directory, f"{told['hash']}/PATCHES")
    assert adopted.args == ("2024-01-03T00:00:00+01:00", ["text 1"])  # by name, as the parameters were exchanged
    assert adopted.output is False
    again = document(capsys, "adopt", before["count"][:8], told["hash"], status=1)[0]
    assert again["added"] == {"PATCHES": 0}


def test_verify_names_all_that_is_wrong_and_repair_moves_it_aside(
    shop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, hash_of = imported(shop, capsys)
    assert run(capsys, "verify") == "All that is kept is whole.\n"
    place = directory / hash_of["classify"]
    data = place / "PATCHES.jsonl"
    lines = data.read_bytes().splitlines(keepends=True)
    newer = lines[0].replace(b'"v":1', b'"v":2')
    data.write_bytes(b"".join([lines[0], b"\x00\x00{garbage\n", newer, *lines[1:]]) + b'{"v":1,"args":["to')
    (place / "state-0.json").write_bytes(b"{}")
    (place / "x.lease").write_bytes(b"torn")
    (place / "old.tmp").write_bytes(b"draft")
    os.utime(place / "old.tmp", (0, 0))
    data.chmod(0o644)
    found = document(capsys, "verify", status=1)
    whats = " | ".join(each["what"] for each in found)
    for word in ("unfinished line", "1 lines cannot be read", "newer release", "filter", "lease", "draft", "644"):
        assert word in whats
    before = b"".join(sorted(path.read_bytes() for path in place.iterdir()))
    document(capsys, "verify", "--repair")
    after = b"".join(sorted(path.read_bytes() for path in place.iterdir()))
    for bad in (b"\x00\x00{garbage", b'{"v":1,"args":["to', b"torn", b"draft"):
        assert bad in before
        assert bad in after  # nothing was deleted
    assert data.read_bytes() == b"".join([lines[0], newer, *lines[1:]])
    left = document(capsys, "verify")  # a newer line is not wrong
    assert [each["mended"] for each in left] == ["left as they are"]


def test_rebuild_makes_a_filter_that_was_lost(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    directory, hash_of = imported(shop, capsys)
    saved = directory / hash_of["count"] / "PATCHES.bloom"
    saved.write_bytes(b"nonsense")
    run(capsys, "verify", status=1)
    assert document(capsys, "rebuild")[f"{hash_of['count']}/PATCHES"] == 3
    assert saved.stat().st_size > 100
    run(capsys, "verify")


def test_compact_keeps_the_last_answer_to_each_input(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    directory, hash_of = imported(shop, capsys)
    name = f"{hash_of['count']}/PATCHES"
    write(directory, name, [Example(args=([], "2024"), kwargs={}, output=n, source="call", at="") for n in range(5)])
    with (directory / f"{name}.jsonl").open("ab") as file:
        file.write(encode_example(read(directory, name)[0]) + b"\n")  # a repeated one, of another hand
    assert document(capsys, "compact", "--dry-run") == {name: 5}
    assert len(read(directory, name)) == 9
    assert document(capsys, "compact") == {name: 5}
    kept = read(directory, name)
    assert [each.output for each in kept if each.args == ([], "2024")] == [4]
    assert len(kept) == 4
    assert document(capsys, "compact") == {}


def test_forget_shows_counts_and_does_nothing_without_yes(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    directory, hash_of = imported(shop, capsys)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    told = document(capsys, "forget", "classify", "--all")
    assert told == {
        "done": False,
        "lines": {f"{hash_of['classify']}/PATCHES": 4, f"{hash_of['classify']}/SYMBOLIC_ALIGNMENTS": 3},
        "students": {},
    }
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("function", "which", "dataset", "left"),
    [
        ("ship", ["--where", "order.customer.name=B"], "PATCHES", 1),
        ("ship", ["--where", "order.id=7"], "PATCHES", 1),
        ("ship", ["--where", "order.customer.tags=vip"], "PATCHES", 1),
        ("ship", ["--where", "return.note=läuft"], "PATCHES", 1),
        ("ship", ["--where", "order.id=9"], "PATCHES", 2),
        ("count", ["--where", "texts=text 1"], "PATCHES", 2),
        ("classify", ["--contains", "o'clock"], "PATCHES", 3),
        ("classify", ["--before", "2000-01-01"], "PATCHES", 4),
        ("classify", ["--before", "2100-01-01T00:00:00+02:00"], "PATCHES", 0),
        ("embed", ["--where", "text=tax return"], "NEGATIVE_EMBEDDABLE_ALIGNMENTS", 0),
        ("embed", ["--contains", "kitten"], "NEGATIVE_EMBEDDABLE_ALIGNMENTS", 1),
    ],
)
def test_forget_takes_exactly_what_is_meant(
    function: str, which: list[str], dataset: str, left: int, shop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, hash_of = imported(shop, capsys)
    told = document(capsys, "forget", function, *which, "--yes")
    name = f"{hash_of[function]}/{dataset}"
    assert len(read(directory, name)) == left
    assert told["done"] is True
    run(capsys, "verify")  # the filter does not remember either


def test_forgotten_text_is_nowhere_below_the_directory(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    directory, hash_of = imported(shop, capsys)
    data = directory / hash_of["classify"] / "PATCHES.jsonl"
    data.write_bytes(data.read_bytes() + b'{"torn": "O\'Secret" \n')
    write(
        directory,
        f"{hash_of['classify']}/PATCHES",
        [Example(args=("O'Secret",), kwargs={}, output="bad", source="call")],
    )
    document(capsys, "verify", "--repair")
    assert (directory / hash_of["classify"] / "PATCHES.damaged.jsonl").exists()
    told = document(capsys, "forget", "classify", "--contains", "Secret", "--yes")
    assert sum(told["lines"].values()) == 2
    assert not [path for path in directory.rglob("*") if path.is_file() and b"Secret" in path.read_bytes()]


def test_lines_that_wait_in_a_journal_of_this_machine_are_forgotten_too(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANUKI_JOURNAL_DIR", str(tmp_path / "journal"))
    directory, hash_of = imported(shop, capsys)
    name = f"{hash_of['classify']}/PATCHES"
    lines = [
        encode_example(Example(args=(text,), kwargs={}, output="bad", source="call")) for text in ("Secret 1", "other")
    ]
    journal = journal_for(FilesystemStorage(directory).address, None)
    assert journal is not None
    journal.add([(name, line) for line in lines])
    journal.set_aside(name, lines[0].replace(b"1", b"2"), "it was refused")
    journal.close()  # its process has ended
    told = document(capsys, "forget", "classify", "--contains", "Secret", "--yes")
    assert told["lines"] == {name: 1, "refused by storage": 1}
    assert "other" in {each.args[0] for each in read(directory, name)}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"Secret" in path.read_bytes()]


def test_forget_reaches_what_waits_in_a_journal_though_storage_refuses_it(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANUKI_JOURNAL_DIR", str(tmp_path / "journal"))
    directory, hash_of = imported(shop, capsys)
    name = f"{hash_of['classify']}/{'x' * 300}"  # too long for a file
    journal = journal_for(FilesystemStorage(directory).address, None)
    assert journal is not None
    lines = [
        encode_example(Example(args=(text,), kwargs={}, output="bad", source="call")) for text in ("Secret 1", "other")
    ]
    journal.add([(name, line) for line in lines])
    journal.close()
    assert document(capsys, "forget", "classify", "--contains", "Secret", "--yes")["lines"] == {name: 1}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"Secret" in path.read_bytes()]
    assert journal.adopt() == 1
    journal.close()


def test_verify_names_what_storage_refused_and_repair_sends_it_once_more(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANUKI_JOURNAL_DIR", str(tmp_path / "journal"))
    directory, hash_of = imported(shop, capsys)
    name, bad = f"{hash_of['classify']}/PATCHES", f"{hash_of['classify']}/{'x' * 300}"
    journal = journal_for(FilesystemStorage(directory).address, None)
    assert journal is not None
    line = encode_example(Example(args=("again",), kwargs={}, output="bad", source="call"))
    path = journal.set_aside(name, line, "the key was of the wrong type")
    journal.set_aside(bad, line, "the path is too long")
    (told,) = document(capsys, "verify", status=1)
    assert (told["place"], told["what"]) == (str(path), "2 examples that storage refused")
    assert "1 examples that storage refuses" in run(capsys, "verify", "--repair", status=1)
    assert "again" in {each.args[0] for each in read(directory, name)}
    assert [json.loads(text)["name"] for text in path.read_text().splitlines()] == [bad]
    document(capsys, "forget", "classify", "--contains", "again", "--yes")
    assert not path.exists()
    run(capsys, "verify")


@pytest.mark.parametrize(
    ("which", "complaint"),
    [
        (["--where", "nobody=1"], "no parameter 'nobody'"),
        (["--where", "text"], "takes name=value"),
        (["--before", "yesterday"], "takes a date"),
        (["--contains", ""], "needs a text"),
    ],
)
def test_what_forget_does_not_understand_changes_nothing(
    which: list[str], complaint: str, shop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, _ = imported(shop, capsys)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert main(["forget", "classify", *which, "--yes"]) == 1
    assert complaint in capsys.readouterr().err
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("delete", [False, True])
def test_students_that_learnt_from_what_is_forgotten_are_trained_anew_or_deleted(
    delete: bool, shop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, hash_of = imported(shop, capsys)
    key = f"{hash_of['classify']}/student-0-1"
    state = {
        "v": 1, "phase": "serving", "trainings": 3, "student": key, "kind": "local", "trained_on": 300,
        "audits": {"asked": 0, "agreed": 0, "faults": 0, "evidence": []},
    }  # fmt: skip
    (directory / f"{key}.json").write_bytes(b"parameters")
    (directory / hash_of["classify"] / "state-0.json").write_text(json.dumps(state))
    document(capsys, "forget", "classify", "--contains", "love", "--yes", *(["--students"] if delete else []))
    after = json.loads((directory / hash_of["classify"] / "state-0.json").read_text())
    assert after["trainings"] == 0
    assert after["student"] == (None if delete else key)
    assert after["phase"] == ("collecting" if delete else "serving")
    assert (directory / f"{key}.json").exists() is not delete


@tanuki.patch(cache="memory", student_model=None)
async def judge(text: str) -> str:
    """Judge a message."""


@tanuki.align
async def align_judge() -> None:
    assert await judge("from Ann") == "aligned"


async def test_a_running_process_forgets_what_another_one_deletes(
    tmp_path: Path, subprocess_env: dict[str, str]
) -> None:
    from tanuki_async.testing import FakeClock

    provider, clock = FakeProvider(lambda _: Value("answered")), FakeClock()
    async with tanuki.Tanuki(storage=tmp_path / "data", providers=[provider], teacher_models="fake:t", clock=clock):
        await align_judge()
        assert await judge("from Ann") == "aligned"  # kept: no model is asked
        await tanuki.flush()
        command = ["forget", "judge", "--contains", "Ann", "--yes", "--dir", str(tmp_path / "data")]
        done = await asyncio.to_thread(
            lambda: subprocess.run([sys.executable, "-m", "tanuki_async", *command], env=subprocess_env, check=False)
        )
        assert done.returncode == 0
        async with asyncio.timeout(10):
            while await judge("from Ann") == "aligned":
                await clock.advance(5)
                await asyncio.sleep(0.01)
        assert "from Ann" not in str(provider.calls[-1].head.examples)


async def test_two_that_rewrite_data_do_not_meet(tmp_path: Path) -> None:
    storage = FilesystemStorage(tmp_path / "data")
    await storage.open()
    async with alone(storage):
        assert await asyncio.to_thread(main, ["compact", "--dir", str(tmp_path / "data")]) == 1
    assert await asyncio.to_thread(main, ["compact", "--dir", str(tmp_path / "data")]) == 0
    await storage.aclose()
