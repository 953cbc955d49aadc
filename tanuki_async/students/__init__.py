"""One file per way of learning."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BLOCKS", "Gain", "Verdict"]

BLOCKS = ("words", "phrases", "letters")
"""Kinds of features of a local student; each kind is brought to length one by itself."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One held-out input, answered by a student that had not seen it.

    `score` is how sure the student was, on its own scale; minus infinity where it would abstain at any threshold.
    `place` is that of the input among the examples.
    """

    score: float
    agreed: bool
    place: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How often, with an adapter and without, an alike pair of texts that it had not seen was closer than another pair.

    `deviation` is the standard deviation of the difference of both shares, by leaving out one text after the other.
    """

    before: float
    after: float
    deviation: float
    texts: int
    pairs: int
