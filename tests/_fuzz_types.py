"""Random annotations over everything that a stub may have, each with a way to make values of it.

Leaves are the cases of `test_types_http` and some that are meant to be awkward. Everything comes from the
`random.Random` that is handed in, so a seed gives the same types again.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from random import Random
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Optional, TypedDict, Union
from uuid import UUID

from _fuzz_classes import Aliased, Chain, Lazy, Pile, Touchy, Weekday, picky, tidy
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
)
from test_types_http import CASES, Cat, Colour, Dog, Level
from typing_extensions import TypeAliasType
from typing_extensions import TypedDict as ExtendedTypedDict

Make = Callable[[Random], Any]
DEEPEST = 3
NAMES = ["a", "value", "key", "item_0", "kind", "option_0", "schema_", "größe", "x" * 70]
CONFIGS = [None, None, None, ConfigDict(extra="forbid"), ConfigDict(frozen=True), ConfigDict(str_strip_whitespace=True)]
LETTERS = "abc \"'\\{}[]:,\n\tü\u2028😀0\x00\x7f"


@dataclasses.dataclass(frozen=True)
class Typed:
    """An annotation, and what makes values of it."""

    annotation: Any
    make: Make


def text(draw: Random, most: int = 8) -> str:
    return "".join(draw.choices(LETTERS, k=draw.randrange(most)))


def moment(draw: Random) -> datetime:
    zone = draw.choice([None, UTC, timezone(timedelta(minutes=draw.randrange(-700, 700)))])
    return datetime(draw.randrange(1, 9999), draw.randint(1, 12), 28, 23, 59, 59, draw.randrange(10**6), tzinfo=zone)


def decimal(draw: Random) -> Decimal:
    return Decimal(draw.randrange(-(10**9), 10**9)).scaleb(draw.randrange(-12, 12))


SCALARS: list[Typed] = [
    Typed(int, lambda draw: draw.choice([0, 1, -1, 2**63, -(2**70), draw.randrange(10**6)])),
    Typed(float, lambda draw: draw.choice([0.0, -0.0, 1e308, 5e-324, 2.0, draw.random()])),
    Typed(str, text),
    Typed(bool, lambda draw: draw.random() < 0.5),
    Typed(None, lambda _: None),
    Typed(bytes, lambda draw: draw.randbytes(draw.randrange(9))),
    Typed(date, lambda draw: moment(draw).date()),
    Typed(datetime, moment),
    Typed(time, lambda draw: moment(draw).time()),
    Typed(timedelta, lambda draw: timedelta(seconds=draw.randrange(-(10**7), 10**7), microseconds=draw.randrange(9))),
    Typed(Decimal, decimal),
    Typed(UUID, lambda draw: UUID(int=draw.getrandbits(128))),
    Typed(Weekday, lambda draw: draw.choice(list(Weekday))),
    Typed(Annotated[int, Field(gt=0, lt=10)], lambda draw: draw.randint(1, 9)),
    Typed(Annotated[int, Field(ge=-9, le=9, multiple_of=3)], lambda draw: 3 * draw.randint(-3, 3)),
    Typed(Annotated[float, Field(ge=0, le=1)], lambda draw: draw.random()),
    Typed(Annotated[Decimal, Field(gt=0, max_digits=6, decimal_places=2)], lambda draw: Decimal(draw.randint(1, 9999)) / 100),
    Typed(Annotated[str, Field(min_length=1, max_length=3, pattern="^[a-z]+$")], lambda draw: "abc"[: draw.randint(1, 3)]),
    Typed(Annotated[str, Field(pattern=r"^(\w+)-\d{2}$")], lambda draw: f"ab-{draw.randint(10, 99)}"),
    Typed(Annotated[str, AfterValidator(picky), BeforeValidator(tidy)], lambda draw: "abc"[: draw.randrange(4)]),
    Typed(Literal["yes", "no", "maybe so", "a\nb", '"'], lambda draw: draw.choice(["yes", "no", "a\nb", '"'])),
    Typed(Literal[1, 2, -3], lambda draw: draw.choice([1, 2, -3])),
    Typed(Colour, lambda draw: draw.choice(list(Colour))),
    Typed(Level, lambda draw: draw.choice(list(Level))),
]  # fmt: skip
ODD: list[Typed] = [
    Typed(Aliased, lambda draw: Aliased(kind=draw.randrange(9), rest={text(draw): 1})),
    Typed(Touchy, lambda draw: Touchy(how=draw.choice([None, "value"]))),
    Typed(Lazy, lambda draw: Lazy(parts=[1, draw.randrange(9)])),
    *(Typed(annotation, lambda _, value=value: value) for annotation, value, _ in CASES.values()),
]
HASHABLE = [each for each in SCALARS if each.annotation is not None]


def typed(draw: Random, depth: int = 0) -> Typed:
    """Draw a type."""
    chance = draw.random()
    if depth >= DEEPEST or chance < 0.2 + 0.15 * depth:
        return draw.choice(SCALARS if draw.random() < 0.6 else ODD)
    return draw.choice(CONTAINERS)(draw, depth + 1)


def listed(draw: Random, depth: int) -> Typed:
    item = typed(draw, depth)
    made: Make = lambda draw: [item.make(draw) for _ in range(draw.randrange(4))]  # noqa: E731
    kind = draw.randrange(6)
    if kind == 0:
        return Typed(
            Annotated[list[item.annotation], Field(min_length=1, max_length=3)],
            lambda d: (made(d) or [item.make(d)])[:3],
        )
    if kind == 1:
        return Typed(tuple[item.annotation, ...], lambda draw: tuple(made(draw)))
    if kind == 2:
        return Typed(deque[item.annotation], lambda draw: deque(made(draw)))
    return Typed(draw.choice([list, Sequence, Iterable])[item.annotation], made)


def grouped(draw: Random, depth: int) -> Typed:
    items = [typed(draw, depth) for _ in range(draw.randint(1, 3))]
    return Typed(tuple[tuple(each.annotation for each in items)], lambda draw: tuple(each.make(draw) for each in items))


def several(draw: Random, depth: int) -> Typed:
    item = draw.choice(HASHABLE)
    kind = draw.choice([set, frozenset])
    return Typed(kind[item.annotation], lambda draw: kind(item.make(draw) for _ in range(draw.randrange(4))))


def keyed(draw: Random, depth: int) -> Typed:
    key, value = draw.choice(HASHABLE), typed(draw, depth)
    made: Make = lambda draw: {key.make(draw): value.make(draw) for _ in range(draw.randrange(4))}  # noqa: E731
    kind = draw.randrange(6)
    if kind == 0:
        return Typed(OrderedDict[key.annotation, value.annotation], lambda draw: OrderedDict(made(draw)))
    if kind == 1:
        of: Any = defaultdict[key.annotation, list[value.annotation]]
        return Typed(of, lambda draw: defaultdict(list, {name: [each] for name, each in made(draw).items()}))
    return Typed(draw.choice([dict, dict, Mapping])[key.annotation, value.annotation], made)


def joined(draw: Random, depth: int) -> Typed:
    ways = [typed(draw, depth) for _ in range(draw.randint(2, 3))]
    return Typed(Union[tuple(each.annotation for each in ways)], lambda draw: draw.choice(ways).make(draw))  # noqa: UP007  # as many as there are


def maybe(draw: Random, depth: int) -> Typed:
    inner = typed(draw, depth)
    return Typed(Optional[inner.annotation], lambda draw: inner.make(draw) if draw.random() < 0.7 else None)  # noqa: UP045


def told(draw: Random, depth: int) -> Typed:
    inner = typed(draw, depth)
    if draw.random() < 0.5:
        return Typed(TypeAliasType("Other", inner.annotation), inner.make)
    return Typed(Annotated[inner.annotation, Field(description=text(draw, 20))], inner.make)


def _fields(draw: Random, depth: int) -> dict[str, Typed]:
    return {name: typed(draw, depth) for name in draw.sample(NAMES, draw.randint(1, 4))}


def _made(cls: Any, fields: Mapping[str, Typed], optional: frozenset[str] = frozenset()) -> Make:
    def make(draw: Random) -> Any:
        kept = [name for name in fields if name not in optional or draw.random() < 0.6]
        return cls(**{name: fields[name].make(draw) for name in kept})

    return make


def model(draw: Random, depth: int) -> Typed:
    fields = _fields(draw, depth)
    defaults = {name: each.make(draw) for name, each in fields.items() if draw.random() < 0.4}
    absent = frozenset(name for name, value in defaults.items() if _is_copied(value))
    config = draw.choice(CONFIGS)
    declared: dict[str, Any] = {
        name: (each.annotation, defaults[name] if name in absent else ...) for name, each in fields.items()
    }
    doc = draw.choice([None, "What it is."])
    cls = create_model(draw.choice(["Made", "Größe", "Made[int]"]), __config__=config, __doc__=doc, **declared)
    return Typed(cls, _made(cls, fields, absent))


def _is_copied(value: Any) -> bool:
    """Tell whether pydantic can copy a default, which it does for each new instance."""
    try:
        return copy.deepcopy(value) is not None
    except TypeError:  # there is an iterator in it
        return False


def record(draw: Random, depth: int) -> Typed:
    fields = _fields(draw, depth)
    last = draw.choice(list(fields))
    declared: list[Any] = [(name, each.annotation) for name, each in fields.items() if name != last]
    default = fields[last].make(draw)
    declared.append((last, fields[last].annotation, dataclasses.field(default_factory=lambda: default)))
    cls = dataclasses.make_dataclass("Record", declared, frozen=draw.random() < 0.5)
    return Typed(cls, _made(cls, fields, frozenset({last})))


def dictionary(draw: Random, depth: int) -> Typed:
    fields = _fields(draw, depth)
    absent = frozenset(name for name in fields if draw.random() < 0.4)
    declared = {
        name: NotRequired[each.annotation] if name in absent else each.annotation for name, each in fields.items()
    }
    cls: Any = TypedDict("Table", declared) if draw.random() < 0.5 else ExtendedTypedDict("Table", declared)
    return Typed(cls, _made(cls, fields, absent))


def row(draw: Random, depth: int) -> Typed:
    fields = _fields(draw, depth)
    cls: Any = NamedTuple("Row", [(name, each.annotation) for name, each in fields.items()])
    return Typed(cls, _made(cls, fields))


def generic(draw: Random, depth: int) -> Typed:
    inner = typed(draw, depth)
    cls: Any
    if draw.random() < 0.5:
        cls = Pile[inner.annotation]
        return Typed(cls, lambda draw: cls([inner.make(draw) for _ in range(draw.randrange(3))]))
    cls = Chain[inner.annotation]

    def make(draw: Random, rest: int = 2) -> Any:
        return cls(item=inner.make(draw), next=make(draw, rest - 1) if rest and draw.random() < 0.5 else None)

    return Typed(cls, make)


def tagged(draw: Random, depth: int) -> Typed:
    inner = typed(draw, depth)
    fish: Any = create_model("Fish", kind=(Literal["fish"], "fish"), water=(inner.annotation, ...))
    ways: Any = Annotated[Cat | Dog | fish, Field(discriminator="kind")]
    return Typed(
        ways, lambda d: d.choice([Cat(lives=d.randrange(9)), Dog(tricks=[text(d)]), fish(water=inner.make(d))])
    )


CONTAINERS = [
    listed, listed, grouped, several, keyed, keyed, joined, joined, maybe, told, model, model, record, dictionary, row,
    generic, tagged,
]  # fmt: skip
