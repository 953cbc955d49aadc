"""A killed run continues where it was: the same results, and no input asked twice."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from _spine import recorded, tanuki_for
from pydantic import BaseModel

import tanuki_async as tanuki
from tanuki_async import Embedding, StorageError, Tanuki, UsageError
from tanuki_async._checkpoint import Checkpoint, key_of
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import LoopbackServer
from tanuki_async.testing.answers import ChatRequest


@tanuki.patch(max_repairs=0)
async def double(n: int) -> int:
    """Double a number."""
    ...


@tanuki.patch
async def area(width: int, height: int = 1, *, unit: Literal["m", "cm"] = "m") -> str:
    """Tell the area."""
    ...


def answer(request: ChatRequest) -> Any:
    given = request.arguments
    if "n" in given:
        return "nonsense" if given["n"] < 0 else {"value": given["n"] * 2}
    return {"value": f"{given['width'] * given['height']} {given['unit']}2"}


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(answer) as running:
        yield running


@pytest.fixture(autouse=True)
async def opened(server: LoopbackServer) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, MemoryStorage()) as running:
        yield running


async def run(path: Path, items: Any, f: Any = double, **options: Any) -> list[Any]:
    return [result async for result in tanuki.amap(f, items, checkpoint=path, **options)]


async def text_of(path: Path) -> str:
    return await asyncio.to_thread(path.read_text)


class Marked(BaseModel):
    marks: dict[Literal[1, 2], str] = {1: "a"}  # pydantic writes 1 as "1", and does not read that


async def test_what_was_kept_and_cannot_be_read_is_asked_for_again(server: LoopbackServer, tmp_path: Path) -> None:
    @tanuki.patch
    async def mark(n: int) -> Marked: ...

    server.put("{}", "{}")

    assert await run(tmp_path / "kept.jsonl", [1], mark) == [Marked()]
    assert await run(tmp_path / "kept.jsonl", [1], mark) == [Marked()]
    assert server.served == 2


async def test_a_second_run_asks_nothing_and_yields_the_same(server: LoopbackServer, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kept.jsonl"
    first = await run(path, range(100), concurrency=10)
    asked = server.served

    assert await run(path, range(100), concurrency=10) == first == [2 * n for n in range(100)]
    assert server.served == asked == 100


async def test_a_run_that_was_left_early_goes_on(server: LoopbackServer, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    results = tanuki.amap(double, range(1000), checkpoint=path, concurrency=5)
    for n in range(40):
        assert await anext(results) == 2 * n
    await results.aclose()
    kept = len((await text_of(path)).splitlines()) - 1
    asked = server.served

    assert await run(path, range(1000)) == [2 * n for n in range(1000)]
    assert 40 <= kept <= asked
    assert server.served == asked + 1000 - kept


async def test_what_was_yielded_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    async for result in tanuki.amap(double, range(20), checkpoint=path, concurrency=3):
        lines = [json.loads(line) for line in (await text_of(path)).splitlines()]
        assert result in [line.get("o") for line in lines]


async def test_lines_hold_index_key_and_result(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    await run(path, [7, 9])

    head, *lines = [json.loads(line) for line in (await text_of(path)).splitlines()]

    assert head["v"] == 1
    assert head["function"] == tanuki.describe(double).hash
    assert sorted(lines, key=lambda line: line["i"]) == [
        {"i": 0, "k": key_of('{"n":7}'), "o": 14},
        {"i": 1, "k": key_of('{"n":9}'), "o": 18},
    ]


async def test_a_torn_last_line_is_asked_again(server: LoopbackServer, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    await run(path, range(10), concurrency=1)
    whole = await text_of(path)
    await asyncio.to_thread(path.write_text, whole[:-5])

    assert await run(path, range(10)) == [2 * n for n in range(10)]
    assert server.served == 11


async def test_items_that_changed_are_asked_anew(server: LoopbackServer, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    await run(path, [1, 2, 3])

    assert await run(path, [1, 5, 3, 4]) == [2, 10, 6, 8]
    assert server.served == 5
    assert await run(path, [1, 5, 3, 4]) == [2, 10, 6, 8]
    assert server.served == 5


async def test_failures_are_not_kept(server: LoopbackServer, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"

    for _ in range(2):
        results = await run(path, [1, -1], on_error="return")
        assert results[0] == 2
        assert isinstance(results[1], tanuki.OutputError)

    assert server.served == 3


async def test_items_of_many_kinds_are_told_apart(server: LoopbackServer, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    items = [(2, 3), {"width": 4, "unit": "cm"}, (2, 3)]

    for _ in range(2):
        assert await run(path, items, area, ordered=True) == ["6 m2", "4 cm2", "6 m2"]

    assert server.served == 3


async def test_a_method_is_remembered_too(server: LoopbackServer, tmp_path: Path) -> None:
    class Desk:
        @tanuki.patch
        async def twice(self, n: int) -> int:
            """Double a number."""
            ...

    for _ in range(2):
        assert await run(tmp_path / "kept.jsonl", [1, 2], Desk().twice) == [2, 4]

    assert server.served == 2


async def test_a_file_of_another_function_or_of_something_else_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "kept.jsonl", tmp_path / "notes.txt"
    await run(path, [1])
    await asyncio.to_thread(other.write_text, "notes\n")

    with pytest.raises(UsageError, match="another function"):
        await run(path, [(1, 2)], area)
    with pytest.raises(UsageError, match="no checkpoint of amap"):
        await run(other, [1])
    assert await text_of(other) == "notes\n"


async def test_only_patched_functions_with_answers_can_be_kept(tmp_path: Path) -> None:
    @tanuki.patch
    async def embed(text: str) -> Embedding[list[float]]:
        """Embed."""
        ...

    async def plain(n: int) -> int:
        return n

    with pytest.raises(UsageError, match="embedding"):
        tanuki.amap(embed, ["a"], checkpoint=tmp_path / "kept.jsonl")
    with pytest.raises(UsageError, match="patched"):
        tanuki.amap(plain, [1], checkpoint=tmp_path / "kept.jsonl")
    with pytest.raises(UsageError, match="mode"):
        tanuki.amap(double, [1], mode="later")  # type: ignore[call-overload]


async def test_a_disk_that_refuses_is_an_error_that_says_so(tmp_path: Path) -> None:
    await asyncio.to_thread((tmp_path / "file").write_text, "")
    with pytest.raises(StorageError, match="checkpoint"):
        await run(tmp_path / "file" / "kept.jsonl", [1])


async def test_many_answers_at_once_are_written_together_and_found_again(tmp_path: Path) -> None:
    checkpoint = await Checkpoint.open(tmp_path / "kept.jsonl", "f")
    await asyncio.gather(*(checkpoint.keep(n, key_of(str(n)), b"%d" % n) for n in reversed(range(2000))))
    await checkpoint.aclose()
    await checkpoint.aclose()

    again = await Checkpoint.open(tmp_path / "kept.jsonl", "f")
    found = await asyncio.gather(*(again.find(n, key_of(str(n))) for n in range(2001)))
    assert found == [*[b"%d" % n for n in range(2000)], None]
    assert await again.find(3, key_of("4")) is None
    assert again.run == checkpoint.run
    await again.aclose()


async def test_a_keeper_that_is_cancelled_loses_nobody_elses_answer(tmp_path: Path) -> None:
    checkpoint = await Checkpoint.open(tmp_path / "kept.jsonl", "f")
    keepers = [asyncio.create_task(checkpoint.keep(n, "0" * 16, b"1")) for n in range(10)]
    await asyncio.sleep(0)
    keepers[0].cancel()
    await asyncio.wait(keepers)
    await checkpoint.aclose()

    assert len((await text_of(tmp_path / "kept.jsonl")).splitlines()) == 11


@pytest.fixture
def apart() -> Iterator[LoopbackServer]:
    with LoopbackServer.in_thread(answer, latency=0.002) as running:
        yield running


PROGRAM = textwrap.dedent(
    """
    import asyncio, sys
    import tanuki_async as tanuki
    from tanuki_async.providers.openai import OpenAICompatible

    @tanuki.patch(max_repairs=0)
    async def double(n: int) -> int:
        '''Double a number.'''
        ...

    async def main():
        provider = OpenAICompatible(sys.argv[1], name="loopback")
        async with tanuki.Tanuki(storage="memory:", providers=[provider], teacher_models="loopback:small"):
            async for result in tanuki.amap(double, range(3000), checkpoint=sys.argv[2], concurrency=8):
                print(result, flush=True)

    asyncio.run(main())
    """
)


async def test_a_process_that_is_killed_loses_nothing_that_it_has_told(
    apart: LoopbackServer, tmp_path: Path, subprocess_env: dict[str, str]
) -> None:
    program, path = tmp_path / "program.py", tmp_path / "kept.jsonl"
    await asyncio.to_thread(program.write_text, PROGRAM)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), apart.url, str(path), stdout=subprocess.PIPE, env=subprocess_env
    )
    assert process.stdout is not None
    told = [int(await process.stdout.readline()) for _ in range(200)]
    process.kill()
    told += [int(line) for line in (await process.stdout.read()).split()]
    await process.wait()

    kept = [json.loads(line).get("o") for line in (await text_of(path)).splitlines() if line.endswith("}")]
    assert set(told) <= set(kept)


async def test_answers_that_were_kept_are_recorded_once(server: LoopbackServer, opened: Tanuki, tmp_path: Path) -> None:
    await run(tmp_path / "kept.jsonl", range(5))
    await run(tmp_path / "kept.jsonl", range(5))

    assert len(await recorded(opened._storage, double)) == 5
