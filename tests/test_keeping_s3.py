"""The care of kept data, on a bucket, through the command that users run."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tanuki_async._bloom import Bloom
from tanuki_async._cards import Card
from tanuki_async._cli import main
from tanuki_async._lines import decode_line, encode_line
from tanuki_async.storage import s3
from tanuki_async.storage._s3_objects import Saved
from tanuki_async.storage.s3 import S3Storage
from tests import _s3

FUNCTION = "0123456789abcdef0123456789abcdef"
CALLS = f"{FUNCTION}/PATCHES"
CARD = Card(
    name="judge",
    qualname="judge",
    module="shop",
    signature="(text: str) -> str",
    doc="Judge.",
    hash=FUNCTION,
    first_seen="2026-11-23T00:00:00.000Z",
)


def line(text: str, output: str) -> bytes:
    return encode_line(
        args=json.dumps([text]).encode(),
        kwargs=b"{}",
        output=json.dumps(output).encode(),
        source="call",
        repaired=False,
        model=None,
        at="2026-11-23T00:00:00.000Z",
    )


KEPT = [line("I am Ann", "good"), line("hello", "good"), line("hello", "bad"), line("It is Ann!", "good")]


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> str:
    """A place with examples, as a process left it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", _s3.KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", _s3.KEYS[1])
    made = _s3.place(_s3.ministack())
    asyncio.run(fill(made))
    return made


async def fill(url: str) -> None:
    storage = S3Storage(url)
    await storage.put(f"{FUNCTION}/function", CARD.to_json(), version=None)
    for each in KEPT:
        await storage.append(CALLS, [each])
    await storage.aclose()


def document(capsys: pytest.CaptureFixture[str], url: str, *arguments: str, status: int = 0) -> Any:
    assert main([*arguments, "--dir", url, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def kept(url: str, name: str = CALLS) -> list[bytes]:
    async def read() -> list[bytes]:
        storage = S3Storage(url)
        lines = [line async for batch in storage.scan(name) for line in batch]
        await storage.aclose()
        return lines

    return asyncio.run(read())


def put(url: str, key: str, content: bytes) -> None:
    async def write() -> None:
        storage = S3Storage(url)

        async def replace(ready: s3._Ready) -> None:
            await ready._bucket.put(key, content, version="*")

        await storage._do(replace)
        await storage.aclose()

    asyncio.run(write())


def test_forget_deletes_what_is_meant_and_nothing_without_yes(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = document(capsys, url, "forget", "judge", "--contains", "Ann")
    assert told["lines"] == {CALLS: 2}
    assert kept(url) == KEPT
    told = document(capsys, url, "forget", "judge", "--contains", "Ann", "--yes")
    assert told["lines"] == {CALLS: 2}
    assert kept(url) == KEPT[1:3]
    assert document(capsys, url, "verify") == []
    assert document(capsys, url, "forget", "judge", "--all", "--yes")["lines"] == {CALLS: 2}
    assert kept(url) == []
    assert document(capsys, url, "rebuild") == {}


def test_compact_keeps_the_last_answer(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, url, "compact", "--dry-run") == {CALLS: 1}
    assert document(capsys, url, "compact") == {CALLS: 1}
    assert [decode_line(each).output for each in kept(url)] == ["good", "bad", "good"]
    assert document(capsys, url, "compact") == {}


def test_verify_names_bad_lines_and_filters_and_repair_mends_them(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def add(bad: bytes) -> None:
        storage = S3Storage(url)
        await storage.append(CALLS, [bad])
        await storage.aclose()

    asyncio.run(add(b"no record"))
    put(url, f"filters/{CALLS}.bloom", b"no filter")
    found = document(capsys, url, "verify", status=1)
    assert [each["what"] for each in found] == ["the filter cannot be read", "1 lines cannot be read"]
    document(capsys, url, "verify", "--repair")
    assert document(capsys, url, "verify") == []
    assert kept(url) == KEPT
    assert kept(url, f"{CALLS}.damaged") == [b"no record"]


def test_a_filter_that_misses_lines_is_found_and_rebuilt(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def forge() -> None:
        storage = S3Storage(url)

        async def save(ready: s3._Ready) -> None:
            objects = ready.log(CALLS).objects
            head, _ = await objects.head()
            await objects.save(Saved(head.id, head.lines, Bloom()))

        await storage._do(save)
        await storage.aclose()

    asyncio.run(forge())
    (found,) = document(capsys, url, "verify", status=1)
    assert found["what"] == "the filter does not know all lines that it covers"
    assert document(capsys, url, "rebuild") == {CALLS: 4}
    assert document(capsys, url, "verify") == []
