"""Numbers that JSON does not have: what is not finite would be null in a record, and something else when read back."""

from __future__ import annotations

from collections import deque
from math import isfinite
from typing import Any, cast

from tanuki_async._codec.shapes import is_object

NUMBERS = frozenset({"float", "any"})
"""Kinds of pydantic's schema in which such numbers are; a model has a config of its own, which may take them."""


def may_overflow(output: bytes) -> bool:
    """Tell whether `output`, as pydantic writes it, may stand for a number that is not finite."""
    return (
        b"null" in output
        or b'inf"' in output  # this and the next as the key of a dict
        or b'nan"' in output
        or b"NaN" in output
        or b"Infinity" in output
    )


def is_finite(plain: object) -> bool:
    """Tell whether all numbers are finite in what pydantic makes of a value: dicts, lists and so on."""
    if isinstance(plain, float):
        return isfinite(plain)
    if is_object(plain):
        return all(is_finite(key) and is_finite(value) for key, value in plain.items())
    if isinstance(plain, (list, tuple, set, frozenset, deque)):
        return all(map(is_finite, cast("list[Any]", plain)))
    return True
