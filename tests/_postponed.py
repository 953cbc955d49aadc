"""A module with postponed annotations, some of which name types that exist only inside a function or class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

import tanuki_async as tanuki

if TYPE_CHECKING:
    from fractions import Fraction


class Shop:
    class Item(BaseModel):
        name: str
        price: int

    @tanuki.patch
    async def cheapest(self, items: list[Item]) -> Item:
        """Pick the cheapest."""


def with_local_types() -> Any:
    class Stop(BaseModel):
        name: str

    class Route(BaseModel):
        stops: list[Stop]

    mode_type = Literal["bus", "tram"]

    @tanuki.patch(timeout=10)
    async def route(mode: mode_type, first: Stop) -> Route:
        """Plan a route."""

    return route, Stop, Route


@tanuki.patch
async def later(text: str) -> Later:
    """Name a type that is defined further down."""


class Later(BaseModel):
    text: str


@tanuki.patch
async def never(text: str) -> Fraction:
    """Name a type that exists for type checkers only."""
