"""A classifier in this process: learns closed answers from recorded inputs, answers in well under a millisecond."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from tanuki_async._errors import StorageError
from tanuki_async._lines import compact
from tanuki_async._records import JsonValue
from tanuki_async.abc import ABSTAIN, Abstention, Student
from tanuki_async.students import BLOCKS, Verdict
from tanuki_async.students._features import (
    CACHED_WORDS,
    digest_of,
    letters_of,
    phrases_of,
    plain,
    spelled,
    texts_and_values,
    words_of,
)
from tanuki_async.students._format import Contents, pack, unpack

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

__all__ = ["LocalStudent", "Trained", "Unlearnable", "Verdict", "label_of", "train"]

KIND = "local"
Pair: TypeAlias = tuple[Mapping[str, JsonValue], JsonValue]
Match: TypeAlias = Callable[[JsonValue, JsonValue], bool]


class Unlearnable(Exception):  # noqa: N818  # no error: a normal outcome with its reason
    """These examples cannot teach a classifier; the message says why."""


def label_of(output: JsonValue) -> bytes:
    """Write an output so that equal values are equal bytes. A list is a set's: its order says nothing."""
    if isinstance(output, list):
        return b"[" + b",".join(sorted(map(compact, output))) + b"]"
    return compact(output)


class LocalStudent(Student):
    """Answers with the label of the largest score, if it leads the second by the threshold and the input is familiar.

    Holds plain dictionaries and arrays; safe to use from several threads and event loops.
    """

    def __init__(self, contents: Contents) -> None:
        import numpy as np

        header, arrays = contents.header, contents.arrays
        self._np = np
        self.threshold = float(header["threshold"])
        self._familiar = float(header["familiar"])
        self._fields: list[str] = list(header["fields"])
        self.outputs: list[JsonValue] = list(header["outputs"])
        self._rows = tuple({name: row for row, name in enumerate(contents.names[block])} for block in BLOCKS)
        self._tables = tuple(arrays[block] for block in BLOCKS)
        self._offsets = arrays["offsets"]
        self._withheld = frozenset(bytes.fromhex(digest) for digest in header["withheld"])
        self._spelled: dict[tuple[str, str], tuple[int, ...]] = {}
        columns = len(self.outputs) + 1  # the last one is the squared weight
        if (
            any(table.shape != (len(rows), columns) for rows, table in zip(self._rows, self._tables, strict=True))
            or self._offsets.shape != (len(self.outputs),)
            or len(self.outputs) < 2
            or math.isnan(self.threshold)
        ):
            raise ValueError("the arrays do not fit the header")

    @classmethod
    def load(cls, parameters: bytes) -> LocalStudent:
        """Read what `Trained.parameters` wrote. Runs no code from it; StorageError where it is malformed."""
        contents = unpack(parameters)
        try:
            if contents.header["kind"] != KIND:
                raise ValueError(f"a student of kind {contents.header['kind']!r}")
            return cls(contents)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"not the parameters of a local student: {error!r}") from error

    async def answer(self, inputs: Mapping[str, JsonValue]) -> JsonValue | Abstention:
        return self.answer_nowait(inputs)

    def answer_nowait(self, inputs: Mapping[str, JsonValue]) -> JsonValue | Abstention:
        """Answer one call, or abstain. Never waits."""
        label, lead = self.judge(inputs)
        if lead < self.threshold:
            return ABSTAIN
        if self._withheld and digest_of(inputs) in self._withheld:
            return ABSTAIN
        return self.outputs[label]

    def judge(self, inputs: Mapping[str, JsonValue]) -> tuple[int, float]:
        """Return which output fits best and by how much it leads; minus infinity for an unfamiliar input."""
        scores, familiar = self._scores(inputs)
        label = int(scores.argmax())
        if familiar < self._familiar:
            return label, -math.inf
        second, first = self._np.partition(scores, -2)[-2:].tolist()
        return label, first - second

    def _scores(self, inputs: Mapping[str, JsonValue]) -> tuple[NDArray[float32], float]:
        texts, values = texts_and_values(inputs, self._fields)
        words, phrases = list[str](), values
        letters: set[int] = set()
        for prefix, text in texts:
            written = words_of(text)
            forms = plain(written)
            words += [prefix + form for form in forms] if prefix else forms
            phrases += phrases_of(written, forms, prefix)
            letters.update(*[self._spell(prefix, form) for form in spelled(forms)])
        known = [row for row in map(self._rows[0].get, words) if row is not None]
        others = [row for row in map(self._rows[1].get, phrases) if row is not None]
        scores = self._offsets
        for table, rows in zip(self._tables, (known, others, list(letters)), strict=True):
            if rows:
                scores = scores + self._block(table, rows)
        if not known and not others:
            return scores, -1.0
        return scores, len(known) / len(words) if words else 1.0

    def _block(self, table: NDArray[float32], rows: list[int]) -> NDArray[float32]:
        chosen, counts = self._np.unique(self._np.array(rows), return_counts=True)
        often: NDArray[float32] = 1 + self._np.log(counts, dtype=self._np.float32)
        found = table.take(chosen, axis=0)
        total: NDArray[float32] = often @ found
        return total[:-1] / math.sqrt(float((often * often) @ found[:, -1]))

    def _spell(self, prefix: str, form: str) -> tuple[int, ...]:
        found = self._spelled.get((prefix, form))
        if found is None:
            if len(self._spelled) >= CACHED_WORDS:
                self._spelled.clear()
            rows = map(self._rows[2].get, letters_of(form, prefix))
            found = self._spelled[(prefix, form)] = tuple({row for row in rows if row is not None})
        return found


class Trained:
    """A classifier, and how it did on each group of like inputs when it had not seen them."""

    model = None
    tries = 1

    def __init__(
        self, contents: Contents, verdicts: tuple[Verdict, ...], aligned: Sequence[Pair], match: Match | None
    ) -> None:
        self.verdicts = verdicts
        self._contents, self._aligned, self._match = contents, aligned, match

    def parameters(self, threshold: float) -> bytes:
        """Write the student that answers where its lead is at least `threshold`.

        Aligned inputs that it would still get wrong are withheld from it: there the teacher answers.
        """
        header = {**self._contents.header, "threshold": threshold}
        contents = replace(self._contents, header=header)
        student = LocalStudent(contents)
        wrong: list[JsonValue] = []
        for inputs, output in self._aligned:
            answer = student.answer_nowait(inputs)
            if not isinstance(answer, Abstention) and not agrees(answer, output, self._match):
                wrong.append(digest_of(inputs).hex())
        return pack(replace(contents, header={**header, "withheld": wrong}))


def agrees(answer: JsonValue, wanted: JsonValue, match: Match | None) -> bool:
    """Tell whether a student's answer is as good as the teacher's."""
    return label_of(answer) == label_of(wanted) or (match is not None and match(answer, wanted))


def train(
    examples: Sequence[Pair],
    *,
    seed: int,
    match: Match | None = None,
    aligned: frozenset[int] = frozenset(),
    stopped: Callable[[], bool] = lambda: False,
) -> Trained:
    """Learn from inputs and outputs; every verdict is by a model that saw neither the input nor one like it.

    Blocks for seconds. `aligned` are the places of examples that must not be answered wrongly. `stopped` is asked
    between folds. Raises Unlearnable where no classifier can come of it, SettingsError without scikit-learn.
    """
    from tanuki_async.students._fitting import fit_all  # loads scikit-learn

    contents, verdicts = fit_all(examples, seed=seed, match=match, stopped=stopped)
    return Trained(contents, verdicts, [examples[place] for place in sorted(aligned)], match)
