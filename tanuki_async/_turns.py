"""Long work in a thread, in short turns, so that the event loop goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

_TURN = 500  # of what takes a microsecond or less
_BREATH = 0.00005


def in_turns(all: Sequence[T]) -> Iterator[Sequence[T]]:  # noqa: A002
    """Give some at a time, with a pause in between. Only for threads.

    An event loop gives the interpreter away whenever it reads or sends, and from a thread that works without a pause
    gets it back after 5 ms only (`sys.getswitchinterval`), at each of them.
    """
    for begin in range(0, len(all), _TURN):
        if begin:
            time.sleep(_BREATH)
        yield all[begin : begin + _TURN]
