"""Reprs are read, never executed; whatever is no repr of a plain value is refused."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import BaseModel, TypeAdapter

from tanuki_async._keeping.reprs import ReprError, read_repr


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass
class Box:
    corner: Point
    colour: Colour


class Order(BaseModel):
    id: int
    box: Box
    at: datetime


scalars = (
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=False)
    | some.text()
    | some.binary()
    | some.dates()
    | some.datetimes()
    | some.times()
    | some.timedeltas()
    | some.decimals(allow_nan=False)
    | some.uuids()
)
values = some.recursive(
    scalars,
    lambda inner: (
        some.lists(inner, max_size=4)
        | some.tuples(inner)
        | some.tuples(inner, inner)
        | some.dictionaries(some.text() | some.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_what_repr_writes_is_read_back(value: Any) -> None:
    assert read_repr(repr(value)) == value


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (Colour.RED, "red"),
        (Point(1, 2.5), {"x": 1, "y": 2.5}),
        (Box(Point(1, 2.0), Colour.RED), {"corner": {"x": 1, "y": 2.0}, "colour": "red"}),
        (frozenset({1}), [1]),
        (set(), []),
        ({'it\'s "so"\n'}, ['it\'s "so"\n']),
        (collections.deque([1, 2], maxlen=3), [1, 2]),
        (collections.defaultdict(list, {"a": [1]}), {"a": [1]}),
        (collections.OrderedDict([("a", 1)]), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (PurePosixPath("/a/b"), PurePosixPath("/a/b")),
        (bytearray(b"\x00\xff"), b"\x00\xff"),
        (float("inf"), float("inf")),
        (datetime(2024, 1, 2, 3, 4, tzinfo=UTC), datetime(2024, 1, 2, 3, 4, tzinfo=UTC)),
        (
            datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=-3), "X")),
            datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=-3))),
        ),
        (datetime(2024, 7, 1, tzinfo=ZoneInfo("UTC")), datetime(2024, 7, 1, tzinfo=UTC)),
        ([date(2024, 1, 2), time(1, 2), timedelta(-1, 5)], [date(2024, 1, 2), time(1, 2), timedelta(-1, 5)]),
        ({"a": (Decimal("1.50"), uuid.UUID(int=7))}, {"a": (Decimal("1.50"), uuid.UUID(int=7))}),
    ],
)
def test_objects_become_what_types_can_be_made_of(value: object, read: object) -> None:
    assert read_repr(repr(value)) == read


def test_a_models_repr_validates_as_the_model() -> None:
    order = Order.model_validate_json(
        '{"id": 1, "box": {"corner": [1, 2], "colour": "red"}, "at": "2024-01-02T00:00:00Z"}'
    )
    assert TypeAdapter(Order).validate_python(read_repr(repr(order))) == order


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "os.system('true')",
        "open('/etc/passwd')",
        "lambda: 1",
        "1 + 1",
        "[1][0]",
        "[x for x in [1]]",
        "f'{1}'",
        "a",
        "datetime.datetime",
        "datetime.datetime.now()",
        "Name('positional')",
        "<__main__.Thing object at 0x7f0000000000>",
        "(1)",
        "[1, 2",
        "[1 2]",
        "{1: 2, 3}",
        "{[1]: 2}",
        "'unfinished",
        "'a' 'b'",
        "'\\q'",
        "'\\N{BULLET}'",
        "'\\U00110000'",
        "b'\u1234'",
        "1_000",
        "0x10",
        "1j",
        "",
        "None None",
        "datetime.date(2024, 13, 1)",
        "Decimal('x')",
        "UUID('x')",
        "zoneinfo.ZoneInfo(key='../../../etc/passwd')",
        "9" * 5000,
        "(" * 5000,
        "{1:" * 5000,
        "A(a=" * 5000,
    ],
)
def test_what_is_no_plain_value_is_refused(text: str) -> None:
    with pytest.raises(ReprError):
        read_repr(text)


@given(some.text(alphabet="()[]{}<>,:'\"\\=.bAN1e-_ \n", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ReprError):  # any other error fails the test
        read_repr(text)
