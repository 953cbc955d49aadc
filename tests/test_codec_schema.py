"""Every type travels to a strict schema's JSON and back; every schema made is one that a strict server takes."""

import dataclasses
import enum
import json
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar, Union
from uuid import UUID

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PydanticUserError,
    RootModel,
    TypeAdapter,
    create_model,
)
from pydantic_core import from_json
from typing_extensions import NotRequired, TypedDict  # noqa: UP035  # pydantic asks for it before 3.12

from tanuki_async._codec.limits import depth, within_limits
from tanuki_async._codec.reader import InexpressibleError
from tanuki_async._codec.schema import dialect, wire
from tanuki_async._codec.strict import strict
from tanuki_async.testing import _strict_anthropic

BASE64 = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


def adapter_of(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=BASE64)
    except PydanticUserError:  # types that have a config of their own take no other
        return TypeAdapter(annotation)


def wire_of(annotation: Any):
    return wire(adapter_of(annotation), name="function")


# What a strict server refuses


FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
COMMON = {"type", "description", "enum", "const", "anyOf", "$ref", "$defs"}
KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"pattern", "format"},
    "number": {"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "integer": {"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set(),
    "null": set(),
}


def check_strict(schema: dict[str, Any], *, tuned: bool = False) -> None:
    """Fail where `schema` breaks a rule of the strict subset."""
    assert schema["type"] == "object"
    assert "anyOf" not in schema
    assert within_limits(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    for definition in schema.get("$defs", {}).values():
        _check(definition, schema, tuned)
    _check(schema, schema, tuned)


def _check(schema: dict[str, Any], root: dict[str, Any], tuned: bool) -> None:
    assert schema, "an empty schema"
    if "$ref" in schema:
        assert schema.keys() == {"$ref"}, "a reference with siblings"
        assert schema["$ref"].removeprefix("#/$defs/") in root["$defs"]
        return
    if "anyOf" in schema:
        assert schema.keys() <= {"anyOf", "description", "$defs"}
        assert schema["anyOf"]
        for branch in schema["anyOf"]:
            _check(branch, root, tuned)
        return
    name = schema["type"]
    assert isinstance(name, str)
    assert schema.keys() <= COMMON | KEYWORDS[name], schema
    if tuned:
        assert schema.keys() <= COMMON | {"properties", "required", "additionalProperties", "items"}
    if name == "object":
        assert schema["additionalProperties"] is False
        assert schema["required"] == list(schema["properties"])
        for each in schema["properties"].values():
            _check(each, root, tuned)
    if name == "array":
        _check(schema["items"], root, tuned)
    assert schema.get("format", "date") in FORMATS
    for key in KEYWORDS["number"]:
        assert math.isfinite(schema.get(key, 0))
    for value in schema.get("enum", []):
        assert not isinstance(value, list | dict)


# Types and values


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(NamedTuple):
    x: int
    label: str = "here"


class Notes(TypedDict):
    title: str
    pages: NotRequired[int]
    end: NotRequired[date | None]


class Tagged(TypedDict):
    kind: NotRequired[Literal["x"]]


class Bare(TypedDict):
    pass


@dataclasses.dataclass
class Pair:
    left: int
    right: dict[str, int] = dataclasses.field(default_factory=dict)


class Inner(BaseModel):
    """An inner thing."""

    name: str
    count: Annotated[int, Field(ge=0, lt=10)] = 3
    ratio: float | None = None


class Node(BaseModel):
    value: int
    children: list["Node"] = []
    named: dict[str, "Node"] = {}


class Empty(BaseModel):
    pass


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    is_: bool = Field(alias="is")
    items: dict[str, int] = Field(default={}, alias="theItems")


class Twisted(BaseModel):
    first: int = Field(validation_alias=AliasChoices("one", "eins"), serialization_alias="uno")
    second: dict[int, str] = Field(default={}, validation_alias="two")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: dict[str, int]


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: tuple[str, int] = ("sit", 1)


class Left(BaseModel):
    a: int
    b: dict[str, int] = {}


class Right(BaseModel):
    a: str
    b: dict[str, int] | None = None


class Wide(BaseModel):
    name: str
    more: dict[str, int]


class Narrow(BaseModel):
    name: str


class Loop(BaseModel):
    anything: Any
    next: "Loop | None" = None


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


text = st.text(st.characters(codec="utf-8"), max_size=5)
finite = st.floats(allow_nan=False, allow_infinity=False)
stamps = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))
inner = st.builds(Inner, name=text, count=st.integers(0, 9), ratio=st.none() | finite)

HASHABLE: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**40), 2**40),
    str: text,
    bool: st.booleans(),
    Literal["a", "b"]: st.sampled_from(["a", "b"]),
    Literal[1, 2]: st.sampled_from([1, 2]),
    Colour: st.sampled_from(Colour),
    Level: st.sampled_from(Level),
    date: st.dates(date(1970, 1, 2)),
    UUID: st.uuids(),
    Annotated[int, Field(gt=0, lt=10)]: st.integers(1, 9),
    Annotated[str, Field(pattern="^[a-z]+$", max_length=9)]: st.from_regex("^[a-z]{1,9}$", fullmatch=True),
}
LEAVES: dict[Any, st.SearchStrategy[Any]] = HASHABLE | {
    float: finite,
    datetime: stamps,
    time: st.times(),
    timedelta: st.timedeltas(timedelta(0), timedelta(days=900)),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-1000, max_value=1000),
    bytes: st.binary(max_size=4).map(lambda value: value.hex().encode()),
    None: st.none(),
    Literal["x", 1, None]: st.sampled_from(["x", 1, None]),  # noqa: PYI061  # this form, too
    Inner: inner,
    Empty: st.builds(Empty),
    Point: st.builds(Point, x=st.integers(0, 9), label=text),
    Pair: st.builds(Pair, left=st.integers(0, 9), right=st.dictionaries(text, st.integers(0, 9), max_size=2)),
    Notes: st.fixed_dictionaries({"title": text}, optional={"pages": st.integers(), "end": st.none() | st.dates()}),
    Bare: st.just({}),
    Cat: st.builds(Cat, kind=st.just("cat"), lives=st.dictionaries(text, st.integers(0, 9), max_size=2)),
    Dog: st.builds(Dog, kind=st.just("dog"), tricks=st.tuples(text, st.integers(0, 9))),
    Node: st.recursive(
        st.builds(Node, value=st.integers(0, 9)),
        lambda nodes: st.builds(
            Node,
            value=st.integers(0, 9),
            children=st.lists(nodes, max_size=2),
            named=st.dictionaries(text, nodes, max_size=2),
        ),
        max_leaves=4,
    ),
}

Typed = tuple[Any, st.SearchStrategy[Any]]
hashable = st.sampled_from(list(HASHABLE.items()))
leaves = st.sampled_from(list(LEAVES.items()))


def model_of(fields: dict[str, tuple[Typed, bool]], draw: Any) -> Typed:
    declared = {
        name: (annotation, draw(values)) if has_default else annotation
        for name, ((annotation, values), has_default) in fields.items()
    }
    model = create_model("Made", **{k: v if isinstance(v, tuple) else (v, ...) for k, v in declared.items()})
    return model, st.builds(model, **{name: values for name, ((_, values), _) in fields.items()})


@st.composite
def containers(draw: Any, inner: st.SearchStrategy[Typed]) -> Typed:
    annotation, values = draw(inner)
    match draw(st.sampled_from(["list", "tuple", "var", "set", "dict", "optional", "union", "model", "box"])):
        case "list":
            return list[annotation], st.lists(values, max_size=3)
        case "tuple":
            other, others = draw(inner)
            return tuple[annotation, other], st.tuples(values, others)
        case "var":
            return tuple[annotation, ...], st.lists(values, max_size=3).map(tuple)
        case "set":
            item, items = draw(hashable)
            return draw(st.sampled_from([(set[item], st.sets(items)), (frozenset[item], st.frozensets(items))]))
        case "dict":
            key, keys = draw(hashable)
            return dict[key, annotation], st.dictionaries(keys, values, max_size=3)
        case "optional":
            return Optional[annotation], st.none() | values  # noqa: UP045  # annotation may be None
        case "union":
            other, others = draw(inner)
            return Union[annotation, other], values | others  # noqa: UP007  # both may be None
        case "model":
            names = st.sampled_from(["a", "b", "value", "key", "item_0"])
            fields = draw(st.dictionaries(names, st.tuples(inner, st.booleans()), min_size=1, max_size=3))
            return model_of(fields, draw)
        case _:
            return Box[annotation], values.map(lambda value: Box[annotation](content=value))


types = st.recursive(leaves, containers, max_leaves=6)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_value_of_any_type_survives_the_wire(data):
    annotation, values = data.draw(types)
    value = data.draw(values)
    adapter = adapter_of(annotation)
    made = wire(adapter, name="function")
    natural = made.dump(value)
    assume(_is_readable(made, natural, value))  # pydantic itself cannot read some unions back

    text = made.encode(from_json(natural))

    assert made.decode(text) == value
    if made.answer.strict:
        check_strict(made.answer.schema)
        check_strict(dialect(made.answer.schema, "openai_strict_ft"), tuned=True)
        jsonschema.validate(json.loads(text), made.answer.schema)
    assert made.dump(made.decode(text)) == natural


CONSTRAINED: list[tuple[Any, Any]] = [
    (Annotated[int, Field(ge=0, le=9, multiple_of=3)], 3),
    (Annotated[float, Field(gt=0, lt=1)], 0.5),
    (Annotated[str, Field(min_length=1, max_length=3, pattern="^a+$")], "a"),
    (Annotated[list[int], Field(min_length=1)], [1]),
    (Annotated[list[str], Field(min_length=2, max_length=4)], ["a", "b"]),
    (Annotated[set[int], Field(max_length=4)], {1}),
    (Annotated[dict[str, int], Field(min_length=2)], {"a": 1, "b": 2}),
    (Annotated[Decimal, Field(gt=0, max_digits=5)], Decimal("0.5")),
    (Annotated[tuple[int, ...], Field(max_length=2, description="At most a pair.")], (1,)),
    (Path, Path("a")),
    (AnyUrl, AnyUrl("https://host.invalid")),
]
bounded = st.sampled_from([(annotation, st.just(value)) for annotation, value in CONSTRAINED])
constrained = st.recursive(bounded | leaves, containers, max_leaves=6)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(constrained)
def test_anthropics_dialect_never_has_a_keyword_that_its_server_refuses(typed):
    made = wire_of(typed[0])
    assume(made.answer.strict)
    schema = dialect(made.answer.schema, "anthropic")
    _strict_anthropic.check_schema(schema, "schema")
    jsonschema.Draft202012Validator.check_schema(schema)
    assert dialect(schema, "anthropic") == schema  # nothing is left to be said in words


def test_what_anthropics_dialect_lacks_is_said_in_words():
    number = Annotated[int, Field(ge=3, lt=9, description="A grade.")]
    made = wire_of(Annotated[list[number], Field(min_length=2, max_length=5)])
    value = dialect(made.answer.schema, "anthropic")["properties"]["value"]
    assert value == {
        "description": "At least 2 items. At most 5 items.",
        "type": "array",
        "items": {"description": "A grade. At least 3. Less than 9.", "type": "integer"},
    }
    least = dialect(wire_of(Annotated[list[date], Field(min_length=1)]).answer.schema, "anthropic")
    assert least["properties"]["value"] == {
        "type": "array",
        "items": {"type": "string", "format": "date"},
        "minItems": 1,
    }


def _is_readable(made: Any, natural: bytes, value: Any) -> bool:
    try:
        read = made.load(natural)
    except ValueError:
        return False
    return read == value and made.dump(read) == natural


ROUND_TRIPS = [
    (Literal["good", "bad"] | None, None),
    (dict[int, str], {1: "a"}),
    (dict[Colour, list[tuple[int, str]]], {Colour.RED: [(1, "a")]}),
    (dict[Level, int], {Level.LOW: 1}),
    (dict[UUID, int], {UUID(int=5): 5}),
    (dict[date, int], {date(2026, 1, 2): 5}),
    (dict[bool, int], {True: 1}),
    (dict[str, int] | list[int], {}),
    (dict[str, int] | list[int], []),
    (dict[str, list[int]] | dict[str, dict[str, int]], {"a": {}}),
    (dict[str, int] | None, None),
    (dict[str, dict[str, int]], {"value": {"value": 1}}),
    (tuple[()], ()),
    (dict[str, int] | Point, Point(1)),
    (Point, Point(1)),
    (list[tuple[int, str] | tuple[str, str]], [(1, "a"), ("b", "c")]),
    (list[tuple[int, str] | tuple[int, int] | Cat], [(1, "a"), (1, 2)]),
    (list[Left | Right], [Left(a=1), Right(a="x"), Left(a=2, b={"c": 1})]),
    (list[Wide | Narrow], [Wide(name="n", more={"a": 1}), Narrow(name="n")]),
    (set[Colour], {Colour.RED, Colour.BLUE}),
    (frozenset[Literal[1, 2]], frozenset({1, 2})),
    (deque[int], deque([1, 2])),
    (defaultdict[str, list[int]], defaultdict(list, a=[1])),
    (Sequence[int], [1, 2]),
    (Notes, {"title": "t"}),
    (Notes, {"title": "t", "end": None}),
    (Notes, {"title": "t", "end": date(2026, 1, 2), "pages": 3}),
    (Pair, Pair(1, {"a": 1})),
    (Node, Node(value=1, children=[Node(value=2)], named={"n": Node(value=3)})),
    (list[Node], [Node(value=1)]),
    (Empty, Empty()),
    (Aliased, Aliased(is_=True, items={"a": 1})),
    (Twisted, Twisted(one=1, two={2: "b"})),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Dog(kind="dog")),
    (Cat | Dog | None, Cat(kind="cat", lives={"a": 1})),
    (Box[dict[str, int]], Box[dict[str, int]](content={"a": 1})),
    (bytes, b"\xff\x00"),
    (Path, Path("a/b")),
    (timedelta, timedelta(hours=1, microseconds=5)),
    (Decimal, Decimal("1.10")),
    (list[Decimal], [Decimal("1.10"), Decimal(3)]),
    (list[Tagged], [{"kind": "x"}, {}]),
    (None, None),
    (Annotated[float, Field(gt=0, le=float("inf"))], 0.5),
]


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS, ids=[str(each)[:60] for each, _ in ROUND_TRIPS])
def test_a_value_comes_back_from_a_strict_answer_and_from_its_natural_form(annotation, value):
    made = wire_of(annotation)
    natural = made.dump(value)

    text = made.encode(json.loads(natural))

    assert made.answer.strict
    check_strict(made.answer.schema)
    jsonschema.validate(json.loads(text), made.answer.schema)
    assert made.decode(text) == value
    assert type(made.decode(text)) is type(value)
    assert made.decode(json.dumps(json.loads(text), indent=2)) == value
    assert made.decode(natural.decode()) == value
    assert made.load(natural) == value


@pytest.mark.parametrize(
    "annotation",
    [Any, dict[str, Any], list[Any], dict, object, Box[Any], dict[str, int] | Any],
    ids=str,
)
def test_what_strict_cannot_say_travels_in_its_natural_form(annotation):
    made = wire_of(annotation)

    assert not made.answer.strict
    assert made.answer.schema["type"] == "object"
    assert "title" not in json.dumps(made.answer.schema)


def test_a_natural_answer_without_a_strict_schema_is_read():
    assert wire_of(dict[str, Any]).decode('{"a":[1]}') == {"a": [1]}
    assert wire_of(list[Any]).decode('{"value":[1]}') == [1]
    assert wire_of(Box[Any]).decode('{"content":{"value":1}}') == Box[Any](content={"value": 1})


def test_a_recursive_type_without_a_strict_schema_has_an_object_at_its_root():
    made = wire_of(Loop)

    assert made.answer.schema["type"] == "object"
    assert made.decode('{"anything":[1],"next":{"anything":2}}') == Loop(anything=[1], next=Loop(anything=2))


def test_a_plain_class_without_a_schema_is_still_checked():
    class Celsius:
        pass

    made = wire(TypeAdapter(Celsius, config=ConfigDict(arbitrary_types_allowed=True)), name="f")

    assert not made.answer.strict
    with pytest.raises(ValueError):
        made.decode('{"value":1}')


def test_null_stands_for_a_default_where_none_is_no_value():
    schema = wire_of(Inner).answer.schema

    assert schema["required"] == ["name", "count", "ratio"]
    assert wire_of(Inner).decode('{"name":"n","count":null,"ratio":null}') == Inner(name="n")


def test_a_null_where_a_value_is_required_is_refused():
    with pytest.raises(ValueError):
        wire_of(Inner).decode('{"name":null,"count":null,"ratio":null}')


def test_one_set_is_always_the_same_text():
    made = wire_of(set[str])

    assert made.dump({"c", "a", "b"}) == b'["a","b","c"]'
    assert made.encode(["b", "a"]) == '{"value":["a","b"]}'


def test_constraints_without_a_keyword_are_said_in_words():
    schema = wire_of(Annotated[str, Field(min_length=2, max_length=5, description="A code.")]).answer.schema

    assert schema["properties"]["value"] == {
        "type": "string",
        "description": "A code. At least 2 characters. At most 5 characters.",
    }


def test_a_pattern_that_looks_around_is_said_in_words():
    class Code(BaseModel):
        model_config = ConfigDict(regex_engine="python-re")
        code: Annotated[str, Field(pattern="^(?!x)")]

    assert "pattern" not in wire_of(Code).answer.schema["properties"]["code"]
    assert "(?!x)" in wire_of(Code).answer.schema["properties"]["code"]["description"]


def test_a_tuned_model_gets_constraints_in_words():
    made = wire_of(list[Annotated[int, Field(gt=0, le=9)]])

    schema = dialect(made.answer.schema, "openai_strict_ft")

    assert schema["properties"]["value"]["items"]["description"] == "At most 9. Greater than 0."
    assert dialect(made.answer.schema, "plain") is made.answer.schema
    assert dialect(made.answer.schema, "openai_strict") is made.answer.schema


def test_a_reference_with_a_description_is_copied_out():
    class Outer(BaseModel):
        inner: Inner = Field(description="The one inside.")

    inner = wire_of(Outer).answer.schema["properties"]["inner"]

    assert inner["description"] == "The one inside."
    assert inner["type"] == "object"


def test_a_described_reference_to_itself_ends():
    class Link(BaseModel):
        next: "Link | None" = Field(default=None, description="The next.")
        twin: "Annotated[Link, Field(description='The twin.')] | None" = None

    check_strict(wire_of(Link).answer.schema)


def test_many_described_references_do_not_grow_without_end():
    level: Any = Inner
    for number in range(14):
        level = create_model(
            f"Level{number}",
            left=(level, Field(description="left")),
            right=(level, Field(description="right")),
        )

    made = wire_of(level)

    assert len(json.dumps(made.answer.schema)) < 1_000_000


def test_extra_keys_are_not_asked_for_but_read():
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        a: int

    made = wire_of(Open)

    assert made.answer.strict
    assert made.decode(made.encode({"a": 1, "b": 2})).b == 2


def test_computed_fields_stay_out_of_records():
    from pydantic import computed_field

    class Square(BaseModel):
        model_config = ConfigDict(extra="forbid")
        side: int

        @computed_field
        @property
        def area(self) -> int:
            return self.side**2

    made = wire_of(Square)

    assert made.load(made.dump(Square(side=2))) == Square(side=2)


def test_models_in_strict_mode_are_validated_as_json():
    class Careful(BaseModel):
        model_config = ConfigDict(strict=True)
        when: date
        where: tuple[int, int]
        tags: set[str]

    made = wire_of(Careful)
    value = Careful(when=date(2026, 1, 2), where=(1, 2), tags={"a"})

    assert made.decode(made.encode(json.loads(made.dump(value)))) == value


def test_a_lazy_result_is_checked_and_not_used_up():
    made = wire_of(Iterable[int])

    value, output = made.read('{"value":[1,2]}')

    assert list(value) == [1, 2]
    assert output == b"[1,2]"
    with pytest.raises(ValueError):
        made.read('{"value":["x"]}')


def test_an_answer_that_a_record_could_not_hold_is_refused():
    for answer in ('{"value":NaN}', '{"value":-Infinity}', '{"value":"NaN"}', '{"value":1e999}'):
        with pytest.raises(ValueError):
            wire_of(float).read(answer)


def test_deep_answers_are_refused_or_read_but_never_crash():
    class Deep(BaseModel):
        sub: dict[str, "Deep"] = {}

    made = wire_of(Deep)
    for levels in (20, 60, 190, 5000):
        text = '{"sub":[{"key":"k","value":' * levels + '{"sub":[]}' + "}]}" * levels
        try:
            assert isinstance(made.decode(text), Deep)
        except ValueError:
            assert levels > 20


@pytest.mark.parametrize(
    ("name", "legal"),
    [("classify", "classify"), ("größe", r"gr__e_\w{8}"), ("x" * 99, r"x{55}_\w{8}"), ("", r"_\w{8}")],
)
def test_a_schema_name_is_legal(name, legal):
    import re

    assert re.fullmatch(legal, wire(TypeAdapter(int), name=name).answer.name)


def test_a_type_beyond_the_limits_is_not_strict():
    many = create_model("Many", **{f"field_{n}": (int, ...) for n in range(5_001)})
    words = Literal[tuple(f"word_{n}" for n in range(1_001))]  # type: ignore[valid-type]
    nested: Any = int
    for number in range(11):
        nested = create_model(f"Nested{number}", inner=(nested, ...))

    for annotation in (many, words, nested):
        assert not wire_of(annotation).answer.strict


def test_depth_counts_objects_and_a_recursion_once():
    assert depth(wire_of(list[int]).answer.schema) == 1
    assert depth(wire_of(list[Inner]).answer.schema) == 2
    assert depth(wire_of(Node).answer.schema) < 10


def test_several_all_of_objects_are_merged():
    class Odd(BaseModel):
        model_config = ConfigDict(
            json_schema_extra=lambda schema: schema.update(
                allOf=[
                    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                    {"type": "object", "properties": {"b": {"type": ["string", "null"]}}, "required": ["b"]},
                ],
                properties={},
            )
        )
        a: int
        b: str | None

    made = wire_of(Odd)

    check_strict(made.answer.schema)
    assert made.answer.schema["required"] == ["a", "b"]
    assert made.decode('{"a":1,"b":null}') == Odd(a=1, b=None)


class Tree(RootModel[list["Tree"] | dict[str, "Tree"]]):
    pass


def test_an_answer_too_deep_to_walk_is_refused():
    made = wire_of(Tree)

    assert made.decode(made.encode([[], {"a": []}])) == Tree([Tree([]), Tree({"a": Tree([])})])
    with pytest.raises(ValueError, match="too deeply"):
        made.decode('{"value":' + "[" * 190 + "]" * 190 + "}")


@pytest.mark.parametrize(
    "natural",
    [
        {"type": "array", "items": True},
        {"$ref": "#/$defs/Missing"},
        {"$ref": "https://example.com/schema"},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"allOf": [{"$ref": "#/$defs/Itself"}, {"type": "object"}], "$defs": {"Itself": {"$ref": "#/$defs/Itself"}}},
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
        {"type": "object", "patternProperties": {"^a": {"type": "null"}, "^b": {"type": "null"}}},
        {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "integer"}},
        {"enum": [[1], [2]]},
        {"enum": [float("inf")]},
        {"enum": []},
        {"anyOf": [{"type": "string"}, {}]},
    ],
    ids=str,
)
def test_a_schema_that_strict_cannot_say_is_told_apart(natural):
    with pytest.raises(InexpressibleError):
        strict(natural)


@pytest.mark.parametrize(
    ("natural", "made"),
    [
        ({"allOf": [{"type": "string"}], "description": "d"}, {"type": "string", "description": "d"}),
        ({"oneOf": [{"const": 1}], "description": "d"}, {"type": "integer", "enum": [1], "description": "d"}),
        (
            {"anyOf": [{"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "integer"}]},
            {"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "integer"}]},
        ),
        ({"type": "number", "minimum": float("-inf"), "maximum": 5}, {"type": "number", "maximum": 5}),
        ({"type": "string", "format": "email", "not": {"const": "x"}}, {"type": "string", "format": "email"}),
        ({"type": "string", "format": "uri"}, {"type": "string", "description": "A URL."}),
        ({"type": "string", "format": "odd"}, {"type": "string", "description": "Format: odd."}),
    ],
    ids=str,
)
def test_a_schema_of_other_words_is_said_in_the_strict_ones(natural, made):
    assert strict(natural)[0] == made


@pytest.mark.parametrize("annotation", [dict[str, int], tuple[int, int], Node, Notes, Dog | dict[str, int]], ids=str)
@pytest.mark.parametrize(
    "value", ["x", None, [1, 2, 3], {"a": "b"}, [{"key": [], "value": 1}], {"item_7": "x"}], ids=str
)
def test_what_does_not_fit_is_left_for_pydantic_to_refuse(annotation, value):
    made = wire_of(annotation)

    with pytest.raises(ValueError):
        made.decode(json.dumps({"value": value}))
    with pytest.raises(ValueError):
        made.decode(made.encode(value))


def test_a_long_enum_of_long_names_is_not_strict():
    assert not wire_of(Literal[tuple(f"{n}" * 20 for n in range(300))]).answer.strict  # type: ignore[valid-type]
    assert wire_of(Literal[tuple(f"{n}" for n in range(300))]).answer.strict  # type: ignore[valid-type]


def test_a_value_that_cannot_be_written_is_recorded_as_it_was_answered():
    class Celsius:
        def __init__(self, degrees: int) -> None:
            self.degrees = degrees

    annotation = Annotated[Any, PlainValidator(lambda value: Celsius(int(value)))]

    value, output = wire_of(annotation).read('{"value":5}')

    assert value.degrees == 5
    assert output == b"5"


def test_keys_that_may_be_absent_are_not_taken_for_null():
    made = wire_of(list[Notes | Sparse])
    value = [
        {"title": "t"},
        {"title": "t", "pages": None, "end": None},
        {"title": "u", "pages": 1},
        {"title": "v", "end": date(2026, 1, 2)},
        {"title": "w", "end": None},
    ]

    assert made.decode(made.encode(json.loads(made.dump(value)))) == value
    check_strict(made.answer.schema)


class Sparse(TypedDict):
    title: str
    pages: None
    end: None
