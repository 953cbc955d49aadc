"""A linear adapter of an embedding model: learns from pairs what is to be close and what is to be far apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tanuki_async._errors import StorageError
from tanuki_async._records import JsonValue
from tanuki_async.abc import ABSTAIN, Abstention, Student
from tanuki_async.students import Gain, Verdict
from tanuki_async.students._format import Contents, pack, unpack

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

__all__ = ["MOST_PAIRS", "Adapter", "Pair", "Trained", "train"]

KIND = "adapter"
MOST_PAIRS = 2_000
"""Pairs that are learnt from, the latest ones."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts, by number, and whether their vectors are to be close."""

    left: int
    right: int
    alike: bool


class Adapter(Student):
    """Moves the vectors of one model, each to one of the same dimension and of length one.

    Answers no call by itself. Vectors that it moved can be compared with each other, not with the model's own or those
    of another adapter. Holds two arrays; safe to use from several threads and event loops.
    """

    def __init__(self, contents: Contents) -> None:
        import numpy as np

        self._np = np
        self._basis, self._moves = contents.arrays["basis"], contents.arrays["moves"]
        if self._basis.ndim != 2 or self._basis.shape != self._moves.shape:
            raise ValueError("the arrays do not fit each other")
        self.dimensions = self._basis.shape[1]

    @classmethod
    def load(cls, parameters: bytes) -> Adapter:
        """Read what `Trained.parameters` wrote. Runs no code from it; StorageError where it is malformed."""
        contents = unpack(parameters)
        try:
            if contents.header["kind"] != KIND:
                raise ValueError(f"a student of kind {contents.header['kind']!r}")
            return cls(contents)
        except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise StorageError(f"not the parameters of an adapter: {error!r}") from error

    async def answer(self, inputs: Mapping[str, JsonValue]) -> JsonValue | Abstention:
        return ABSTAIN

    def move(self, vector: NDArray[float32]) -> NDArray[float32]:
        """Return where a vector of the model is moved to."""
        moved: NDArray[float32] = self._np.add(vector, (self._basis @ vector) @ self._moves)
        moved /= math.sqrt(float(moved @ moved)) or 1.0
        return moved


class Trained:
    """An adapter, and how it did on pairs of texts that it had not seen."""

    verdicts: tuple[Verdict, ...] = ()
    tries = 1
    model = None

    def __init__(self, contents: Contents, gain: Gain) -> None:
        self.gain = gain
        self._contents = contents

    def parameters(self, threshold: float) -> bytes:
        """Write the adapter; it moves all vectors, so no threshold matters to it."""
        return pack(self._contents)


def train(
    vectors: Sequence[Sequence[float]],
    pairs: Sequence[Pair],
    *,
    seed: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Trained | str:
    """Learn from pairs of the texts whose vectors these are, or say why nothing can be learnt.

    Blocks for seconds; `stopped` is asked meanwhile.
    """
    import numpy as np

    from tanuki_async.students._moving import compare, fit

    for alike, word in ((True, "positive"), (False, "negative")):
        if (count := sum(pair.alike is alike for pair in pairs)) < FEWEST_OF_A_KIND:
            return f"{count} {word} pairs are too few: at least {FEWEST_OF_A_KIND} of each kind are needed"
    table = np.array(vectors, dtype=np.float32)
    gain = compare(table, pairs, seed=seed, stopped=stopped)
    basis, moves = fit(table, pairs, stopped=stopped)
    contents = Contents({"kind": KIND, "pairs": len(pairs)}, {}, {"basis": basis, "moves": moves})
    return Trained(contents, gain)


FEWEST_OF_A_KIND = 8
"""Pairs that are alike, and that are not, without which neither can be told from the other."""
