"""The arithmetic of an adapter: W = I + B'MB for a few directions B, fitted to pairs, and tried on other texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tanuki_async.students import Gain

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray

    from tanuki_async.students.adapter import Pair

    Array: TypeAlias = NDArray[float32]

DIRECTIONS = 64
"""Directions in which vectors may be moved: those in which the texts of the pairs differ most."""
STEPS = 200
RATE = 0.05
SHRINK = 1e-3
"""What it costs to be far from the model's own vectors; chosen on question types and short messages."""
FOLDS = 3
"""Few, so that many pairs have both of their texts in one."""


class _Adam:
    """Adam (Kingma and Ba, 2015) for one array, changed in place."""

    def __init__(self, array: Array, rate: float) -> None:
        self._array, self._rate = array, rate
        self._mean, self._square, self._step = np.zeros_like(array), np.zeros_like(array), 0

    def descend(self, slope: Array) -> None:
        """Take one step down."""
        self._step += 1
        self._mean += 0.1 * (slope - self._mean)
        self._square += 0.001 * (slope * slope - self._square)
        mean, square = self._mean / (1 - 0.9**self._step), self._square / (1 - 0.999**self._step)
        self._array -= self._rate * mean / (np.sqrt(square) + 1e-9)


def fit(vectors: Array, pairs: Sequence[Pair], *, stopped: Callable[[], bool]) -> tuple[Array, Array]:
    """Return the directions, and what is added to a vector for each: moved = v + (basis @ v) @ moves.

    Minimises the logistic loss of telling alike pairs from others by the cosine of their moved vectors; both kinds
    weigh the same. What lies outside of the directions stays as it is, and is part of every cosine.
    """
    unit = normalised(vectors)
    basis = _directions(unit[sorted({place for pair in pairs for place in (pair.left, pair.right)})])
    left, right = unit[[pair.left for pair in pairs]], unit[[pair.right for pair in pairs]]
    alike = np.array([pair.alike for pair in pairs], dtype=np.float32)
    weights: Array = alike / (2 * alike.sum()) + (1 - alike) / (2 * (1 - alike).sum())
    a, b = left @ basis.T, right @ basis.T
    outside = (left * right).sum(1) - (a * b).sum(1)
    outside_a, outside_b = 1 - (a * a).sum(1), 1 - (b * b).sum(1)
    cosines = (left * right).sum(1)
    spread = float(cosines.std()) or 1.0
    change = np.zeros((len(basis), len(basis)), dtype=np.float32)
    line = np.array([1 / spread, -float(cosines.mean()) / spread], dtype=np.float32)  # logit = line[0] cosine + line[1]
    optimisers = _Adam(change, RATE), _Adam(line, 2 * RATE)
    for step in range(STEPS):
        if step % 10 == 0 and stopped():
            break
        ya, yb = a + a @ change.T, b + b @ change.T
        la, lb = np.sqrt((ya * ya).sum(1) + outside_a), np.sqrt((yb * yb).sum(1) + outside_b)
        cosine = ((ya * yb).sum(1) + outside) / (la * lb)
        logit = np.clip(line[0] * cosine + line[1], -30, 30)
        wrong: Array = weights * (1 / (1 + np.exp(-logit)) - alike)
        pull = (wrong * line[0])[:, None]
        both, cosine_ = (la * lb)[:, None], cosine[:, None]
        da = pull * (yb / both - cosine_ * ya / (la * la)[:, None])
        db = pull * (ya / both - cosine_ * yb / (lb * lb)[:, None])
        optimisers[0].descend(da.T @ a + db.T @ b + 2 * SHRINK * change)
        optimisers[1].descend(np.array([(wrong * cosine).sum(), wrong.sum()], dtype=np.float32))
    return basis, np.ascontiguousarray(change.T @ basis)


def normalised(vectors: Array) -> Array:
    """Return the vectors, each brought to length one."""
    lengths: Array = np.sqrt((vectors * vectors).sum(1, keepdims=True))
    lengths[lengths == 0] = 1
    unit: Array = np.divide(vectors, lengths)
    return unit


def _directions(texts: Array) -> Array:
    """Return the directions in which these vectors lie most, the common one among them."""
    _, sizes, rows = np.linalg.svd(texts, full_matrices=False)
    count = min(DIRECTIONS, int((sizes > 1e-4 * sizes[0]).sum()))
    return np.ascontiguousarray(rows[:count])


def compare(vectors: Array, pairs: Sequence[Pair], *, seed: int, stopped: Callable[[], bool]) -> Gain:
    """Compare pairs that are alike with others, by the model's vectors and by an adapter that saw none of their texts.

    A text is in many pairs, and a pair in many comparisons, so these are not independent of each other; texts are.
    Therefore the deviation is the jackknife's over texts (Arvesen, 1969), which here errs on the side of caution.
    """
    places = folds(pairs, Random(seed))
    unit = normalised(vectors)
    tables: list[_Table] = []
    for fold in range(FOLDS):
        held_out = [pair for pair in pairs if places[pair.left] == places[pair.right] == fold]
        learnt = [pair for pair in pairs if fold not in (places[pair.left], places[pair.right])]
        if stopped() or not _both_kinds(held_out) or not _both_kinds(learnt):
            continue
        basis, moves = fit(vectors, learnt, stopped=stopped)
        moved = normalised(np.add(unit, (unit @ basis.T) @ moves))
        alike, others = ([pair for pair in held_out if pair.alike is kind] for kind in (True, False))
        tables.append(_Table(unit, moved, alike, others))
    return _gain(tables)


def _both_kinds(pairs: Sequence[Pair]) -> bool:
    return 0 < sum(pair.alike for pair in pairs) < len(pairs)


class _Table:
    """Each alike pair of one fold against each other pair: by how much the adapter orders the two better."""

    def __init__(self, unit: Array, moved: Array, alike: Sequence[Pair], others: Sequence[Pair]) -> None:
        self.rows, self.columns = _ends(alike), _ends(others)
        before, after = _ordered(unit, self.rows, self.columns), _ordered(moved, self.rows, self.columns)
        self.before, self.better = float(before.sum()), after - before

    def without(self, text: int) -> tuple[float, int]:
        """Return the sum and number of what is left when no pair has this text."""
        rows, columns = (self.rows != text).all(1), (self.columns != text).all(1)
        return float(rows @ self.better @ columns), int(rows.sum()) * int(columns.sum())


def _ends(pairs: Sequence[Pair]) -> NDArray[int64]:
    return np.array([(pair.left, pair.right) for pair in pairs], dtype=np.int64).reshape(-1, 2)


def _ordered(vectors: Array, alike: NDArray[int64], others: NDArray[int64]) -> Array:
    near, far = ((vectors[ends[:, 0]] * vectors[ends[:, 1]]).sum(1) for ends in (alike, others))
    ordered: Array = (np.sign(near[:, None] - far[None, :]) + 1) / 2  # the same nearness counts half
    return ordered


def _gain(tables: Sequence[_Table]) -> Gain:
    total = sum(float(table.better.sum()) for table in tables)
    count = sum(table.better.size for table in tables)
    left_out: list[float] = []
    for table in tables:
        whole, size = float(table.better.sum()), table.better.size
        for text in np.union1d(table.rows, table.columns).tolist():
            rest, number = table.without(text)
            left_out.append((total - whole + rest) / max(1, count - size + number))
    texts, pairs = len(left_out), sum(sum(table.better.shape) for table in tables)
    before = sum(table.before for table in tables) / max(1, count)
    deviation = float(np.sqrt((texts - 1) * np.var(left_out))) if texts else 0.0
    return Gain(before=before, after=before + total / max(1, count), deviation=deviation, texts=texts, pairs=pairs)


def folds(pairs: Sequence[Pair], drawn: Random) -> dict[int, int]:
    """Give each text a fold. Texts that pairs connect stay together where they are few enough for one fold."""
    texts = {place for pair in pairs for place in (pair.left, pair.right)}
    most, sizes = -(-len(texts) // FOLDS), [0] * FOLDS
    groups: list[list[int]] = []
    for group in _connected(pairs):
        drawn.shuffle(group)
        groups += [group] if len(group) <= most else [[place] for place in group]
    drawn.shuffle(groups)
    chosen: dict[int, int] = {}
    for group in sorted(groups, key=len, reverse=True):
        fold = sizes.index(min(sizes))
        sizes[fold] += len(group)
        chosen.update(dict.fromkeys(group, fold))
    return chosen


def _connected(pairs: Sequence[Pair]) -> list[list[int]]:
    near: dict[int, list[int]] = defaultdict(list)
    for pair in pairs:
        near[pair.left].append(pair.right)
        near[pair.right].append(pair.left)
    groups: list[list[int]] = []
    seen: set[int] = set()
    for start in near:
        if start in seen:
            continue
        group, ahead = list[int](), [start]
        seen.add(start)
        while ahead:
            group.append(place := ahead.pop())
            new = [each for each in near[place] if each not in seen]
            seen.update(new)
            ahead += new
        groups.append(group)
    return groups
