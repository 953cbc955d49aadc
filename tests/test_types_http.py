"""Every kind of type of the contract, as argument and as result, through real HTTP."""

import dataclasses
import json
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypedDict, TypeVar, Union
from uuid import UUID

import jsonschema
import pytest
from _spine import last_user_turn, recorded, tanuki_for
from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType
from typing_extensions import TypedDict as ExtendedTypedDict

import tanuki_async as tanuki
from tanuki_async import InputError, OutputError, Tanuki
from tanuki_async._function import patched
from tanuki_async._lines import decode_line
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import LoopbackServer

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Corner(Enum):
    LEFT = (0, 0)
    RIGHT = (1, 0)


class Holiday(Enum):
    NEW_YEAR = date(2026, 1, 1)


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Size(StrEnum):
    SMALL = "s"
    LARGE = "l"


class Mixed(Enum):
    ONE = 1
    TWO = "two"


class Address(BaseModel):
    street: str
    zip: Annotated[str, Field(pattern=r"^\d{5}$")]


class Person(BaseModel):
    """Somebody."""

    name: str = Field(description="In full.")
    born: date | None = None
    homes: list[Address] = []
    scores: dict[str, int] = {}


class Node(BaseModel):
    value: int
    children: "list[Node]" = []


class Even(BaseModel):
    n: int
    odd: "Odd | None" = None


class Odd(BaseModel):
    n: int
    even: Even | None = None


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass(frozen=True)
class Line:
    start: Point
    end: Point
    tags: tuple[str, ...] = ()


@dataclasses.dataclass
class Tree:
    label: str
    left: "Tree | None" = None
    right: "Tree | None" = None


class Film(TypedDict):
    title: str
    year: NotRequired[int]


class Book(ExtendedTypedDict, total=False):
    title: str
    pages: int


class Pair(NamedTuple):
    key: str
    weight: float = 1.0


class Box(BaseModel, Generic[T]):
    content: T
    count: int = 1


class Animal(BaseModel):
    kind: Literal["cat", "dog"]


class Cat(Animal):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(Animal):
    kind: Literal["dog"] = "dog"
    tricks: list[str]


class Money:
    """A plain class, without any help for pydantic."""

    def __init__(self, amount: Decimal, currency: str = "EUR") -> None:
        self.amount, self.currency = amount, currency

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Wallet:
    def __init__(self, owner: str, coins: list[Money]) -> None:
        self.owner, self.coins = owner, coins

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Wallet) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Names(list[str]):
    pass


class Scores(dict[str, int]):
    pass


class Tags(set[str]):
    pass


class Fixed(frozenset[int]):
    pass


class Window(deque[int]):
    pass


class Ranking(OrderedDict[str, int]):
    pass


class Groups(defaultdict[str, list[int]]):
    pass


class Stack(list[T], Generic[T]):
    pass


class Email(str):
    __slots__ = ()


class Celsius(float):
    pass


# Annotation, a value, its natural JSON.
CASES: dict[str, tuple[Any, Any, Any]] = {
    "int": (int, 7, 7),
    "int, negative": (int, -(2**40), -(2**40)),
    "float": (float, 0.1, 0.1),
    "str": (str, "a \"quoted\" ü\n{'x': 1}", "a \"quoted\" ü\n{'x': 1}"),
    "str, empty": (str, "", ""),
    "bool": (bool, True, True),
    "bool, false": (bool, False, False),
    "None": (None, None, None),
    "Literal": (Literal["good", "bad"], "bad", "bad"),
    "Literal of many kinds": (Literal["x", 1, True, None], 1, 1),  # noqa: PYI061
    "Enum of str": (Colour, Colour.BLUE, "blue"),
    "Enum of int": (Level, Level.HIGH, 2),
    "StrEnum": (Size, Size.LARGE, "l"),
    "Enum of both": (Mixed, Mixed.ONE, 1),
    "Annotated int": (Annotated[int, Field(gt=0, lt=10)], 9, 9),
    "Annotated str": (Annotated[str, Field(min_length=2, max_length=4)], "abc", "abc"),
    "Annotated list": (Annotated[list[int], Field(min_length=1)], [1], [1]),
    "Optional": (Optional[int], 3, 3),  # noqa: UP045
    "Optional, None": (Optional[int], None, None),  # noqa: UP045
    "Enum of tuple": (Corner, Corner.RIGHT, [1, 0]),
    "Enum of date": (Holiday, Holiday.NEW_YEAR, "2026-01-01"),
    "Literal of Enum": (Literal[Colour.RED, "other"], Colour.RED, "red"),
    "Literal of IntEnum": (Literal[Level.HIGH], Level.HIGH, 2),
    "union of bytes and str": (bytes | str, "a b", "a b"),
    "Optional Literal": (Literal["good", "bad"] | None, None, None),
    "Union": (Union[int, str], "4", "4"),  # noqa: UP007
    "Union of classes": (int | list[str] | Point, Point(1, 2), {"x": 1, "y": 2}),
    "Union, discriminated": (
        Annotated[Cat | Dog, Field(discriminator="kind")],
        Dog(tricks=["roll"]),
        {"kind": "dog", "tricks": ["roll"]},
    ),
    "list": (list[int], [1, 2], [1, 2]),
    "list, empty": (list[int], [], []),
    "list of list": (list[list[str]], [["a"], []], [["a"], []]),
    "list, bare": (list, [1, "a", None], [1, "a", None]),
    "dict": (dict[str, int], {"a": 1, "b": 2}, {"a": 1, "b": 2}),
    "dict with key value": (dict[str, int], {"value": 1}, {"value": 1}),
    "dict, empty": (dict[str, int], {}, {}),
    "dict of int": (dict[int, str], {1: "a"}, {"1": "a"}),
    "dict of Enum": (dict[Colour, list[int]], {Colour.RED: [1]}, {"red": [1]}),
    "dict of Enum of both": (dict[Mixed, int], {Mixed.ONE: 1, Mixed.TWO: 2}, {"1": 1, "two": 2}),
    "dict of Literal": (dict[Literal[1, "b"], int], {1: 1, "b": 2}, {"1": 1, "b": 2}),
    "dict of Literal of IntEnum": (dict[Literal[Level.HIGH], int], {Level.HIGH: 1}, {"2": 1}),
    "dict of dict": (dict[str, dict[str, bool]], {"a": {"b": True}}, {"a": {"b": True}}),
    "dict, bare": (dict, {"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
    "set": (set[str], {"b", "a"}, ["a", "b"]),
    "set of Literal": (set[Literal["a", "b", "c"]], {"c", "a"}, ["a", "c"]),
    "frozenset": (frozenset[int], frozenset({2, 1}), [1, 2]),
    "tuple": (tuple[int, str], (1, "a"), [1, "a"]),
    "tuple of one": (tuple[int], (1,), [1]),
    "tuple, variable": (tuple[int, ...], (1, 2, 3), [1, 2, 3]),
    "tuple, nested": (tuple[tuple[int, int], list[Point]], ((1, 2), [Point(1)]), [[1, 2], [{"x": 1, "y": 0}]]),
    "deque": (deque[int], deque([1, 2]), [1, 2]),
    "defaultdict": (defaultdict[str, list[int]], defaultdict(list, a=[1]), {"a": [1]}),
    "OrderedDict": (OrderedDict[str, int], OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "Counter": (Counter[str], Counter(a=2), {"a": 2}),
    "Sequence": (Sequence[int], [1, 2], [1, 2]),
    "MutableSequence": (MutableSequence[int], [1, 2], [1, 2]),
    "Collection": (Collection[int], [1, 2], [1, 2]),
    "Iterable": (Iterable[int], [1, 2], [1, 2]),
    "Mapping": (Mapping[str, int], {"a": 1}, {"a": 1}),
    "MutableMapping": (MutableMapping[str, int], {"a": 1}, {"a": 1}),
    "Set": (AbstractSet[int], frozenset({1, 2}), [1, 2]),
    "subclass of list": (Names, Names(["Ada"]), ["Ada"]),
    "subclass of dict": (Scores, Scores(a=1), {"a": 1}),
    "subclass of set": (Tags, Tags({"a"}), ["a"]),
    "subclass of frozenset": (Fixed, Fixed({1}), [1]),
    "subclass of deque": (Window, Window([1, 2]), [1, 2]),
    "subclass of OrderedDict": (Ranking, Ranking(b=1, a=2), {"b": 1, "a": 2}),
    "subclass of defaultdict": (Groups, Groups(list, a=[1]), {"a": [1]}),
    "subclass of list, generic": (Stack[int], Stack([1]), [1]),
    "subclass of str": (Email, Email("a@b"), "a@b"),
    "subclass of float": (Celsius, Celsius(20.5), 20.5),
    "model": (
        Person,
        Person(name="Ada", born=date(1815, 12, 10), homes=[Address(street="Elm", zip="12345")], scores={"a": 1}),
        {"name": "Ada", "born": "1815-12-10", "homes": [{"street": "Elm", "zip": "12345"}], "scores": {"a": 1}},
    ),
    "model, recursive": (
        Node,
        Node(value=1, children=[Node(value=2, children=[Node(value=3)])]),
        {"value": 1, "children": [{"value": 2, "children": [{"value": 3, "children": []}]}]},
    ),
    "models, mutually recursive": (
        Even,
        Even(n=2, odd=Odd(n=1, even=Even(n=0))),
        {"n": 2, "odd": {"n": 1, "even": {"n": 0, "odd": None}}},
    ),
    "list of models": (list[Address], [Address(street="Elm", zip="12345")], [{"street": "Elm", "zip": "12345"}]),
    "model, Generic": (Box[list[int]], Box[list[int]](content=[1]), {"content": [1], "count": 1}),
    "model, Generic of dict": (
        Box[dict[str, Point]],
        Box[dict[str, Point]](content={"a": Point(1, 2)}, count=2),
        {"content": {"a": {"x": 1, "y": 2}}, "count": 2},
    ),
    "dataclass": (Point, Point(1, 2), {"x": 1, "y": 2}),
    "dataclass, nested": (
        Line,
        Line(Point(1, 2), Point(3, 4), ("a",)),
        {"start": {"x": 1, "y": 2}, "end": {"x": 3, "y": 4}, "tags": ["a"]},
    ),
    "dataclass, recursive": (
        Tree,
        Tree("a", Tree("b")),
        {"label": "a", "left": {"label": "b", "left": None, "right": None}, "right": None},
    ),
    "TypedDict": (Film, {"title": "Alien", "year": 1979}, {"title": "Alien", "year": 1979}),
    "TypedDict, key absent": (Film, {"title": "Alien"}, {"title": "Alien"}),
    "TypedDict, not total": (Book, {"pages": 3}, {"pages": 3}),
    "NamedTuple": (Pair, Pair("a", 0.5), ["a", 0.5]),
    "datetime": (datetime, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
    "date": (date, date(2026, 1, 2), "2026-01-02"),
    "time": (time, time(3, 4, 5), "03:04:05"),
    "timedelta": (timedelta, timedelta(hours=1, seconds=30), "PT1H30S"),
    "Decimal": (Decimal, Decimal("1.10"), "1.10"),
    "UUID": (UUID, UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    "bytes": (bytes, b"\xff\x00", "_wA="),
    "Path": (Path, Path("a/b.txt"), "a/b.txt"),
    "plain class": (Money, Money(Decimal("1.50"), "USD"), {"amount": "1.50", "currency": "USD"}),
    "plain class, nested": (
        Wallet,
        Wallet("Ada", [Money(Decimal(1), "EUR")]),
        {"owner": "Ada", "coins": [{"amount": "1", "currency": "EUR"}]},
    ),
    "alias": (TypeAliasType("Coins", list[Money]), [Money(Decimal(1))], [{"amount": "1", "currency": "EUR"}]),
    "alias of what is recursive": (list[TypeAliasType("Root", Node)], [Node(value=1)], [{"value": 1, "children": []}]),
    "Any": (Any, {"a": [1, None]}, {"a": [1, None]}),
}
OPEN = {"list, bare", "dict, bare", "Any", "Enum of tuple"}
"""What a strict schema cannot say."""


def shaped(natural: Any, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """Write natural JSON in the shape that a schema asks for, as a model under strict decoding has to."""
    if "$ref" in schema:
        return shaped(natural, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        ways = [(shaped(natural, branch, root), branch) for branch in schema["anyOf"]]
        return next((one for one, branch in ways if fits(one, branch, root)), natural)
    if schema.get("type") == "array":
        key = schema["items"].get("properties", {}).get("key", {})
        if isinstance(natural, dict) and key:
            whole = key.get("type") == "integer"
            natural = [{"key": int(key) if whole else key, "value": value} for key, value in natural.items()]
        return [shaped(each, schema["items"], root) for each in natural] if isinstance(natural, list) else natural
    if schema.get("type") == "object" and "properties" in schema:
        names = list(schema["properties"])
        if isinstance(natural, list):
            natural = dict(zip(names, natural, strict=False))
        if isinstance(natural, dict):
            return {name: shaped(natural.get(name), schema["properties"][name], root) for name in names}
    return natural


def fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator({**schema, "$defs": root.get("$defs", {})}).is_valid(value)


def answer_for(natural: Any, schema: dict[str, Any]) -> str:
    if list(schema["properties"]) == ["value"]:
        natural = {"value": natural}
    answer = shaped(natural, schema, schema)
    jsonschema.validate(answer, schema)
    return json.dumps(answer)


def echo(annotation: Any) -> Any:
    async def f(value: Any) -> Any:
        """Give back what is given."""

    f.__annotations__ = {"value": annotation, "return": annotation}
    return tanuki.patch(f)


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer([], strict=True) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage) as running:
        yield running


def same(given: Any, value: Any) -> bool:
    return type(given) is type(value) and given == value


@pytest.mark.parametrize("case", CASES)
async def test_a_value_goes_there_and_comes_back(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage, case: str
) -> None:
    annotation, value, natural = CASES[case]
    f = echo(annotation)
    server.put(lambda request: answer_for(natural, request.schema) if case not in OPEN else json.dumps(natural))

    result = await f(value)

    assert same(result, value)
    strict = server.requests[0].body["response_format"].get("json_schema", {}).get("strict", False)
    assert strict is (case not in OPEN)
    assert json.loads(last_user_turn(server)) == {"value": natural}
    (record,) = await recorded(storage, f)
    assert record["args"] == [natural]
    assert record["kwargs"] == {}
    assert record["output"] == natural
    assert record["source"] == "call"
    assert record["model"] == "loopback:small"
    assert not record["repaired"]


@pytest.mark.parametrize("case", CASES)
async def test_the_natural_form_is_understood_without_a_repair(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage, case: str
) -> None:
    annotation, value, natural = CASES[case]
    f = echo(annotation)
    server.put(json.dumps(natural))

    result = await f(value)

    assert same(result, value)
    (record,) = await recorded(storage, f)
    assert record["output"] == natural


@pytest.mark.parametrize("case", CASES)
async def test_a_recorded_call_is_the_same_text_and_value_again(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage, case: str
) -> None:
    annotation, value, natural = CASES[case]
    f = echo(annotation)
    server.put(json.dumps(natural))
    await f(value)
    await tanuki.flush()
    spec = patched(f).spec
    [lines] = [batch async for batch in storage.scan(f"{spec.hash}/PATCHES")]

    example = decode_line(lines[0])

    assert spec.text_of(example.args, example.kwargs) == last_user_turn(server)
    assert same(spec.wire.load(json.dumps(example.output)), value)
    again = spec.bind(tuple(spec.parameters[0].adapter.validate_json(json.dumps(each)) for each in example.args), {})
    assert again.text == last_user_turn(server)


@pytest.mark.parametrize("case", CASES)
async def test_a_call_that_is_replayed_is_recorded_once(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage, case: str
) -> None:
    annotation, value, natural = CASES[case]
    f = echo(annotation)
    server.put(json.dumps(natural), json.dumps(natural))

    await f(value)
    await f(value=value)

    assert len(await recorded(storage, f)) == 1


@tanuki.patch
async def rate(text: str) -> Annotated[int, Field(gt=0, lt=10)]:
    """Rate a text from 1 to 9."""


async def test_a_broken_constraint_is_repaired(opened: Tanuki, server: LoopbackServer, storage: MemoryStorage) -> None:
    server.put('{"value":10}', '{"value":9}')

    assert await rate("fine") == 9

    complaint = last_user_turn(server)
    assert "less than 10" in complaint
    assert "10" in complaint
    (record,) = await recorded(storage, rate)
    assert (record["output"], record["repaired"]) == (9, True)


async def test_a_constraint_that_stays_broken_is_an_output_error(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    server.put(*['{"value":0}'] * 3)

    with pytest.raises(OutputError) as caught:
        await rate("fine")

    assert caught.value.attempts == ('{"value":0}',) * 3
    assert all("greater than 0" in each for each in caught.value.complaints)
    assert await recorded(storage, rate) == []


WRONG: dict[str, tuple[Any, Any]] = {
    "int": (int, "many"),
    "bool": (bool, "perhaps"),
    "Literal": (Literal["good", "bad"], "ugly"),
    "Enum": (Colour, "green"),
    "constraint": (Annotated[int, Field(gt=0, lt=10)], 10),
    "inside a list": (list[int], [1, "x"]),
    "tuple of another length": (tuple[int, str], (1,)),
    "model": (Person, {"born": "1815-12-10"}),
    "model's pattern": (Address, {"street": "Elm", "zip": "1"}),
    "dataclass": (Point, {"y": 1}),
    "TypedDict": (Film, {"year": 1979}),
    "date": (date, "yesterday"),
    "UUID": (UUID, "5"),
    "not a number": (float, float("nan")),
    "plain class": (Money, {"amount": "much"}),
    "None": (None, 0),
}


@pytest.mark.parametrize("case", WRONG)
async def test_an_argument_that_does_not_fit_is_never_sent(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage, case: str
) -> None:
    annotation, value = WRONG[case]
    f = echo(annotation)

    with pytest.raises(InputError, match=r"argument 'value' of .*f\(\): should be ") as caught:
        await f(value)

    assert caught.value.parameter == "value"
    assert isinstance(caught.value, TypeError)
    assert not server.requests
    assert await storage.names() == []


@pytest.mark.parametrize("case", [case for case in WRONG if case != "not a number"])
async def test_an_answer_that_never_fits_is_an_output_error(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage, case: str
) -> None:
    annotation, value = WRONG[case]
    f = echo_of(annotation)
    wrong = json.dumps({"value": value})
    server.put(*[wrong] * 3)

    with pytest.raises(OutputError) as caught:
        await f()

    assert caught.value.attempts == (wrong,) * 3
    assert await recorded(storage, f) == []


def echo_of(annotation: Any) -> Any:
    async def give() -> Any:
        """Give something."""

    give.__annotations__ = {"return": annotation}
    return tanuki.patch(give)


class Shelf(list[T]):
    """Generic for type checkers; at run time only `list` knows what is in it."""


async def test_items_of_a_class_that_is_generic_through_its_base_are_checked(
    opened: Tanuki, server: LoopbackServer
) -> None:
    f = echo_of(Shelf[int])
    server.put('{"value":["x"]}', '{"value":[1]}')

    assert await f() == Shelf([1])


async def test_every_answer_that_the_schema_allows_names_its_branch(opened: Tanuki, server: LoopbackServer) -> None:
    f = echo_of(CASES["Union, discriminated"][0])
    given = '{"value":{"kind":null,"lives":9}}'
    server.put(given, given, given)

    with suppress(OutputError):
        assert await f() == Cat(lives=9)
        return
    with pytest.raises(jsonschema.ValidationError):  # then it must not be allowed
        jsonschema.validate(json.loads(given), server.requests[0].schema)


async def test_arguments_given_in_another_form_are_the_same_call(
    opened: Tanuki, server: LoopbackServer, storage: MemoryStorage
) -> None:
    f = echo(date)
    server.put('"2026-01-02"', '"2026-01-02"')

    await f(date(2026, 1, 2))
    await f("2026-01-02")

    assert [record["args"] for record in await recorded(storage, f)] == [["2026-01-02"]]
