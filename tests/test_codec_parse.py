"""What models answer in practice becomes a value of the declared type, or a complaint; never anything else."""

import time
from collections import deque
from datetime import date
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationInfo, field_validator

from tanuki_async._codec import partial
from tanuki_async._codec.parse import COMPLAINT, PROBLEMS, Complaint, Parsed, parse
from tanuki_async._codec.schema import wire


class Review(BaseModel):
    label: Literal["good", "bad"]
    stars: int = 3
    notes: dict[str, int] = {}


def wire_of(annotation: Any):
    return wire(TypeAdapter(annotation), name="function")


SENTIMENT = wire_of(Literal["good", "bad"] | None)
REVIEW = wire_of(Review)
TEXT = wire_of(str)
NUMBERS = wire_of(list[int])
NAMED = wire_of(dict[str, int])


def test_an_exact_answer_is_taken_as_it_is():
    assert parse(SENTIMENT, '{"value":"good"}') == Parsed("good", b'"good"')


@pytest.mark.parametrize(
    ("wire", "text", "value"),
    [
        (SENTIMENT, '{ "value" : null }\n', None),
        (SENTIMENT, '"good"', "good"),
        (SENTIMENT, "good", "good"),
        (SENTIMENT, "`good`", "good"),
        (SENTIMENT, "**good**.", "good"),
        (SENTIMENT, "None", None),
        (SENTIMENT, "null", None),
        (SENTIMENT, "```\ngood\n```", "good"),
        (SENTIMENT, '```json\n{"value": "bad"}\n```', "bad"),
        (SENTIMENT, 'Sure! Here it is:\n```json\n{"value": "bad"}\n```\nAnything else?', "bad"),
        (SENTIMENT, 'First {"value":"bad"}, no: {"value":"good"} it is.', "good"),
        (SENTIMENT, '{"value":"good"} fits better than {"value":"ugly"}.', "good"),
        (SENTIMENT, '<think>{"value":"bad"}?</think>\n{"value":"good"}', "good"),
        (SENTIMENT, 'so it is bad</think>{"value":"good"}', "good"),
        (SENTIMENT, '<think>still {"value":"bad"}', "bad"),
        (SENTIMENT, "{'value': None,}", None),
        (SENTIMENT, 'He said "so, and: {"value": "good"}', "good"),
        (SENTIMENT, 'an open { bracket, then {"value": "good"}', "good"),
        (SENTIMENT, '\ufeff{"value": "good"}', "good"),
        (REVIEW, '{"label":"good","stars":null,"notes":null}', Review(label="good")),
        (REVIEW, '{"label":"good","stars":5,"notes":{"a":1}}', Review(label="good", stars=5, notes={"a": 1})),
        (REVIEW, '{"label":"good","stars":5,"notes":[{"key":"a","value":1}]}', Review(label="good", stars=5, notes={"a": 1})),
        (REVIEW, "{'label': 'good', 'stars': 1, 'notes': {'it\\'s \"x\"': 2},}", Review(label="good", stars=1, notes={'it\'s "x"': 2})),
        (REVIEW, '{"value": {"label": "bad", "stars": 1, "notes": []}}', Review(label="bad", stars=1)),
        (NUMBERS, "[1, 2]", [1, 2]),
        (NUMBERS, "The numbers are [1, 2,].", [1, 2]),
        (NAMED, '{"a": 1}', {"a": 1}),
        (NAMED, '{"value": 1}', {"value": 1}),
        (NAMED, '{"value": [{"key": "a", "value": 1}]}', {"a": 1}),
        (NAMED, '{"value": {"a": 1}}', {"a": 1}),
        (wire_of(int), "42", 42),
        (wire_of(int), "42.", 42),
        (wire_of(bool), "True", True),
        (wire_of(date), "2026-11-22", date(2026, 11, 22)),
        (TEXT, '{"value": "a {b} c"}', "a {b} c"),
        (TEXT, "Dear Ann,\n\nI am well.", "Dear Ann,\n\nI am well."),
        (TEXT, '"quoted"', "quoted"),
        (TEXT, 'Here:\n```json\n{"value":"x"}\n```', "x"),
    ],
)  # fmt: skip
def test_a_sloppy_answer_is_understood(wire, text, value):
    parsed = parse(wire, text)

    assert isinstance(parsed, Parsed), parsed
    assert parsed.value == value
    assert type(parsed.value) is type(value)
    assert wire.load(parsed.output_json) == value


def test_tolerance_is_told():
    assert parse(SENTIMENT, '"good"') == Parsed("good", b'"good"', repaired=False)
    assert parse(SENTIMENT, "good") == Parsed("good", b'"good"', repaired=True)


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (SENTIMENT, ""),
        (SENTIMENT, "  \n"),
        (SENTIMENT, "I think it is good"),
        (SENTIMENT, "Good"),
        (SENTIMENT, '{"value":"ugly"}'),
        (SENTIMENT, '["good"]'),
        (SENTIMENT, '{"value":"go'),
        (SENTIMENT, '{"label":"good"}'),
        (NUMBERS, "[1, 2"),
        (NUMBERS, '{"value": [1, 2'),
        (NUMBERS, "1"),
        (TEXT, '{"value": "I was cut o'),
        (TEXT, 'Well: {"value": "I was cut o'),
        (TEXT, '{"answer": "x"}'),
        (TEXT, '```json\n{"value": "I was cut'),
        (TEXT, ""),
        (REVIEW, "good"),
        (REVIEW, '{"stars": 1}'),
    ],
)
def test_what_does_not_fit_is_a_complaint(wire, text):
    assert isinstance(parse(wire, text), Complaint)


def test_a_complaint_says_where_and_what():
    complaint = parse(wire_of(list[Review]), '{"value":[{"label":"good"},{"label":"ugly","stars":"many","notes":[]}]}')

    assert isinstance(complaint, Complaint)
    assert "value[1].label: Input should be 'good' or 'bad', not \"ugly\"" in complaint.text
    assert "value[1].stars: " in complaint.text
    assert '{"type":"object","properties":{"value":' in complaint.text
    assert "https://" not in complaint.text


def test_a_complaint_about_found_json_speaks_of_that_json():
    complaint = parse(SENTIMENT, 'My answer: {"value": "ugly"}')

    assert isinstance(complaint, Complaint)
    assert "ugly" in complaint.text


def test_a_complaint_is_short():
    many = wire_of(list[Review])
    answer = '{"value":[' + ",".join(['{"label":"' + "x" * 500 + '"}'] * 50) + "]}"

    complaint = parse(many, answer)

    assert isinstance(complaint, Complaint)
    assert len(complaint.text) <= COMPLAINT
    assert "and 46 more" in complaint.text


def test_half_of_a_value_is_never_completed():
    whole = '{"label":"good","stars":12,"notes":[{"key":"a","value":1}]}'

    for length in range(len(whole)):
        assert isinstance(parse(REVIEW, whole[:length]), Complaint), whole[:length]


class Node(BaseModel):
    """A value that has whole values of its own type within it."""

    value: int
    children: list["Node"] = []


@pytest.mark.parametrize(
    ("annotation", "whole"),
    [
        (Node, '{"value":1,"children":[{"value":2,"children":[]},{"value":3,"children":[]}]}'),
        (Node, "{'value': 1, 'children': [{'value': 2, 'children': []}]}"),
        (list[int] | list[list[int]], '{"value":[[1,2],[3]]}'),
        (list[int] | list[list[int]], "[[1,2],[3]]"),
        (list[str], '{"value":["a","[b]"]}'),
        (list[int], '{"value":[1],"and":[2]}'),
    ],
)
@pytest.mark.parametrize("before", ["", "Here: ", "```json\n"])
def test_a_part_of_a_cut_off_answer_is_never_taken_for_the_whole(annotation, whole, before):
    made = wire_of(annotation)

    for length in range(len(whole)):
        assert isinstance(parse(made, before + whole[:length]), Complaint), whole[:length]


def test_a_value_is_not_taken_when_its_correction_is_cut_off():
    assert isinstance(parse(SENTIMENT, '{"value":"bad"} No, rather {"value":"go'), Complaint)


def test_many_open_brackets_in_prose_are_given_up():
    assert isinstance(parse(SENTIMENT, "{ a " * 100 + '{"value":"good"}'), Complaint)


@pytest.mark.parametrize(
    "text",
    [
        "[ x" * 20_000,
        "[" * 1_000,
        "[" * 1_000_000,
        "{" * 1_000_000,
        '{"a":' * 200_000,
        "[]" * 400_000,
        '"' * 900_000,
        '{"a\\"' * 200_000,
        "```" * 300_000,
        "<think>" * 100_000,
        "'" * 900_000,
        "{'" * 400_000,
        "[" + "'" * 900_000 + "]",
        "x" * 3_000_000,
        "\\" * 900_000,
        "{" + ",".join(["'a' :"] * 100_000) + "}",
        '{"value":' + "[" * 150 + "]" * 150 + "}",
        "[1e" + "9" * 500_000 + "]",
        "1" * 500_000,
        '{"value":[' + '{"a":1},' * 20_000 + "{}]}",
    ],
    ids=lambda text: text[:8],
)
def test_a_huge_answer_is_refused_quickly(text):
    begun = time.perf_counter()

    assert isinstance(parse(NUMBERS, text), Complaint)

    assert time.perf_counter() - begun < 3


def test_only_the_first_of_very_many_problems_are_looked_at():
    complaint = parse(NUMBERS, '{"value":[' + '"x",' * 5_000 + '"y"]}')

    assert isinstance(complaint, Complaint)
    assert complaint.text.count("value[") == PROBLEMS
    assert "- and 4997 more" in complaint.text


class Measured(BaseModel):
    """Has a config of its own, which takes all numbers."""

    by: dict[float, Any] = {}
    at: tuple[float | None, ...] = ()
    latest: deque[float] = deque()


@pytest.mark.parametrize(
    "text",
    [
        '{"at":[1e999]}',
        '{"at":["nan"]}',
        '{"at":["-Infinity"]}',
        '{"at":[1,' + "9" * 400 + "]}",
        '{"by":{"inf":1}}',
        '{"by":{"NaN":1}}',
        '{"latest":[1,1e400]}',
        '{"by":{"1":[{"x":-1E+400}]}}',
        'So: {"at":["1e309"]}',
    ],
    ids=lambda text: text[:24],
)
def test_a_number_that_json_does_not_have_is_a_complaint(text):
    assert isinstance(parse(wire_of(list[Measured]), f"[{text}]"), Complaint)
    assert isinstance(parse(wire_of(Measured), text), Complaint)


def test_large_numbers_and_words_that_look_like_none_are_taken():
    parsed = parse(wire_of(Measured), '{"at":[1e308],"by":{"2":"infinite, e123: NaN-like"}}')

    assert isinstance(parsed, Parsed)
    assert parsed.value == Measured(at=(1e308,), by={2.0: "infinite, e123: NaN-like"})


class Touchy(BaseModel):
    """Its second check looks for what the first has refused."""

    label: Literal["good", "bad"]
    stars: int

    @field_validator("stars")
    @classmethod
    def check(cls, stars: int, info: ValidationInfo) -> int:
        return stars if info.data["label"] == "good" else 1 // stars


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"label":"ugly","stars":1}', "KeyError: 'label'"),
        ('So: {"label":"bad","stars":0}', "ZeroDivisionError"),
    ],
)
def test_whatever_a_validator_raises_is_a_complaint_and_logged(text, said, caplog):
    complaint = parse(wire_of(Touchy), text)
    item = partial.read(wire_of(list[Touchy]), text.removeprefix("So: "), 0)

    assert isinstance(complaint, Complaint)
    assert isinstance(item, Complaint)
    assert said in complaint.text
    assert said in item.text
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


WIRES = {
    annotation: wire_of(annotation)
    for annotation in (str, int, list[int], dict[str, int], Review, tuple[int, str], set[str], Literal["a", 1] | None)
}
PIECES = st.sampled_from(  # fragments of which odd answers are made
    [
        '{"value":',
        "}",
        "[",
        "]",
        '"',
        "'",
        ",",
        ":",
        "1",
        "null",
        "None",
        "a",
        "```json\n",
        "```",
        "<think>",
        "</think>",
    ]
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(list(WIRES)), st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=30))
@example(str, "\ud800")
@example(int, '{"value":"\ud800"}')
def test_no_text_raises_or_gives_a_value_of_another_type(annotation, text):
    made = WIRES[annotation]

    result = parse(made, text)

    if isinstance(result, Parsed):
        assert made.load(result.output_json) == result.value
        TypeAdapter(annotation).validate_python(result.value, strict=True)
    else:
        assert len(result.text) <= COMPLAINT
        result.text.encode()
