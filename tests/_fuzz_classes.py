"""Classes that are awkward to read, for the campaign of random types."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, Generic, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, field_validator

T = TypeVar("T")


class Weekday(enum.IntFlag):
    MONDAY = 1
    TUESDAY = 2


class Chain(BaseModel, Generic[T]):
    """Items, one after the other."""

    item: T
    next: Chain[T] | None = None


class Pile(RootModel[list[T]], Generic[T]):
    pass


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    kind: int = Field(alias="is", description='The "kind".')
    rest: dict[str, int] = Field(default={}, validation_alias=AliasChoices("rest", "others"))


class Touchy(BaseModel):
    """Its validators raise whatever they like."""

    how: Literal["value", "key", "type", "zero", "index", "assert", "attribute", "stop"] | None = None
    numbers: list[int] = []

    @field_validator("numbers")
    @classmethod
    def check(cls, numbers: list[int], info: Any) -> list[int]:
        how = info.data["how"]  # a KeyError where that did not fit
        errors: dict[str | None, Exception] = {
            "value": ValueError("no"), "key": KeyError("k"), "type": TypeError("t"), "zero": ZeroDivisionError(),
            "index": IndexError("i"), "attribute": AttributeError("a"), "stop": StopIteration(),
        }  # fmt: skip
        if how in errors and numbers:
            raise errors[how]
        assert how != "assert", "it says so"
        return numbers


class Lazy(BaseModel):
    parts: Iterable[int]


def picky(value: Any) -> Any:
    """Take nothing that is long."""
    if len(value) > 3:
        raise ValueError(f"{len(value)} are too many")
    return value


def tidy(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value
