"""From a call's arguments to checked values, JSON and text, and from records back to the same text."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, computed_field
from pydantic_core import from_json

from tanuki_async._codec.describe import describe
from tanuki_async._errors import InputError


class Color(Enum):
    RED = "r"


class Person(BaseModel):
    name: str
    born: datetime | None = None

    @computed_field
    def initial(self) -> str:
        return self.name[:1]


class Aliased(BaseModel):
    full_name: str = Field(alias="fullName")


@dataclass
class Point:
    x: float
    y: float = 0.0


async def one(text: str) -> int: ...
async def nothing() -> int: ...
async def many(a: int, /, b: str = "x", *rest: float, c: bool, d: Color = Color.RED, **more: list[int]) -> int: ...
async def two(a: int, b: list[str] = []) -> int: ...  # noqa: B006
async def items(xs: Iterable[int]) -> int: ...
async def person(p: Person, point: Point) -> int: ...


class Service:
    async def method(self, x: int, *, y: int = 2) -> int: ...


ONE, NOTHING, MANY, TWO = describe(one), describe(nothing), describe(many), describe(two)


def test_a_plain_call() -> None:
    call = ONE.bind(("héllo\n",), {})

    assert call.text == '{"text":"héllo\\n"}'
    assert call.args_json == '["héllo\\n"]'.encode()
    assert call.kwargs_json == b"{}"
    assert call.values == {"text": "héllo\n"}
    assert call.inputs() == {"text": "héllo\n"}


def test_a_call_without_parameters() -> None:
    call = NOTHING.bind((), {})

    assert (call.text, call.args_json, call.kwargs_json, call.values) == ("{}", b"[]", b"{}", {})
    assert NOTHING.text_of([], {}) == "{}"


def test_every_kind_of_parameter() -> None:
    call = MANY.bind((1, "y", 2, 3), {"c": True, "e": [4], "f": [], "a": [5]})

    assert call.args_json == b'[1,"y",2.0,3.0]'
    assert call.kwargs_json == b'{"c":true,"d":"r","e":[4],"f":[],"a":[5]}'
    assert call.text == '{"a":1,"b":"y","rest":[2.0,3.0],"c":true,"d":"r","more":{"e":[4],"f":[],"a":[5]}}'
    assert call.values == {
        "a": 1, "b": "y", "rest": (2.0, 3.0), "c": True, "d": Color.RED, "more": {"e": [4], "f": [], "a": [5]},
    }  # fmt: skip


def test_defaults_and_empty_stars() -> None:
    call = MANY.bind((1,), {"c": False})

    assert call.args_json == b'[1,"x"]'
    assert call.kwargs_json == b'{"c":false,"d":"r"}'
    assert call.text == '{"a":1,"b":"x","rest":[],"c":false,"d":"r","more":{}}'


def test_by_place_and_by_name_are_the_same_call() -> None:
    calls = [TWO.bind((1, ["a"]), {}), TWO.bind((1,), {"b": ["a"]}), TWO.bind((), {"b": ["a"], "a": 1})]

    assert {(call.text, call.args_json, call.kwargs_json) for call in calls} == {
        ('{"a":1,"b":["a"]}', b'[1,["a"]]', b"{}")
    }


def test_self_is_dropped() -> None:
    spec = describe(Service.method)

    assert spec.bind((Service(), 1), {}).text == '{"x":1,"y":2}'
    assert spec.bind((), {"self": Service(), "x": 1, "y": 3}).text == '{"x":1,"y":3}'
    with pytest.raises(InputError, match="'self' is missing: call it on an instance"):
        spec.bind((), {"x": 1})


def test_arguments_are_converted_as_pydantic_does() -> None:
    assert TWO.bind(("1", ("a",)), {}).values == {"a": 1, "b": ["a"]}


def test_an_iterable_is_read_once_for_all() -> None:
    call = describe(items).bind((iter([1, 2]),), {})

    assert (call.values["xs"], call.text) == ([1, 2], '{"xs":[1,2]}')


def test_what_is_written_is_what_is_validated_again() -> None:
    """Computed fields are left out, aliases kept."""

    async def f(p: Person, a: Aliased) -> int: ...

    spec = describe(f, namespace={"Person": Person, "Aliased": Aliased})
    call = spec.bind((Person(name="x"), Aliased(fullName="y")), {})

    assert call.text == '{"p":{"name":"x","born":null},"a":{"fullName":"y"}}'
    assert spec.bind(tuple(json.loads(call.args_json)), {}).text == call.text


def test_a_call_shows_its_arguments_as_they_were() -> None:
    names = ["a"]
    call = TWO.bind((1, names), {})
    names.append("b")

    assert call.text == '{"a":1,"b":["a"]}'


def test_sets_are_written_in_one_order() -> None:
    async def f(x: set[str], y: frozenset[int] = frozenset({3, 20, 1})) -> int: ...

    assert describe(f).bind(({"b", "c", "a"},), {}).text == '{"x":["a","b","c"],"y":[1,20,3]}'


def test_bytes_need_not_be_text() -> None:
    async def f(x: bytes, y: list[bytes]) -> int: ...

    spec = describe(f)
    call = spec.bind((b"\xff\x00", ["text"]), {})

    assert call.values == {"x": b"\xff\x00", "y": [b"text"]}
    assert spec.parameters[0].adapter.validate_json(call.args_json[1:7]) == b"\xff\x00"


@pytest.mark.parametrize(
    ("args", "kwargs", "parameter", "reason"),
    [
        ((), {}, "a", "is missing; the signature is def two(a: int, b: list[str] = []) -> int"),
        ((1, [], 3), {}, None, "takes 2 arguments by place, but got 3; the signature is def two("),
        ((1,), {"a": 2}, "a", "is given twice, by place and by name; the signature is"),
        ((1,), {"z": 2}, "z", "is not a parameter that may be given by name; the signature is"),
        (("x",), {}, "a", "should be int, got 'x': Input should be a valid integer"),
        ((1, [2, 3]), {}, "b", "should be list[str], got [2, 3]: at 0: Input should be a valid string, and 1 more"),
    ],
)
def test_what_does_not_fit_is_named(args: Any, kwargs: Any, parameter: str | None, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        TWO.bind(args, kwargs)

    assert caught.value.function == "two"
    assert caught.value.parameter == parameter
    assert caught.value.reason.startswith(reason)
    assert isinstance(caught.value, TypeError)
    assert "\n" not in str(caught.value)
    assert "pydantic.dev" not in str(caught.value)


def test_by_place_only_may_not_be_named() -> None:
    async def f(a: int, /) -> int: ...

    with pytest.raises(InputError, match=r"argument 'a' of .* is not a parameter that may be given by name"):
        describe(f).bind((), {"a": 1})


def test_a_misfit_among_stars_names_them() -> None:
    for args, kwargs, name in (((1, "x", "no"), {"c": True}, "rest"), ((1,), {"c": True, "e": 3}, "more")):
        with pytest.raises(InputError) as caught:
            MANY.bind(args, kwargs)
        assert caught.value.parameter == name


def test_long_arguments_are_clipped() -> None:
    with pytest.raises(InputError) as caught:
        TWO.bind(("9" * 10_000 + "x",), {})

    assert len(str(caught.value)) < 500


class Measured(BaseModel):
    """Has a config of its own, which takes all numbers."""

    x: float
    y: float | None = None


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_an_argument_that_cannot_be_shown_is_named_by_its_type() -> None:
    with pytest.raises(InputError, match="got <Unshowable>"):
        ONE.bind((Unshowable(),), {})


def test_what_json_cannot_hold_is_refused() -> None:
    async def f(x: float) -> int: ...
    async def g(x: object) -> int: ...
    async def h(x: list[Measured]) -> int: ...
    async def i(x: Any) -> int: ...

    with pytest.raises(InputError, match="finite number"):
        describe(f).bind((float("inf"),), {})
    with pytest.raises(InputError, match=r"'x' .* is not finite"):
        describe(h).bind(([Measured(x=float("nan"))],), {})
    with pytest.raises(InputError, match=r"'x' .* is not finite"):
        describe(i).bind(({"a": float("inf")},), {})
    assert describe(h).bind(([Measured(x=1, y=None)],), {}).text == '{"x":[{"x":1.0,"y":null}]}'
    with pytest.raises(InputError, match="cannot be written as JSON"):
        describe(g).bind((Unshowable(),), {})
    with pytest.raises(InputError, match="argument 'text'"):
        ONE.bind(("\ud800",), {})


def test_records_of_another_shape_are_read_as_far_as_they_go() -> None:
    assert TWO.inputs_of([1], {}) == {"a": 1, "b": []}
    assert TWO.inputs_of([1, ["x"], 3], {"z": 4}) == {"a": 1, "b": ["x"]}
    assert TWO.inputs_of([], {"b": ["x"]}) == {"b": ["x"]}
    assert TWO.inputs_of([], {"b": ["x"], "a": 1}) == {"a": 1, "b": ["x"]}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


async def anything(a: Any, b: float, c: str, *rest: Any, d: dict[str, float], **more: Any) -> int: ...


ANYTHING = describe(anything)


@given(
    a=VALUES,
    b=st.floats(allow_nan=False, allow_infinity=False),
    c=st.text(),
    rest=st.lists(VALUES, max_size=3),
    d=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
    more=st.dictionaries(st.text().filter(lambda name: name not in "abcd"), VALUES, max_size=3),
)
def test_a_record_gives_the_same_text_as_its_call(a: Any, b: float, c: str, rest: Any, d: Any, more: Any) -> None:
    call = ANYTHING.bind((a, b, c, *rest), {"d": d, **more})

    args, kwargs = json.loads(call.args_json), json.loads(call.kwargs_json)

    assert ANYTHING.text_of(args, kwargs) == call.text
    assert call.inputs() == ANYTHING.inputs_of(args, kwargs) == from_json(call.text)


@given(
    name=st.text(),
    born=st.none() | st.datetimes(),
    x=st.floats(allow_nan=False, allow_infinity=False),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    raw=st.binary(),
    numbers=st.lists(st.integers()),
    tags=st.sets(st.text()),
)
def test_typed_values_survive_the_record(
    name: str, born: Any, x: float, price: Decimal, raw: bytes, numbers: list[int], tags: set[str]
) -> None:
    async def f(p: Person, q: Point, price: Decimal, raw: bytes, numbers: deque[int], tags: set[str]) -> int: ...

    spec = SPECS.get("f") or SPECS.setdefault("f", describe(f))
    call = spec.bind((Person(name=name, born=born), Point(x), price, raw, numbers, tags), {})
    parts = json.loads(call.args_json)
    again = [item.adapter.validate_json(json.dumps(part)) for item, part in zip(spec.parameters, parts, strict=True)]

    assert spec.text_of(parts, {}) == call.text
    assert again == list(call.values.values())


SPECS: dict[str, Any] = {}
