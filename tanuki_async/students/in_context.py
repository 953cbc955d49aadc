"""A cheap model that is shown a few recorded examples: nothing is trained, the prompt is the student."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

from tanuki_async._clock import Clock
from tanuki_async._errors import (
    AuthenticationError,
    OutputError,
    ProviderError,
    QuotaExceededError,
    StorageError,
    TanukiError,
)
from tanuki_async._lines import compact, decode_line, encode_example
from tanuki_async._records import Example, JsonValue
from tanuki_async.abc import ABSTAIN, Abstention, Student

__all__ = ["AskedStudent", "Recipe", "choose", "digest_of"]

logger = logging.getLogger("tanuki_async.distill")

Ask: TypeAlias = Callable[[Mapping[str, JsonValue]], Awaitable[JsonValue]]
Pair: TypeAlias = tuple[Mapping[str, JsonValue], JsonValue]

REST = 60.0
"""Seconds for which a model is left alone that cannot be asked at all: no right, no credit, no such model."""
NEWEST = 40
"""Of each answer's examples, how many of the newest are looked at for the most different ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A student that is a model, as storage keeps it. `withheld` are inputs that it is known to get wrong."""

    kind: str
    model: str  # "provider:name"
    examples: tuple[Example, ...] = ()
    withheld: tuple[str, ...] = ()  # digests
    job: str | None = None  # the training that made the model

    def to_json(self) -> bytes:
        """Write the recipe as a JSON document."""
        examples = [json.loads(encode_example(example)) for example in self.examples]
        document = {"v": 1, "kind": self.kind, "model": self.model, "job": self.job}
        return compact({**document, "withheld": list(self.withheld), "examples": examples})

    @classmethod
    def from_json(cls, text: bytes) -> Recipe:
        """Read what `to_json` wrote; StorageError where it is something else."""
        try:
            document: dict[str, Any] = json.loads(text)
            if document["v"] != 1:
                raise StorageError(f"a student has version {document['v']!r}: install a newer tanuki_async")
            examples = tuple(decode_line(json.dumps(record).encode()) for record in document["examples"])
            kind, model, job = document["kind"], document["model"], document["job"]
            return cls(kind=kind, model=model, job=job, examples=examples, withheld=tuple(document["withheld"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"not a student that is a model: {error!r}") from error


class AskedStudent(Student):
    """Asks a model, and abstains where that does not answer: an outage or refusal must not become the caller's."""

    def __init__(self, name: str, ask: Ask, *, withheld: Sequence[str], clock: Clock) -> None:
        self._name, self._ask, self._clock = name, ask, clock
        self._withheld = frozenset(withheld)
        self._rests_until = 0.0
        self._told: type[BaseException] | None = None

    async def answer(self, inputs: Mapping[str, JsonValue]) -> JsonValue | Abstention:
        """Answer one call, or abstain. OutputError where the model's answer does not fit the type."""
        if self._clock.monotonic() < self._rests_until or (self._withheld and digest_of(inputs) in self._withheld):
            return ABSTAIN
        try:
            answer = await self._ask(inputs)
        except OutputError:
            raise
        except (TanukiError, TimeoutError) as error:
            self._note(error)
            return ABSTAIN
        self._told = None
        return answer

    def _note(self, error: Exception) -> None:
        if isinstance(error, AuthenticationError | QuotaExceededError) or (
            isinstance(error, ProviderError) and error.status == 404
        ):
            self._rests_until = self._clock.monotonic() + REST
        level = logging.DEBUG if self._told is type(error) else logging.WARNING
        self._told = type(error)
        logger.log(level, "%s does not answer as a student; the teacher does: %s", self._name, error)


def digest_of(inputs: Mapping[str, JsonValue]) -> str:
    """Return 16 hex digits that tell inputs apart."""
    return blake2b(compact(inputs), digest_size=8).hexdigest()


def choose(pairs: Sequence[Pair], count: int) -> list[int]:
    """Return the places of at most `count` pairs, oldest first, to be shown as examples: of each answer as many.

    Each is the most different from those chosen before, of the newest with its answer. Any first part of the order of
    choice is such a choice too, so the chosen are returned in that order.
    """
    by_answer: dict[bytes, list[int]] = {}
    for place in range(len(pairs) - 1, -1, -1):
        by_answer.setdefault(compact(pairs[place][1]), []).append(place)
    piles = [places[:NEWEST] for places in by_answer.values()][: max(count, NEWEST)]
    words = {place: frozenset(compact(pairs[place][0]).lower().split()) for pile in piles for place in pile}
    nearest = dict.fromkeys(words, math.inf)  # by place: how different it is from the nearest that is chosen
    chosen: list[int] = []
    while len(chosen) < count and (piles := [pile for pile in piles if pile]):
        for pile in piles[: count - len(chosen)]:
            best = max(pile, key=nearest.__getitem__)  # the newest of those that are equal
            pile.remove(best)
            chosen.append(best)
            for place in nearest:
                nearest[place] = min(nearest[place], _difference(words[best], words[place]))
    return chosen


def _difference(left: frozenset[bytes], right: frozenset[bytes]) -> float:
    union = len(left | right)
    return 1.0 - len(left & right) / union if union else 0.0
