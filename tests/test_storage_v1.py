"""Data that the first release wrote is read by this one, and stays as it was."""
# ruff: noqa: ASYNC240 — a test looks at small files directly

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import tanuki_async as tanuki
from tanuki_async._cli import main
from tanuki_async._errors import StorageError
from tanuki_async._lines import decode_line
from tanuki_async.storage.filesystem import LAYOUT, FilesystemStorage

FIXTURES = Path(__file__).parent / "fixtures"
HASH = "c2c780c1cc96869c51dacd3afbe08f25"
EMBED = "6c7c861911c3eddde71d0b0f66942c58"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(FIXTURES / "storage_v1", tmp_path / "data"))
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)  # a checkout has other rights
    return copy


async def examples(storage: FilesystemStorage, name: str) -> list[Any]:
    return [decode_line(line) async for lines in storage.scan(name) for line in lines]


async def test_every_data_set_of_the_first_release_is_read(data: Path) -> None:
    storage = FilesystemStorage(data)
    await storage.open()
    calls = await examples(storage, f"{HASH}/PATCHES")
    assert [each.args for each in calls] == [("message 0",), ("message 1",), ('a "quoted" läufer 🦝',)]
    assert {(each.output, each.source, each.model) for each in calls} == {("bad", "call", "fake:teacher")}
    (aligned,) = await examples(storage, f"{HASH}/SYMBOLIC_ALIGNMENTS")
    assert (aligned.args, aligned.output, aligned.source) == (("I love it",), "good", "align")
    (alike,) = await examples(storage, f"{EMBED}/POSITIVE_EMBEDDABLE_ALIGNMENTS")
    assert alike.args == (["cat", {}], ["kitten", {}])
    assert await storage.count(f"{EMBED}/NEGATIVE_EMBEDDABLE_ALIGNMENTS") == 1
    await storage.aclose()


async def test_the_filter_of_the_first_release_still_recognises_its_examples(data: Path) -> None:
    storage = FilesystemStorage(data)
    await storage.open()
    name = f"{HASH}/PATCHES"
    lines = [line async for batch in storage.scan(name) for line in batch]
    assert (await storage.append(name, lines)).written == 0
    assert await storage.inspect() == []
    await storage.aclose()


def test_functions_keep_the_hash_that_the_first_release_gave_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["make", str(tmp_path / "new")])
    made = runpy.run_path(str(FIXTURES / "make_storage_v1.py"))
    assert tanuki.describe(made["classify"]).hash == HASH
    assert tanuki.describe(made["embed"]).hash == EMBED


def test_the_command_line_finds_nothing_wrong_with_it(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--dir", str(data)]) == 0
    assert main(["status", "classify", "--json", "--dir", str(data)]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["answered_by_teacher"] == 3


async def test_a_newer_layout_is_refused_and_left_alone(data: Path) -> None:
    (data / "format").write_text(json.dumps({"tanuki_async": LAYOUT + 1}))
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match="upgrade tanuki_async"):
        await FilesystemStorage(data).open()
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
