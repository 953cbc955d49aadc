"""One example as one line: read as it was written, recognised by what makes it distinct, never by the rest."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanuki_async._errors import StorageError
from tanuki_async._lines import arguments_key, compact, decode_line, encode_example, example_key, key_of
from tanuki_async._records import Example

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("source"), inner, max_size=3),
    max_leaves=8,
)
examples = st.builds(
    Example,
    args=st.lists(json_values, max_size=3).map(tuple),
    kwargs=st.dictionaries(st.text(), json_values, max_size=3),
    output=json_values,
    source=st.sampled_from(["align", "call"]),
    repaired=st.booleans(),
    model=st.none() | st.text(),
    at=st.just("2026-11-23T00:00:00.000Z"),
)


@given(examples)
def test_an_example_is_read_as_it_was_written(example: Example) -> None:
    line = encode_example(example)
    assert b"\n" not in line
    assert decode_line(line) == example


@given(examples, st.none() | st.text())
def test_who_answered_and_when_does_not_make_an_example_another(example: Example, model: str | None) -> None:
    again = Example(
        args=example.args, kwargs=example.kwargs, output=example.output, source="call", model=model, at="later"
    )
    assert example_key(encode_example(example)) == example_key(encode_example(again))


@given(examples)
def test_another_hand_with_other_spaces_writes_the_same_example(example: Example) -> None:
    line = encode_example(example)
    spaced = json.dumps(json.loads(line), indent=None, separators=(", ", ": "), ensure_ascii=True).encode()
    assert example_key(spaced) == example_key(line)
    assert arguments_key(spaced) == arguments_key(line)


@given(examples, json_values)
def test_another_answer_has_the_same_arguments_and_is_another_example(example: Example, output: object) -> None:
    changed = json.loads(encode_example(example)) | {"output": output}
    other = compact(changed)
    line = encode_example(example)
    assert arguments_key(other) == arguments_key(line)
    same = json.dumps(output) == json.dumps(example.output)
    assert (example_key(other) == example_key(line)) == same


@given(st.binary(max_size=60))
def test_any_line_has_a_key(line: bytes) -> None:
    assert len(key_of(line)) == 16
    assert key_of(line) == key_of(line)


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"null", b'{"v":1}', b'{"v":1,"args":[1', b"\xff", b"[" * 100_000, b'{"v": 1, "args": [NaN]}'],
)
def test_what_is_no_record_is_refused_but_has_a_key(line: bytes) -> None:
    with pytest.raises(StorageError, match="not a record"):
        decode_line(line)
    assert len(key_of(line)) == 16


def test_a_record_of_a_newer_release_says_what_to_do() -> None:
    with pytest.raises(StorageError, match="version 2, this release reads 1: install a newer"):
        decode_line(b'{"v":2}')
