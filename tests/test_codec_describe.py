"""What may be a stub, and what a FunctionSpec says about it."""

# ruff: noqa: B018, N805, PGH003, RET501, RUF013, T201, UP007, UP045  # stubs as users write them, wrong ones too

from __future__ import annotations

import collections
import enum
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, Required, TypedDict, TypeVar, Union
from uuid import UUID

import numpy as np
import pydantic
import pytest
import typing_extensions
from annotated_types import Ge, Interval, Lt, MinLen
from pydantic import BaseModel, Field

from tanuki_async._codec.describe import FunctionSpec, Unresolved, describe
from tanuki_async._codec.types import Embedding, adapter_of, is_closed
from tanuki_async._errors import StubError, UsageError

T = TypeVar("T")


async def _ellipsis(x: int) -> int: ...
async def _pass(x: int) -> int:
    pass


async def _docstring(x: int) -> int:
    """Only words."""


async def _everything(x: int) -> int:
    """Words."""
    # and a comment
    pass
    ...


async def _raises(x: int) -> int:
    raise NotImplementedError


async def _raises_called(x: int) -> int:
    """Words."""
    raise NotImplementedError()


async def _raises_with_text(x: int) -> int:
    """Words."""
    raise NotImplementedError("a model answers")


@pytest.mark.parametrize(
    "stub", [_ellipsis, _pass, _docstring, _everything, _raises, _raises_called, _raises_with_text]
)
def test_an_empty_body_is_a_stub(stub: Any) -> None:
    assert describe(stub).signature == f"def {stub.__name__}(x: int) -> int"


async def _returns_none(x: int) -> None:
    """Words."""
    return None


async def _returns(x: int) -> int:
    return 3


async def _computes(x: int) -> int:
    x += 1


async def _calls(x: int) -> None:
    print(x)


async def _raises_other(x: int) -> int:
    raise ValueError("x")


async def _constant(x: int) -> int:
    42


async def _never(x: int) -> int:
    if False:
        print(x)


async def _inner(x: int) -> int:
    def helper() -> None: ...


async def _awaits(x: int) -> None:
    await x  # type: ignore


async def _raises_computed(x: int) -> int:
    raise NotImplementedError(f"{x}")


@pytest.mark.parametrize(
    "stub",
    [
        _returns_none, _returns, _computes, _calls, _raises_other, _constant, _never, _inner, _awaits, _raises_computed,
    ],
)  # fmt: skip
def test_a_body_that_does_anything_is_refused(stub: Any) -> None:
    with pytest.raises(StubError, match=rf"{stub.__name__}\(\) has a body; its body may only be a docstring"):
        describe(stub)


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        ("...", True),
        ("pass", True),
        ("'doc'", True),
        ("'doc'; pass; ...", True),
        ("raise NotImplementedError", True),
        ("raise NotImplementedError('x')", True),
        ("return 1", False),
        ("raise ValueError", False),
        ("x = 1", False),
        ("return x", False),
        ("await x", False),
    ],
)
def test_without_source_the_bytecode_decides(body: str, fits: bool) -> None:
    names: dict[str, Any] = {}
    exec(f"async def f(x: int) -> int: {body}", names)
    if fits:
        assert describe(names["f"]).name == "f"
    else:
        with pytest.raises(StubError, match="has a body"):
            describe(names["f"])


def test_a_body_of_only_comments_beside_the_docstring_is_a_stub() -> None:
    async def f(x: int) -> int:
        """Words."""
        # nothing else

    assert describe(f).doc == "Words."


def test_what_is_not_an_async_function_is_refused() -> None:
    def plain(x: int) -> int: ...

    async def generates(x: int) -> AsyncIterator[int]:
        yield 1

    class Thing: ...

    for stub, said in (
        (plain, "is a plain function: write `async def`"),
        (generates, "is an async generator"),
        (Thing, "is a class: write `async def`"),
        (lambda x: x, "is a lambda: write `async def`"),
        (len, "is a builtin_function_or_method, not a function: write `async def`"),
        (3, "is a int, not a function"),
    ):
        with pytest.raises(StubError, match=said):
            describe(stub)


def test_decorators_the_wrong_way_round_are_told_apart() -> None:
    async def f(cls: Any) -> int: ...

    with pytest.raises(StubError, match="put @classmethod above @patch, not below it"):
        describe(classmethod(f))
    with pytest.raises(StubError, match="put @staticmethod above @patch, not below it"):
        describe(staticmethod(f))


def test_missing_annotations_are_named() -> None:
    async def no_result(x: int): ...
    async def no_type(x) -> int: ...
    async def no_star_type(*x) -> int: ...
    async def lonely_self(self) -> int: ...

    with pytest.raises(StubError, match=r"no_result\(\) does not say what it returns: write `-> …`"):
        describe(no_result)
    for stub, name in ((no_type, "x"), (no_star_type, "x"), (lonely_self, "self")):
        with pytest.raises(StubError, match=rf"parameter '{name}' has no type: write `{name}: …`"):
            describe(stub)


class Opaque:
    pass


def test_a_type_that_pydantic_cannot_build_is_named_with_its_parameter() -> None:
    async def f(x: Opaque) -> int: ...
    async def g(x: int) -> Opaque: ...
    async def h(x: Callable[[int], int]) -> int: ...

    with pytest.raises(StubError, match=r"parameter 'x' cannot be used: Unable to generate .*Opaque.*>\.$"):
        describe(f)
    with pytest.raises(StubError, match="the type of what it returns cannot be used: Unable"):
        describe(g)
    with pytest.raises(StubError, match="parameter 'x' cannot be used: its values cannot be written as JSON"):
        describe(h)


def test_a_default_that_does_not_fit_is_refused() -> None:
    async def f(x: int = None) -> int: ...  # type: ignore

    with pytest.raises(StubError, match="the default of 'x' does not fit its type"):
        describe(f)


def test_a_name_that_does_not_exist_yet_is_unresolved() -> None:
    async def f(x: Later) -> int: ...  # noqa: F821
    async def g(x: collections.Later) -> int: ...  # type: ignore

    for stub in (f, g):
        with pytest.raises(Unresolved, match="names what does not exist") as caught:
            describe(stub)
        assert isinstance(caught.value, UsageError)
    assert describe(f, namespace={"Later": int}).signature == "def f(x: int) -> int"


def test_a_model_whose_field_does_not_exist_yet_is_unresolved() -> None:
    class Early(BaseModel):
        later: LaterModel  # noqa: F821

    async def f(x: Early) -> int: ...

    with pytest.raises(Unresolved, match="LaterModel"):
        describe(f, namespace=locals())


def test_string_annotations_see_local_types() -> None:
    @dataclass
    class Local:
        x: int
        more: list[Local]

    async def f(x: Local, y: Optional["Local"] = None) -> "list[Local]": ...  # noqa: UP037

    spec = describe(f, namespace=locals())

    assert spec.signature == "def f(x: Local, y: Local | None = None) -> list[Local]"
    assert spec.output.validate_json('[{"x":1,"more":[{"x":2,"more":[]}]}]') == [Local(1, [Local(2, [])])]


class Service:
    async def method(self, x: int) -> int:
        """Method."""

    @staticmethod
    async def static(x: int) -> int: ...

    async def typed(self: Any, x: int) -> int: ...

    class Inner:
        async def deep(cls, x: int) -> int: ...


def test_self_and_cls_are_no_parameters() -> None:
    assert describe(Service.method).signature == "def method(x: int) -> int"
    assert describe(Service.method).qualname == "Service.method"
    assert describe(Service.static).signature == "def static(x: int) -> int"
    assert describe(Service.Inner.deep).signature == "def deep(x: int) -> int"
    assert [item.name for item in describe(Service.typed).parameters] == ["x"]
    assert describe(Service.method).bind((Service(), 3), {}).values == {"x": 3}


def test_the_spec_says_where_the_stub_is_and_what_its_parameters_are() -> None:
    async def f(a: int, /, b: str = "x", *rest: float, c: bool = True, **more: date) -> int:
        """Words.

        More words.
        """

    spec = describe(f)

    assert isinstance(spec, FunctionSpec)
    assert (spec.name, spec.module, spec.doc) == ("f", __name__, "Words.\n\nMore words.")
    assert spec.signature == "def f(a: int, /, b: str = 'x', *rest: float, c: bool = True, **more: date) -> int"
    assert [(item.name, item.kind) for item in spec.parameters] == [
        ("a", "positional_only"),
        ("b", "positional_or_keyword"),
        ("rest", "var_positional"),
        ("c", "keyword_only"),
        ("more", "var_keyword"),
    ]
    assert [(item.has_default, item.default) for item in spec.parameters][1:3] == [(True, "x"), (False, None)]
    assert (spec.output_text, spec.embedding, spec.closed) == ("int", None, False)
    assert spec.wire is not None


def test_keyword_only_parameters_keep_their_star() -> None:
    async def f(*, a: int) -> int: ...

    assert describe(f).signature == "def f(*, a: int) -> int"


def test_a_pydantic_field_may_be_a_default() -> None:
    async def f(x: int = Field(5, gt=3), y: int = Field(gt=0)) -> int: ...

    spec = describe(f)

    assert spec.signature == "def f(x: Annotated[int, gt=3] = 5, y: Annotated[int, gt=0]) -> int"
    assert spec.bind((), {"y": 1}).values == {"x": 5, "y": 1}


def test_embeddings_are_told_from_their_annotation() -> None:
    async def vector(x: str) -> Embedding[np.ndarray]: ...
    async def floats(x: str) -> Embedding[list[float]]: ...
    async def wrong(x: str) -> Embedding[str]: ...
    async def nested(x: str) -> list[Embedding[list[float]]]: ...

    assert describe(vector).embedding == "numpy"
    assert describe(floats).embedding == "list"
    assert describe(floats).wire is None
    assert describe(floats).output_text == "Embedding[list[float]]"
    with pytest.raises(StubError, match=r"cannot return Embedding\[str\]: write"):
        describe(wrong)
    with pytest.raises(StubError, match="only be the whole return annotation"):
        describe(nested)


class Color(enum.Enum):
    RED = "r"
    BLUE = 1


class Bits(enum.Flag):
    A = 1


@pytest.mark.parametrize(
    ("annotation", "closed"),
    [
        (bool, True),
        (None, True),
        (Literal["a", 1], True),
        (Color, True),
        (Bits, False),
        (Optional[Color], True),
        (Literal["a"] | None | bool, True),
        (Union[Color, str], False),
        (int, False),
        (Annotated[int, Field(gt=0, lt=10)], True),
        (Annotated[int, Interval(ge=0, le=999)], True),
        (Annotated[int, Ge(0), Lt(1001)], False),
        (Annotated[int, Ge(0)], False),
        (Annotated[int, Ge(0), Lt(5)] | None, True),
        (Annotated[Color, Field(description="x")], True),
        (set[Color], True),
        (frozenset[Literal["a"]], True),
        (Annotated[set[Color], MinLen(1)], True),
        (set[str], False),
        (list[Color], False),
        (set[set[bool]], False),
        (float, False),
    ],
)
def test_closed_answers(annotation: Any, closed: bool) -> None:
    assert is_closed(annotation) is closed


class Names(list[str]): ...


class Ages(dict[str, int]): ...


class Bag(list[T], Generic[T]): ...


class IntBag(Bag[int]): ...


class Pair(tuple[int, str]): ...


class Unique(frozenset[int]): ...


class Last(collections.deque[int]): ...


class Grouped(collections.defaultdict[str, list[int]]): ...


class Tree(dict[str, "Tree"]): ...


class Slug(str): ...


class Kid(BaseModel):
    n: int
    kids: list[Kid] = []


class Box(BaseModel, Generic[T]):
    value: T


@dataclass
class Node:
    value: int
    next: Node | None = None


@dataclass
class Team:
    names: Names
    parts: list[Team] = field(default_factory=list)


@pydantic.dataclasses.dataclass
class Checked:
    a: int = Field(gt=0)


class Row(TypedDict, total=False):
    a: Required[int]
    rows: list[Row]


class ExtensionRow(typing_extensions.TypedDict):
    a: int


class GenericRow(TypedDict, Generic[T]):
    value: T


class Point(NamedTuple):
    x: int
    y: int = 0


class Plain:
    def __init__(self, name: str, inner: Plain | None = None, *, names: Names | None = None) -> None:
        self.name, self.inner, self.names = name, inner, names


class GenericPlain(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


UserId = NewType("UserId", int)


@pytest.mark.parametrize(
    ("annotation", "kind", "text"),
    [
        (Color, Color, '"r"'),
        (Annotated[int, Field(gt=0, lt=10)], int, "3"),
        (list[int], list, "[1]"),
        (set[int], set, "[1,2]"),
        (tuple[int, ...], tuple, "[1,2]"),
        (tuple[int, str], tuple, '[1,"a"]'),
        (collections.deque[int], collections.deque, "[1]"),
        (collections.defaultdict[str, int], collections.defaultdict, '{"a":1}'),
        (collections.OrderedDict[str, int], collections.OrderedDict, '{"b":1,"a":1}'),
        (Sequence[int], list, "[1]"),
        (Iterable[int], list, "[1]"),
        (collections.abc.Mapping[str, int], dict, '{"a":1}'),
        (collections.abc.MutableSet[int], set, "[1]"),
        (Names, Names, '["a"]'),
        (Ages, Ages, '{"a":1}'),
        (Bag[int], Bag, "[1]"),
        (IntBag, IntBag, "[1]"),
        (Pair, Pair, '[1,"a"]'),
        (Unique, Unique, "[1]"),
        (Last, Last, "[1]"),
        (Grouped, Grouped, '{"a":[1]}'),
        (Tree, Tree, '{"a":{"b":{}}}'),
        (Slug, Slug, '"a"'),
        (Optional[Names], Names, '["a"]'),
        (Kid, Kid, '{"n":1,"kids":[{"n":2,"kids":[]}]}'),
        (Box[int], Box, '{"value":1}'),
        (Node, Node, '{"value":1,"next":{"value":2,"next":null}}'),
        (Team, Team, '{"names":["a"],"parts":[{"names":[],"parts":[]}]}'),
        (Checked, Checked, '{"a":1}'),
        (Row, dict, '{"a":1,"rows":[{"a":2}]}'),
        (ExtensionRow, dict, '{"a":1}'),
        (GenericRow[int], dict, '{"value":1}'),
        (Point, Point, "[1,2]"),
        (Plain, Plain, '{"name":"a","inner":{"name":"b","inner":null,"names":null},"names":["c"]}'),
        (GenericPlain[int], GenericPlain, '{"value":1}'),
        (UserId, int, "1"),
        (datetime, datetime, '"2020-01-01T00:00:00Z"'),
        (date, date, '"2020-01-01"'),
        (time, time, '"10:00:00"'),
        (timedelta, timedelta, '"PT1H"'),
        (Decimal, Decimal, '"1.50"'),
        (UUID, UUID, '"12345678-1234-5678-1234-567812345678"'),
        (Path, Path, '"a/b"'),
        (bytes, bytes, '"_w=="'),
        (None, type(None), "null"),
    ],
)
def test_types_are_built_as_themselves_and_written_back(annotation: Any, kind: type, text: str) -> None:
    adapter = adapter_of(annotation, {})

    value = adapter.validate_json(text)

    assert isinstance(value, kind)
    assert adapter.dump_json(value).decode() == text
    assert adapter.dump_json(adapter.validate_python(value)).decode() == text
    assert adapter.json_schema()


def test_subclasses_are_built_deep_inside() -> None:
    value = adapter_of(dict[str, list[Names]], {}).validate_python({"a": [["b"]]})

    assert type(value["a"][0]) is Names


def test_a_subclass_that_arrives_stays_itself() -> None:
    names = Names(["a"])

    assert adapter_of(Names, {}).validate_python(names) is names


def test_two_arguments_of_one_generic_stay_apart() -> None:
    adapter = adapter_of(tuple[Bag[int], Bag[str], GenericPlain[int], GenericPlain[str]], {})

    value = adapter.validate_json('[[1],["1"],{"value":1},{"value":"1"}]')

    assert (value[0], value[1], value[2].value, value[3].value) == ([1], ["1"], 1, "1")


class Forgetful(list[int]):
    def __init__(self, *items: object) -> None:
        super().__init__()


class Unwritten:
    def __init__(self, x) -> None:
        self.x = x


def test_a_subclass_that_loses_its_items_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="does not keep what it is given"):
        adapter_of(Forgetful, {}).validate_python([1])


def test_a_plain_class_without_annotations_says_what_it_lacks() -> None:
    with pytest.raises(StubError, match="class Unwritten: parameter 'x' of its __init__ has no annotation"):
        adapter_of(Unwritten, {})


def test_constraints_hold_behind_a_subclass() -> None:
    with pytest.raises(pydantic.ValidationError):
        adapter_of(Annotated[Names, MinLen(1)], {}).validate_python([])


def test_an_iterable_can_be_read_twice() -> None:
    value = adapter_of(Iterable[int], {}).validate_python(iter([1, 2]))

    assert [list(value), list(value)] == [[1, 2], [1, 2]]


def test_numbers_that_json_lacks_are_refused() -> None:
    for text in ("NaN", "Infinity", '"nan"'):
        with pytest.raises(pydantic.ValidationError):
            adapter_of(float, {}).validate_json(text)


def test_a_class_keeps_the_names_of_its_own_module() -> None:
    """The stub's module may use one of those names for something else."""
    namespace = {"Names": int, "Node": str}

    adapter = adapter_of(Team, namespace)

    assert type(adapter.validate_python({"names": ["a"]}).names) is Names
    assert adapter_of(Node, namespace).validate_json('{"value":1,"next":{"value":2}}').next == Node(2)
