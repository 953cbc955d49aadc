"""One file per way of learning."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BLOCKS", "Verdict"]

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
