"""The hash of a function: what changes it, and what never does.

Run as a script, it prints the hashes of STUBS, so that processes can be compared.
"""

# ruff: noqa: UP006, UP007, UP035, UP045  # import styles, old and new, are what is tested

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import json
import os
import subprocess
import sys
import typing
from datetime import date
from typing import (
    Annotated,
    Any,
    Dict,
    Generic,
    Iterable,
    List,
    Literal,
    NamedTuple,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)

import pytest
from annotated_types import Ge, Gt, Interval, Len, Lt, MaxLen, MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, StringConstraints, create_model
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import NotRequired

from tanuki_async._codec.describe import describe
from tanuki_async._codec.render import Renderer, tidy, value_text

T = TypeVar("T")


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class Person(BaseModel):
    """Somebody."""

    name: str = Field(min_length=1, description="as in the passport")
    age: Annotated[int, Field(ge=0)] | None = None
    friends: list[Person] = []
    tags: dict[str, Color] = Field(default_factory=dict)


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: str | None = None


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    label: str = dataclasses.field(default="p")


@pydantic_dataclass
class Checked:
    a: int = Field(gt=0)


class Row(TypedDict):
    a: int
    b: NotRequired[str]


class Pair(NamedTuple):
    left: int
    right: str = "r"


class Names(list[str]): ...


class Plain:
    def __init__(self, name: str, parent: Plain | None = None) -> None: ...


async def scalar(text: str) -> int:
    """Count the words."""


async def closed(text: str) -> Literal["good", "bad"] | None:
    """Classify the sentiment of a message.

    None if it has none.
    """


async def bounded(x: Annotated[int, Field(gt=0, lt=10)] = 3, *, flag: bool = False) -> bool: ...
async def enumerated(color: Color = Color.RED) -> set[Color]: ...
async def modelled(text: str) -> Person:
    """Find the person."""


async def generic(text: str) -> Page[Person]: ...
async def dataclassed(p: Point, c: Checked) -> list[Point]: ...
async def typed(row: Row, pair: Pair) -> tuple[int, ...]: ...
async def subclassed(x: Names) -> dict[str, Names]: ...
async def plain(x: Plain) -> Plain | None: ...
async def starred(a: int, /, *rest: date, **more: bytes) -> None: ...
async def defaults(a: list[int] = [1, 2], b: set[str] = {"x", "y", "z"}, c: Point = Point(1.0)) -> Any: ...  # noqa: B006, B008


STUBS = [
    scalar, closed, bounded, enumerated, modelled, generic, dataclassed, typed, subclassed, plain, starred, defaults,
]  # fmt: skip

GOLDEN = {
    "scalar": "ae2898e70116f54e8c925374e2aa8cfb",
    "closed": "3db5d36fd7feb1e331c8dbe64f690e60",
    "bounded": "760759e13701f5da39ea8b1df9cd8dc4",
    "enumerated": "661fda72cee5953795a98c3da526b68a",
    "modelled": "163b7ef1161f748d2b024b1e9b5c62ab",
    "generic": "dd7c59f04997423e39d0a05028fca267",
    "dataclassed": "c75cbfb792ae6455c24d5d638c6affbe",
    "typed": "4d7585a90a445fafc0bd917b27e25f80",
    "subclassed": "36867d3eaaee2fe4db679743be0ee0b6",
    "plain": "53aa4288347af77ced8ce07e2fca821d",
    "starred": "092dac038e87f3d6840d73e3290bb676",
    "defaults": "78c364ed11731fb161ae3a7ebbd5be80",
}


def hashes() -> dict[str, str]:
    return {stub.__name__: describe(stub).hash for stub in STUBS}


def test_hashes_never_change() -> None:
    """Data on disk lies under them: a change here orphans every user's examples."""
    assert hashes() == GOLDEN


@pytest.mark.parametrize("seed", ["0", "4711"])
def test_hashes_are_equal_in_every_process(seed: str, subprocess_env: dict[str, str]) -> None:
    output = subprocess.run(
        [sys.executable, __file__], env={**subprocess_env, "PYTHONHASHSEED": seed}, capture_output=True, check=True
    ).stdout

    assert json.loads(output) == GOLDEN


def hash_of(output: Any, argument: Any = str, doc: str = "Words.") -> str:
    async def f(x): ...

    f.__annotations__ = {"x": argument, "return": output}
    f.__doc__ = doc
    return describe(f).hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (List[int], list[int]),
        (List, list),
        (Dict[str, List[int]], dict[str, list[int]]),
        (typing.Tuple[int, ...], tuple[int, ...]),
        (typing.Tuple[()], tuple[()]),
        (typing.FrozenSet[int], frozenset[int]),
        (Iterable[int], collections.abc.Iterable[int]),
        (typing.Sequence[int], collections.abc.Sequence[int]),
        (typing.Mapping[str, int], collections.abc.Mapping[str, int]),
        (typing.Deque[int], collections.deque[int]),
        (typing.DefaultDict[str, int], collections.defaultdict[str, int]),
        (typing.OrderedDict[str, int], collections.OrderedDict[str, int]),
        (Optional[int], int | None),
        (Optional[int], Union[int, None]),
        (Optional[int], None | int),
        (Union[int, str], int | str),
        (Union[int, str], str | int),
        (Union[int, Union[str, None]], Optional[Union[str, int]]),
        (Literal["a", "b"], Literal["b", "a"]),
        (list["int"], list[int]),
        ("List[int]", list[int]),
        (None, type(None)),
        (Annotated[int, Field(gt=0)], Annotated[int, Gt(0)]),
        (Annotated[int, Field(gt=0, lt=9)], Annotated[int, Interval(gt=0, lt=9)]),
        (Annotated[int, Gt(0), Lt(9)], Annotated[Annotated[int, Lt(9)], Gt(0)]),
        (Annotated[str, Field(min_length=1, max_length=5)], Annotated[str, Len(1, 5)]),
        (Annotated[str, Field(min_length=1)], Annotated[str, MinLen(1)]),
        (Annotated[str, Field(pattern="a+")], Annotated[str, StringConstraints(pattern="a+")]),
        (
            create_model("M", x=(Annotated[int, Gt(0)], Field(description="d"))),
            create_model("M", x=(int, Field(description="d", gt=0))),
        ),
    ],
)
def test_the_same_type_written_otherwise_has_the_same_hash(one: Any, other: Any) -> None:
    assert hash_of(one) == hash_of(other)


def model(**fields: Any) -> type[BaseModel]:
    return create_model("M", **fields)


def typed_dict(**fields: Any) -> Any:
    return TypedDict("D", fields)


def data_class(*fields: Any) -> Any:
    return dataclasses.make_dataclass("C", fields)


def documented(doc: str) -> type[BaseModel]:
    return create_model("M", __doc__=doc, x=(int, ...))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (int, str),
        (list[int], list[str]),
        (list[int], set[int]),
        (tuple[int], tuple[int, ...]),
        (tuple, tuple[()]),
        (int, Optional[int]),
        (Literal[1], Literal[True]),
        (Literal["1"], Literal[1]),
        (Annotated[int, Gt(0)], int),
        (Annotated[int, Gt(0)], Annotated[int, Ge(0)]),
        (Annotated[int, Gt(0)], Annotated[int, Gt(1)]),
        (Annotated[str, MinLen(3)], Annotated[str, MaxLen(3)]),
        (Annotated[int, Field(description="a")], Annotated[int, Field(description="b")]),
        (Annotated[int, AfterValidator(abs)], Annotated[int, AfterValidator(round)]),
        (model(x=(int, ...)), model(y=(int, ...))),
        (model(x=(int, ...)), model(x=(str, ...))),
        (model(x=(int, ...)), model(x=(int, 3))),
        (model(x=(int, 4)), model(x=(int, 3))),
        (model(x=(int, Field(gt=1))), model(x=(int, Field(gt=2)))),
        (model(x=(int, Field(description="a"))), model(x=(int, Field(description="b")))),
        (model(x=(int, Field(alias="a"))), model(x=(int, ...))),
        (model(x=(list[model(y=(int, ...))], ...)), model(x=(list[model(z=(int, ...))], ...))),
        (documented("One."), documented("Other.")),
        (model(x=(int, ...)), create_model("M", __config__=ConfigDict(extra="forbid"), x=(int, ...))),
        (Page[int], Page[str]),
        (typed_dict(a=int), typed_dict(b=int)),
        (typed_dict(a=int), typed_dict(a=str)),
        (typed_dict(a=int), typed_dict(a=NotRequired[int])),
        (data_class(("a", int)), data_class(("b", int))),
        (data_class(("a", int)), data_class(("a", str))),
        (data_class(("a", int, 1)), data_class(("a", int, 2))),
        (enum.Enum("E", "A B"), enum.Enum("E", "A C")),
        (enum.Enum("E", {"A": 1}), enum.Enum("E", {"A": 2})),
        (NamedTuple("N", [("a", int)]), NamedTuple("N", [("a", str)])),
        (typing.NewType("U", int), typing.NewType("U", str)),
    ],
)
def test_another_type_has_another_hash(one: Any, other: Any) -> None:
    assert hash_of(one) != hash_of(other)
    assert hash_of(int, one) != hash_of(int, other)


def test_name_docstring_and_parameters_are_in_the_hash() -> None:
    async def f(x: int) -> int: ...
    async def g(x: int) -> int: ...

    seen = [describe(f).hash, describe(g).hash, hash_of(int, int, "One."), hash_of(int, int, "Two.")]

    async def f(y: int) -> int: ...

    seen.append(describe(f).hash)

    async def f(x: int = 1) -> int: ...

    seen.append(describe(f).hash)

    async def f(x: int = 2) -> int: ...

    seen.append(describe(f).hash)

    async def f(*, x: int) -> int: ...

    seen.append(describe(f).hash)

    assert len(set(seen)) == len(seen)


def test_indentation_and_place_of_a_docstring_do_not_matter() -> None:
    one = hash_of(int, doc="Words.\n\n        More words.  \n    ")
    other = hash_of(int, doc="\n  Words.\n\n  More words.")

    assert one == other
    assert tidy(" a \n   \n   b ") == "a\n\nb"


def test_a_hash_is_32_hex_digits() -> None:
    assert len(bytes.fromhex(hash_of(int))) == 16


def test_the_order_of_alternatives_is_shown_as_written() -> None:
    async def f(level: Literal["low", "high"]) -> Literal["z", "a"]: ...

    assert describe(f).signature == "def f(level: Literal['low', 'high']) -> Literal['z', 'a']"


class Odd:
    def __init__(self) -> None:
        self.n, self.itself = 1, self


class Numbers(RootModel[list[int]]):
    pass


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        ("a", "'a'"),
        (Color.RED, "Color.RED"),
        ({"b", "a"}, "{'a', 'b'}"),
        ([1, (2,)], "[1, (2)]"),
        ({"a": None}, "{'a': None}"),
        (date(2020, 1, 1), "datetime.date(2020, 1, 1)"),
        (Point(1.0), "Point(x=1.0, y=0.0, label='p')"),
        (Person(name="x"), "Person(name='x', age=None, friends=[], tags={})"),
        (len, "len"),
        (int, "int"),
        (Odd(), "Odd(n=1)"),
        (Numbers([1, 2]), "Numbers(root=[1, 2])"),
        (Numbers.model_construct("x"), "Numbers(root='x')"),
    ],
)
def test_values_are_written_without_addresses(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_definitions_spell_out_every_class_once() -> None:
    renderer = Renderer({}, canonical=True)

    assert renderer.text(list[Person]) == "list[Person]"
    assert renderer.definitions() == [
        "enum Color\nRED = 'r'\nBLUE = 'b'",
        "\n".join(
            [
                "model Person",
                '"""Somebody."""',
                "name: Annotated[str, description='as in the passport', min_length=1]",
                "age: Annotated[int, ge=0] | None = None",
                "friends: list[Person] = []",
                "tags: dict[str, Color] = dict()",
            ]
        ),
    ]


if __name__ == "__main__":
    os.write(1, json.dumps(hashes()).encode())
