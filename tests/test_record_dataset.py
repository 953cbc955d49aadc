"""Data sets: how examples are named, read back, and which answer counts."""

from __future__ import annotations

import pytest

from tanuki_async._lines import encode_example
from tanuki_async._record.dataset import DATASETS, PATCHES, SYMBOLIC_ALIGNMENTS, latest, name_of, read
from tanuki_async._records import Example, JsonValue
from tanuki_async.storage.memory import MemoryStorage

HASH = "0123456789abcdef0123456789abcdef"


def example(*args: JsonValue, output: JsonValue = "good", **kwargs: JsonValue) -> Example:
    return Example(args=args, kwargs=kwargs, output=output, source="call", at="2026-11-23T00:00:00.000Z")


async def stored(*lines: bytes) -> MemoryStorage:
    storage = MemoryStorage()
    await storage.append(name_of(HASH, PATCHES), lines)
    return storage


async def everything(storage: MemoryStorage, *, start: int = 0) -> list[Example]:
    return [example async for batch in read(storage, HASH, PATCHES, start=start) for example in batch]


def test_each_dataset_has_a_name_of_its_own_under_the_hash() -> None:
    assert name_of(HASH, SYMBOLIC_ALIGNMENTS) == f"{HASH}/SYMBOLIC_ALIGNMENTS"
    assert len({name_of(HASH, dataset) for dataset in DATASETS}) == 4


async def test_what_was_written_is_read_back_in_order() -> None:
    examples = [example(n, {"text": "ü"}, flag=None, output=[n, 1.5]) for n in range(500)]
    storage = await stored(*map(encode_example, examples))
    assert await everything(storage) == examples
    assert await everything(storage, start=498) == examples[498:]


async def test_a_dataset_that_is_not_there_is_empty() -> None:
    assert await everything(MemoryStorage()) == []


@pytest.mark.parametrize("many", [0, 200])
async def test_a_line_that_cannot_be_read_is_left_out_with_one_warning(
    many: int, caplog: pytest.LogCaptureFixture
) -> None:
    good = [example(n) for n in range(2 + many)]
    newer = encode_example(example("later")).replace(b'"v":1', b'"v":2')
    lines = [*map(encode_example, good[:1]), b"{torn", newer, *map(encode_example, good[1:])]
    assert await everything(await stored(*lines)) == good
    assert len(caplog.records) == 1


async def test_nothing_but_damaged_lines_reads_as_empty() -> None:
    assert await everything(await stored(b"{torn")) == []


def test_the_later_answer_for_the_same_input_counts() -> None:
    first, other, changed = example(1, output="good"), example(2), example(1, output="bad")
    assert latest([first, other, changed]) == [other, changed]


def test_inputs_differ_by_their_type_and_keywords() -> None:
    examples = [example(1), example(1.0), example("1"), example(True), example([1]), example(1, x=None), example()]
    assert latest(examples) == examples
