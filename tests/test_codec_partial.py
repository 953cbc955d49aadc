"""Items out of a list that is still being written: the same as json.loads gives, whatever the cuts, and never a part."""

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from tanuki_async._codec.parse import Complaint, Parsed
from tanuki_async._codec.partial import Items, read
from tanuki_async._codec.schema import wire

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
AROUND = [
    ("", ""),
    (" \n", "\n "),
    ("```json\n", "\n```"),
    ("Sure [see below], {here} it is:\n\n```json\n", "\n```\nAnything else [1]?"),
    ('<think>maybe {"value":[9]} or ["no"]</think>\n', ""),
]


def feed(text: str, cuts: list[int]) -> tuple[list[str], Items]:
    items = Items()
    places = [0, *sorted(cuts), len(text)]
    found = [item for start, end in itertools.pairwise(places) for item in items.feed(text[start:end])]
    return found, items


@given(st.data(), st.lists(VALUES, max_size=5), st.sampled_from(AROUND), st.booleans(), st.sampled_from([None, 0, 2]))
def test_any_chunking_gives_what_json_gives(data: Any, values: Any, around: Any, escaped: bool, indent: Any) -> None:
    text = around[0] + json.dumps({"value": values}, ensure_ascii=escaped, indent=indent) + around[1]
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=20))
    found, items = feed(text, cuts)
    assert [json.loads(item) for item in found] == values
    assert (items.closed, items.broken) == (True, False)
    cut = data.draw(st.integers(0, len(text)))
    part, _ = feed(text[:cut], cuts=[])
    assert part == found[: len(part)]  # never more, and never a part of an item


@given(st.lists(VALUES, max_size=4), st.sampled_from(["", "\n", "```\n", "```json\n"]))
def test_a_list_without_its_envelope_is_read_where_the_answer_begins_with_it(values: Any, before: str) -> None:
    text = before + json.dumps(values)
    found, items = feed(text, list(range(len(text))))
    assert ([json.loads(item) for item in found], items.closed) == (values, True)


def test_a_string_is_given_with_its_quotation_mark_and_a_number_with_what_follows_it() -> None:
    items = Items()
    assert items.feed('{"value": ["a\\"') == []
    assert items.feed('b"') == ['"a\\"b"']
    assert items.feed(", 12") == []
    assert items.feed("3") == []
    assert items.feed(' ,{"x": [1, "}"]') == ["123"]
    assert items.feed("}") == ['{"x": [1, "}"]}']
    assert (items.feed(", true]}"), items.closed) == (["true"], True)
    assert items.feed(', "more"]') == []


@pytest.mark.parametrize("text", ['["a" "b"]', "[1,,2]", '["a": 1]', "[,"])
def test_what_is_no_json_breaks_off(text: str) -> None:
    _, items = feed(f'{{"value":{text}}}', [])
    assert items.broken


@pytest.mark.parametrize("text", ["", "no list here", '{"names": ["a"]}', "see [1] and [2]", '<think>{"value":["a"]}'])
def test_without_a_list_nothing_is_given(text: str) -> None:
    found, items = feed(text, list(range(len(text))))
    assert (found, items.begun) == ([], False)


@pytest.mark.parametrize(
    "text", ["{ " * 50_000, '["' + "x" * 200_000, " " * 200_000, "<think>" + "x" * 200_000, "```" * 70_000]
)
def test_the_time_grows_with_the_length_only(text: str) -> None:
    items = Items()
    began = time.perf_counter()
    for mark in text:
        items.feed(mark)
    assert time.perf_counter() - began < 3


class Person(BaseModel):
    name: str
    ages: dict[str, int]


def test_an_item_is_what_it_would_be_in_the_list() -> None:
    people = wire(TypeAdapter(list[Person]), name="f")
    whole = people.encode([{"name": "Anna", "ages": {"x": 1}}])
    (item,), _ = feed(whole, [])
    found = read(people, item, 0)
    assert isinstance(found, Parsed)
    assert found.value == Person(name="Anna", ages={"x": 1})
    assert json.loads(found.output_json) == {"name": "Anna", "ages": {"x": 1}}


@pytest.mark.parametrize("item", ["7", "nope", '{"name": "A"}', "1],[2", '"\\ud800"', "NaN"])
def test_an_item_that_does_not_fit_is_a_complaint_about_its_place(item: str) -> None:
    found = read(wire(TypeAdapter(list[Person]), name="f"), item, 4)
    assert isinstance(found, Complaint)
    assert "value[0]" not in found.text
