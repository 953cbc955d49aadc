"""Fits the local student with scikit-learn and asks it about inputs that it has not seen; only this file needs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from random import Random
from typing import Any, TypeAlias

from tanuki_async._errors import SettingsError
from tanuki_async._records import JsonValue
from tanuki_async.students import Verdict, _format
from tanuki_async.students._features import (
    LETTERED_WORDS,
    features_of,
    letters_of,
    likeness,
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
MANY_ROWS = 3000
"""Rows from which five folds and features seen twice are enough."""
MOST_FEATURES = 150_000
PENALTY = 1.0  # C of the support vector machine
UNFAMILIAR = 0.01
"""Share of held-out inputs that may be turned away because few of their words are known."""


@dataclass(frozen=True, slots=True)
class Block:
    """Which features each row has, over all features found, and their names."""

    names: list[str]
    rows: Array


@dataclass(frozen=True, slots=True)
class Fitted:
    """One classifier: per block its kept features and their table, and what is added to all."""

    kept: tuple[Array, Array]
    tables: tuple[Array, Array]
    offsets: Array
    classes: Array


@dataclass(frozen=True, slots=True)
class Rows:
    """The examples as numbers."""

    blocks: tuple[Block, Block]
    plain: Array  # how often each row has each word itself
    labels: Array
    outputs: list[JsonValue]
    groups: list[list[int]]  # rows with like inputs; the last is the latest
    fields: list[str]
    most: int  # features kept per block, so that the parameters stay small
    least: int  # rows a feature must be in


class Index(dict[str, int]):
    """Numbers names in the order in which they are first asked for."""

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self)
        return number


def fit_all(
    examples: Sequence[Pair],
    *,
    seed: int,
    match: Callable[[JsonValue, JsonValue], bool] | None,
    stopped: Callable[[], bool],
) -> tuple[dict[str, Any], dict[str, Array], tuple[Verdict, ...]]:
    """Return header and arrays of a classifier of all examples, and verdicts by ones that each missed a part."""
    rows = number(examples)
    held = held_out(rows, seed=seed, stopped=stopped)
    familiar = _familiar([share for _, _, share in held.values()])
    verdicts = tuple(
        Verdict(
            lead if share >= familiar else -math.inf,
            bool(label == rows.labels[row])
            or (match is not None and match(rows.outputs[label], rows.outputs[rows.labels[row]])),
        )
        for row, (label, lead, share) in held.items()
    )
    fitted = fit(rows, np.arange(len(rows.labels)), seed)
    words, letters = (
        [block.names[place] for place in np.flatnonzero(kept)]
        for block, kept in zip(rows.blocks, fitted.kept, strict=True)
    )
    header: dict[str, Any] = {
        "kind": "local",
        "fields": rows.fields,
        "familiar": familiar,
        "threshold": 0.0,
        "outputs": [rows.outputs[label] for label in fitted.classes],
        "withheld": [],
        "words": words,
        "letters": letters,
    }
    arrays = {"words": fitted.tables[0], "letters": fitted.tables[1], "offsets": fitted.offsets}
    return header, arrays, verdicts


def number(examples: Sequence[Pair]) -> Rows:
    """Take all inputs apart and count what they are made of."""
    from tanuki_async.students.local import Unlearnable, label_of

    outputs = {label_of(output): output for _, output in examples}
    if len(outputs) < 2:
        raise Unlearnable(f"all {len(examples)} recorded answers are the same; there is nothing to tell apart")
    places = {label: place for place, label in enumerate(sorted(outputs))}
    fields = list(dict.fromkeys(chain.from_iterable(inputs for inputs, _ in examples)))
    words, letters = Index(), Index()
    found: tuple[list[list[int]], list[list[int]], list[list[int]]] = ([], [], [])
    groups: dict[bytes, list[int]] = {}
    for row, (inputs, _) in enumerate(examples):
        for store, ids in zip(found, _numbers(inputs, fields, words, letters), strict=True):
            store.append(ids)
        groups.setdefault(likeness(inputs), []).append(row)
    if len(groups) < FOLDS:
        raise Unlearnable(f"only {len(groups)} inputs are really different; at least {FOLDS} are needed")
    return Rows(
        blocks=(
            Block(list(words), _matrix(found[0], len(words))),
            Block(list(letters), _matrix(found[1], len(letters))),
        ),
        plain=_matrix(found[2], len(words)),
        labels=np.array([places[label_of(output)] for _, output in examples]),
        outputs=[outputs[label] for label in places],
        groups=list(groups.values()),
        fields=fields,
        most=min(MOST_FEATURES, int(0.7 * _format.LARGEST) // (4 * (len(outputs) + 1) + 24)) // 2,
        least=2 if len(examples) >= MANY_ROWS else 1,
    )


def _numbers(
    inputs: Mapping[str, JsonValue], fields: Sequence[str], words: Index, letters: Index
) -> tuple[list[int], list[int], list[int]]:
    texts, values = texts_and_values(inputs, fields)
    features, spelled = set(values), set[str]()
    plain: list[int] = []
    for prefix, text in texts:
        found = words_of(text)
        features.update(features_of(found, prefix))
        plain += [words[prefix + word] for word in found]
        for word in list(dict.fromkeys(found))[:LETTERED_WORDS]:
            spelled.update(letters_of(word, prefix))
    return sorted(map(words.__getitem__, features)), sorted(map(letters.__getitem__, spelled)), plain


def _matrix(ids: Sequence[Sequence[int]], width: int) -> Array:
    """Make a sparse matrix of ones; what stands twice in a row adds up."""
    ends = np.cumsum([0, *map(len, ids)])
    columns = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(ends[-1]))
    matrix = sp.csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(ids), width))
    matrix.sum_duplicates()
    return matrix


def held_out(rows: Rows, *, seed: int, stopped: Callable[[], bool]) -> dict[int, tuple[int, float, float]]:
    """Ask about one row of each group, by a classifier that saw no row of it: label, lead, share of known words."""
    from tanuki_async.students.local import Unlearnable

    folds = FOLDS if len(rows.labels) < MANY_ROWS else FEWER_FOLDS
    of_group = _fold_of_groups(rows, folds, seed)
    of_row = np.empty(len(rows.labels), dtype=int)
    for group, fold in zip(rows.groups, of_group, strict=True):
        of_row[group] = fold
    answers: dict[int, tuple[int, float, float]] = {}
    for fold in range(folds):
        if stopped():
            raise Unlearnable("the training was stopped")
        seen = np.flatnonzero(of_row != fold)
        asked = np.array([group[-1] for group, its in zip(rows.groups, of_group, strict=True) if its == fold])
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


def _fold_of_groups(rows: Rows, folds: int, seed: int) -> list[int]:
    """Deal groups out at random, so that each fold gets its share of every label."""
    random = Random(seed)
    order = list(range(len(rows.groups)))
    random.shuffle(order)
    order.sort(key=lambda group: int(rows.labels[rows.groups[group][-1]]))
    fold_of = [0] * len(order)
    for place, group in enumerate(order):
        fold_of[group] = place % folds
    return fold_of


def fit(rows: Rows, chosen: Array, seed: int) -> Fitted:
    """Fit a linear support vector machine over both blocks, each weighted by rarity and brought to length one."""
    parts: list[Array] = []
    kepts: list[Array] = []
    rarities: list[Array] = []
    for block in rows.blocks:
        matrix = block.rows[chosen]
        counts = np.asarray(matrix.sum(axis=0)).ravel()
        kept = _kept(counts, rows)
        rarity = np.log((1.0 + len(chosen)) / (1.0 + counts[kept])) + 1.0
        parts.append(_unit(matrix[:, kept], rarity))
        kepts.append(kept)
        rarities.append(rarity)
    machine = LinearSVC(C=PENALTY, random_state=seed % 2**31, max_iter=5000)
    machine.fit(sp.hstack(parts).tocsr(), rows.labels[chosen])
    weights, offsets = machine.coef_, machine.intercept_
    if len(machine.classes_) == 2:
        weights, offsets = np.vstack([-weights, weights]), np.concatenate([-offsets, offsets])
    tables: list[Array] = []
    start = 0
    for rarity in rarities:
        its = weights[:, start : start + len(rarity)]
        tables.append(np.vstack([its * rarity, rarity**2]).T.astype(np.float32))
        start += len(rarity)
    return Fitted((kepts[0], kepts[1]), (tables[0], tables[1]), offsets.astype(np.float32), machine.classes_)


def _kept(counts: Array, rows: Rows) -> Array:
    kept = counts >= rows.least
    if kept.sum() > rows.most:
        kept &= counts >= np.sort(counts)[-rows.most]
        surplus = int(kept.sum()) - rows.most
        if surplus > 0:
            kept[np.flatnonzero(kept & (counts == counts[kept].min()))[-surplus:]] = False
    return kept


def _unit(matrix: Array, rarity: Array) -> Array:
    weighted = matrix @ sp.diags(rarity)
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return sp.diags(1.0 / np.maximum(lengths, 1e-12)) @ weighted


def _scores(rows: Rows, fitted: Fitted, asked: Array) -> Array:
    scores = np.tile(fitted.offsets.astype(float), (len(asked), 1))
    for block, kept, table in zip(rows.blocks, fitted.kept, fitted.tables, strict=True):
        total = block.rows[asked][:, kept] @ table.astype(float)
        scores += total[:, :-1] / np.sqrt(np.maximum(total[:, -1:], 1e-12))
    return scores


def _known(rows: Rows, fitted: Fitted, asked: Array) -> list[float]:
    """Return for each row the share of its words that the classifier knows; below zero if it knows nothing of it."""
    plain = rows.plain[asked]
    known = plain @ fitted.kept[0].astype(float)
    total = np.asarray(plain.sum(axis=1)).ravel()
    anything = np.asarray(rows.blocks[0].rows[asked][:, fitted.kept[0]].sum(axis=1)).ravel()
    shares = np.where(total > 0, known / np.maximum(total, 1.0), 1.0)
    result: list[float] = np.where(anything > 0, shares, -1.0).tolist()
    return result


def _familiar(shares: Sequence[float]) -> float:
    """Return the share of known words below which an input is too foreign to answer."""
    return max(0.0, float(np.quantile(np.array(shares), UNFAMILIAR)))
