"""What the campaigns of random types and answers share: seeds, drawing, and a log."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from _fuzz_types import Typed, typed
from pydantic.errors import PydanticUserError

import tanuki_async as tanuki
from tanuki_async import StubError
from tanuki_async._function import patched

ANSWERS = int(os.environ.get("TANUKI_FUZZ_ANSWERS", "2000"))
PAIRS = int(os.environ.get("TANUKI_FUZZ_PAIRS", "112"))
SEED = int(os.environ.get("TANUKI_FUZZ_SEED", str(time.time_ns() % 1_000_000)))
FIRST = int(os.environ.get("TANUKI_FUZZ_FIRST", "0"))
CHUNK = 40  # types of one Tanuki
TELL = 1_000  # types between two lines of the report
SLOWEST = 5.0  # seconds of CPU for one call, repairs included
OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {}, {"max_repairs": 0}, {"max_repairs": 1}, {"single_flight": True}, {"cache": "memory"},
)  # fmt: skip


@dataclass
class Log:
    """What became of the answers."""

    name: str
    ends: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    slowest: float = 0.0
    slow: str = ""
    resident: list[int] = field(default_factory=list)

    def timed(self, seconds: float, what: str) -> None:
        """Take note of how long a call kept the CPU; fail where that is much too long."""
        if seconds > self.slowest:
            self.slowest, self.slow = seconds, what
        assert seconds < SLOWEST, f"{seconds:.1f} s of CPU for {what}"

    def tell(self, place: int) -> None:
        """Print where the campaign is."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGESIZE") // 2**20)
        sys.stderr.write(
            f"\n{self.name}, seed {SEED}, type {place}: {self.answers} answers, {dict(self.ends)}; "
            f"slowest {self.slowest:.2f} s ({self.slow}); resident MiB {self.resident[-1]}\n"
        )


def drawn(place: int) -> tuple[Random, Typed, Any]:
    """Draw the type of this place, and a stub for it, until there is one that pydantic takes."""
    draw = Random(f"{SEED} {place}")
    while True:
        try:
            found = typed(draw)
            function = stub(found.annotation, found.annotation, **draw.choice(OPTIONS))
            patched(function).spec  # noqa: B018  # read at the first use
        except (StubError, PydanticUserError):
            continue
        return draw, found, function


def stub(given: Any, returned: Any, **options: Any) -> Any:
    """Patch a function of one argument."""

    async def give(value: Any) -> Any:
        """Give back what is given."""

    give.__annotations__ = {"value": given, "return": returned}
    return tanuki.patch(ignore_finetuning=True, **options)(give)


def good_answer(function: Any, value: Any) -> str | None:
    """Write a value as a model would answer it, or None where pydantic cannot write it."""
    wire = patched(function).spec.wire
    try:
        return wire.encode(json.loads(wire.dump(value)))
    except ValueError:
        return None


def readable(function: Any, value: Any) -> bool:
    """Tell whether pydantic reads back what it writes for a value. It does not, for some unions."""
    wire = patched(function).spec.wire
    try:
        return bool(wire.load(wire.dump(value)) == value)
    except ValueError:
        return False


async def outcome(call: Awaitable[Any]) -> tuple[Any, Exception | None]:
    """Wait for a call: its value, or the error it ends with."""
    try:
        return await call, None
    except Exception as error:  # noqa: BLE001  # which is what is looked at
        return None, error
