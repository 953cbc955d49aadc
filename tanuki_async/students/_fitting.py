"""Fits the local student with scikit-learn and asks it about inputs that it has not seen; only this file needs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from typing import Any, TypeAlias

from tanuki_async._errors import SettingsError
from tanuki_async._records import JsonValue
from tanuki_async.students import BLOCKS, Verdict, _format
from tanuki_async.students._features import (
    letters_of,
    likeness,
    phrases_of,
    plain,
    spelled,
    texts_and_values,
    words_of,
)

try:
    numeric, sparse, svm = (import_module(name) for name in ("numpy", "scipy.sparse", "sklearn.svm"))
except ImportError as missing:
    raise SettingsError(
        "a local student is trained with scikit-learn, which is not installed: pip install 'tanuki_async[local]'"
    ) from missing

np: Any = numeric  # untyped on purpose: two of the three have no types, and arrays flow through all of them
sp: Any = sparse
LinearSVC: Any = svm.LinearSVC

Pair: TypeAlias = tuple[Mapping[str, JsonValue], JsonValue]
Array: TypeAlias = Any  # of numpy or scipy

FOLDS = 10
FEWER_FOLDS = 5
MANY_ROWS = 2000
"""Rows from which five folds and features seen twice are enough."""
ENOUGH_HELD_OUT = 1500
"""Held-out rows beyond which further folds are not asked: the bound is narrow, and each costs a training."""
MOST_ENTRIES = 3_000_000
"""Features of all rows together that one fit takes; of more (thousands of pages), a random part of the rows is learnt.
The fit copies them without letting other threads run."""
SHARDS = 32
FREED_TOGETHER = 4000
MOST_FEATURES = 150_000
PENALTY = 1.0  # C of the support vector machine
SMOOTH = 0.1
STRETCH = 0.25
UNFAMILIAR = 0.01
"""Share of held-out inputs that may be turned away because few of their words are known."""


@dataclass(frozen=True, slots=True)
class Block:
    """How often each row has each feature, over all features found, and their names."""

    names: list[str]
    rows: Array


@dataclass(frozen=True, slots=True)
class Fitted:
    """One classifier: per block its kept features and their table, and what is added to all."""

    kept: tuple[Array, ...]
    tables: tuple[Array, ...]
    offsets: Array
    classes: Array


@dataclass(frozen=True, slots=True)
class Rows:
    """The examples as numbers."""

    blocks: tuple[Block, ...]  # in the order of BLOCKS
    labels: Array
    outputs: list[JsonValue]
    group: Array  # of each row; rows with like inputs share one
    latest: Array  # row of each group
    fields: list[str]
    most: int  # features kept per block, so that the parameters stay small
    least: int  # rows a feature must be in


class Index:
    """Numbers names in the order in which they are first asked for.

    Kept in SHARDS: growing one big dictionary would hold up every other thread for too long.
    """

    def __init__(self) -> None:
        self._shards: list[dict[str, int]] = [{} for _ in range(SHARDS)]

    def numbers(self, names: Sequence[str]) -> Array:
        """Return the numbers of `names`, giving new ones to new names."""
        found: list[int] = []
        for name in names:
            place = (ord(name[-1]) + 7 * len(name)) % SHARDS  # the same in every process
            shard = self._shards[place]
            found.append(shard.setdefault(name, len(shard)) * SHARDS + place)
        return np.array(found, dtype=np.int32)

    def names(self) -> list[str]:
        """Return all names by number and forget them; numbers never given away have an empty name."""
        listed = [""] * (SHARDS * max(map(len, self._shards)))
        for place, shard in enumerate(self._shards):
            listed[place::SHARDS] = [*shard, *[""] * (len(listed) // SHARDS - len(shard))]
            shard.clear()
        return listed


def fit_all(
    examples: Sequence[Pair],
    *,
    seed: int,
    match: Callable[[JsonValue, JsonValue], bool] | None,
    stopped: Callable[[], bool],
) -> tuple[_format.Contents, tuple[Verdict, ...]]:
    """Return the contents of a classifier of all examples, and verdicts by ones that each missed a part."""
    rows = number(examples)
    held = held_out(rows, seed=seed, stopped=stopped)
    familiar = _familiar([share for _, _, share in held.values()])
    verdicts = tuple(
        Verdict(
            lead if share >= familiar else -math.inf,
            bool(label == rows.labels[row])
            or (match is not None and match(rows.outputs[label], rows.outputs[rows.labels[row]])),
            int(row),
        )
        for row, (label, lead, share) in held.items()
    )
    fitted = fit(rows, np.arange(len(rows.labels)), seed)
    header: dict[str, Any] = {
        "kind": "local",
        "fields": rows.fields,
        "familiar": familiar,
        "threshold": 0.0,
        "outputs": [rows.outputs[label] for label in fitted.classes],
        "withheld": [],
    }
    names: dict[str, list[str]] = {}
    arrays = {"offsets": fitted.offsets}
    for name, block, kept, table in zip(BLOCKS, rows.blocks, fitted.kept, fitted.tables, strict=True):
        names[name] = [block.names[place] for place in np.flatnonzero(kept)]
        arrays[name] = table
        while block.names:  # freeing a million names at once would hold up all other threads
            del block.names[-FREED_TOGETHER:]
    return _format.Contents(header, names, arrays), verdicts


def number(examples: Sequence[Pair]) -> Rows:
    """Take all inputs apart and count what they are made of."""
    from tanuki_async.students.local import Unlearnable, label_of

    outputs = {label_of(output): output for _, output in examples}
    if len(outputs) < 2:
        raise Unlearnable(f"all {len(examples)} recorded answers are the same; there is nothing to tell apart")
    places = {label: place for place, label in enumerate(sorted(outputs))}
    fields = list(dict.fromkeys(chain.from_iterable(inputs for inputs, _ in examples)))
    names = tuple(Index() for _ in BLOCKS)
    found = tuple(list[Array]() for _ in BLOCKS)  # three long lists: many small ones would keep the collector busy
    groups: dict[bytes, int] = {}
    group = np.empty(len(examples), dtype=int)
    for row, (inputs, _) in enumerate(examples):
        for store, numbers in zip(found, _numbers(inputs, fields, names), strict=True):
            store.append(numbers)
        group[row] = groups.setdefault(likeness(inputs), len(groups))
    latest = np.empty(len(groups), dtype=int)
    latest[group] = np.arange(len(examples))
    if len(groups) < FOLDS:
        raise Unlearnable(f"only {len(groups)} inputs are really different; at least {FOLDS} are needed")
    return Rows(
        blocks=tuple(_block(index, ids) for index, ids in zip(names, found, strict=True)),
        labels=np.array([places[label_of(output)] for _, output in examples]),
        outputs=[outputs[label] for label in places],
        group=group,
        latest=latest,
        fields=fields,
        most=min(MOST_FEATURES, int(0.7 * _format.LARGEST) // (4 * (len(outputs) + 1) + 24)) // len(BLOCKS),
        least=2 if len(examples) >= MANY_ROWS else 1,
    )


def _numbers(inputs: Mapping[str, JsonValue], fields: Sequence[str], names: tuple[Index, ...]) -> tuple[Array, ...]:
    texts, phrases = texts_and_values(inputs, fields)
    words, letters = list[str](), dict[str, None]()
    for prefix, text in texts:
        written = words_of(text)
        forms = plain(written)
        words += [prefix + form for form in forms]
        phrases += phrases_of(written, forms, prefix)
        for form in spelled(forms):
            letters.update(dict.fromkeys(letters_of(form, prefix)))
    return tuple(index.numbers(its) for index, its in zip(names, (words, phrases, list(letters)), strict=True))


def _block(index: Index, ids: Sequence[Array]) -> Block:
    names = index.names()
    ends = np.cumsum([0, *map(len, ids)])
    columns = np.concatenate(ids)
    matrix = sp.csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(ids), len(names)))
    matrix.sum_duplicates()
    return Block(names, matrix)


def held_out(rows: Rows, *, seed: int, stopped: Callable[[], bool]) -> dict[int, tuple[int, float, float]]:
    """Ask about one row of each group, by a classifier that saw no row of it: label, lead, share of known words."""
    from tanuki_async.students.local import Unlearnable

    folds = FOLDS if len(rows.labels) < MANY_ROWS else FEWER_FOLDS
    of_group = _fold_of_groups(rows, folds, seed)
    of_row = of_group[rows.group]
    answers: dict[int, tuple[int, float, float]] = {}
    needed = math.ceil(ENOUGH_HELD_OUT * folds / len(rows.latest))
    for fold in range(min(folds, max(needed, 1))):
        if stopped():
            raise Unlearnable("the training was stopped")
        seen = np.flatnonzero(of_row != fold)
        asked = rows.latest[of_group == fold]
        if not len(asked) or len(set(rows.labels[seen].tolist())) < 2:
            continue
        fitted = fit(rows, seen, seed)
        scores = _scores(rows, fitted, asked)
        best = scores.argmax(axis=1)
        top = np.sort(scores, axis=1)[:, -2:]
        shares = _known(rows, fitted, asked)
        leads = (top[:, 1] - top[:, 0]).tolist()
        answers.update(zip(asked.tolist(), zip(fitted.classes[best].tolist(), leads, shares, strict=True), strict=True))
    if not answers:
        raise Unlearnable("too few of the recorded answers differ; almost all are the same")
    return answers


def _fold_of_groups(rows: Rows, folds: int, seed: int) -> Array:
    """Deal groups out at random, so that each fold gets its share of every label."""
    order = np.random.default_rng(seed).permutation(len(rows.latest))
    order = order[np.argsort(rows.labels[rows.latest][order], kind="stable")]
    fold_of = np.empty(len(order), dtype=int)
    fold_of[order] = np.arange(len(order)) % folds
    return fold_of


def fit(rows: Rows, chosen: Array, seed: int) -> Fitted:
    """Fit one linear support vector machine per label, each over all blocks.

    Before fitting, features are stretched by how much more often they go with the label than without it, a quarter of
    the way (after Wang and Manning, Baselines and Bigrams, 2012); the tables have that and the rarities worked in.
    """
    chosen = _affordable(rows, chosen, seed)
    kepts: list[Array] = []
    rarities: list[Array] = []
    parts: list[Array] = []
    for block in rows.blocks:
        matrix = block.rows[chosen]
        counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
        kept = _kept(counts, rows)
        rarity = np.log((1.0 + len(chosen)) / (1.0 + counts[kept])) + 1.0
        parts.append(_unit(matrix[:, kept], rarity))
        kepts.append(kept)
        rarities.append(rarity)
    together = sp.hstack(parts).tocsr()
    classes, weights, offsets = _machines(together, rows.labels[chosen], seed)
    rarity = np.concatenate(rarities)
    table = np.vstack([weights * rarity, rarity**2]).T.astype(np.float32)
    ends = np.cumsum([len(each) for each in rarities])[:-1]
    return Fitted(tuple(kepts), tuple(np.split(table, ends)), offsets.astype(np.float32), classes)


def _affordable(rows: Rows, chosen: Array, seed: int) -> Array:
    entries = sum(np.diff(block.rows.indptr)[chosen].sum() for block in rows.blocks)
    if entries <= MOST_ENTRIES:
        return chosen
    part = np.random.default_rng(seed).permutation(chosen)[: int(len(chosen) * MOST_ENTRIES / entries)]
    return np.sort(part)


def _machines(matrix: Array, labels: Array, seed: int) -> tuple[Array, Array, Array]:
    """Return labels, one row of weights for each, and offsets. Of two labels, one machine tells both."""
    classes, counts = np.unique(labels, return_counts=True)
    common = classes[counts > 1] if (counts > 1).sum() > 1 else classes
    weights: list[Array] = []
    offsets: list[float] = []
    for label in common[-1:] if len(common) == 2 else common:
        mine = labels == label
        stretch = _stretch(matrix, mine)
        stretched = sp.csr_matrix((matrix.data * stretch[matrix.indices], matrix.indices, matrix.indptr), matrix.shape)
        machine = LinearSVC(C=PENALTY, random_state=seed % 2**31, max_iter=5000).fit(stretched, mine)
        weights.append(machine.coef_[0] * stretch)
        offsets.append(float(machine.intercept_[0]))
    if len(common) == 2:
        weights, offsets = [-weights[0], weights[0]], [-offsets[0], offsets[0]]
    return common, np.array(weights), np.array(offsets)


def _stretch(matrix: Array, mine: Array) -> Array:
    """Return how much each feature tells for or against a label; 1 on average."""
    of_mine = np.repeat(mine, np.diff(matrix.indptr))
    inside = np.bincount(matrix.indices, weights=matrix.data * of_mine, minlength=matrix.shape[1]) + SMOOTH
    outside = np.bincount(matrix.indices, weights=matrix.data * ~of_mine, minlength=matrix.shape[1]) + SMOOTH
    told = np.abs(np.log(inside / inside.sum()) - np.log(outside / outside.sum()))
    return STRETCH * told / max(float(told.mean()), 1e-12) + (1.0 - STRETCH)


def _kept(counts: Array, rows: Rows) -> Array:
    kept = counts >= rows.least
    if kept.sum() > rows.most:
        kept &= counts >= np.sort(counts)[-rows.most]
        surplus = int(kept.sum()) - rows.most
        if surplus > 0:
            kept[np.flatnonzero(kept & (counts == counts[kept].min()))[-surplus:]] = False
    return kept


def _often(matrix: Array) -> Array:
    """Let the second time count less than the first."""
    return sp.csr_matrix((1.0 + np.log(matrix.data), matrix.indices, matrix.indptr), matrix.shape)


def _unit(matrix: Array, rarity: Array) -> Array:
    """Weigh features by rarity and bring each row to length one."""
    weighted = _often(matrix)
    weighted.data *= rarity[weighted.indices]
    lengths = np.sqrt(np.bincount(_row_of(weighted), weights=weighted.data**2, minlength=weighted.shape[0]))
    weighted.data /= lengths[_row_of(weighted)]
    return weighted


def _row_of(matrix: Array) -> Array:
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _scores(rows: Rows, fitted: Fitted, asked: Array) -> Array:
    scores = np.tile(fitted.offsets.astype(float), (len(asked), 1))
    for block, kept, table in zip(rows.blocks, fitted.kept, fitted.tables, strict=True):
        often = _often(block.rows[asked][:, kept])
        lengths = np.sqrt(often.multiply(often) @ table[:, -1].astype(float))
        scores += (often @ table[:, :-1].astype(float)) / np.maximum(lengths, 1e-12)[:, None]
    return scores


def _known(rows: Rows, fitted: Fitted, asked: Array) -> list[float]:
    """Return for each row the share of its words that the classifier knows; below zero if it knows nothing of it."""
    words, phrases = (rows.blocks[place].rows[asked] for place in (0, 1))
    known = words @ fitted.kept[0].astype(float)
    total = np.asarray(words.sum(axis=1)).ravel()
    nothing = known + phrases @ fitted.kept[1].astype(float) == 0
    shares = np.where(total > 0, known / np.maximum(total, 1.0), 1.0)
    result: list[float] = np.where(nothing, -1.0, shares).tolist()
    return result


def _familiar(shares: Sequence[float]) -> float:
    """Return the share of known words below which an input is too foreign to answer."""
    return max(0.0, float(np.quantile(np.array(shares), UNFAMILIAR)))
