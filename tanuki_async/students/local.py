"""A classifier in this process: learns closed answers from recorded inputs, answers in well under a millisecond."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from mmh3 import mmh3_x64_128_digest

from tanuki_async._errors import StorageError
from tanuki_async._lines import compact
from tanuki_async._records import JsonValue
from tanuki_async.abc import ABSTAIN, Abstention, Student
from tanuki_async.students import Verdict, _format
from tanuki_async.students._features import (
    CACHED_WORDS,
    LETTERED_WORDS,
    features_of,
    letters_of,
    texts_and_values,
    words_of,
)

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

__all__ = ["LocalStudent", "Trained", "Unlearnable", "Verdict", "label_of", "train"]

KIND = "local"


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

    def __init__(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[float32]]) -> None:
        import numpy as np

        self._np = np
        self.threshold = float(header["threshold"])
        self._familiar = float(header["familiar"])
        self._fields: list[str] = list(header["fields"])
        self.outputs: list[JsonValue] = list(header["outputs"])
        self._words: dict[str, int] = {feature: row for row, feature in enumerate(header["words"])}
        self._letters: dict[str, int] = {feature: row for row, feature in enumerate(header["letters"])}
        self._word_table, self._letter_table = arrays["words"], arrays["letters"]
        self._offsets = arrays["offsets"]
        self._withheld = frozenset(bytes.fromhex(digest) for digest in header["withheld"])
        self._spelled: dict[tuple[str, str], tuple[int, ...]] = {}
        columns = len(self.outputs) + 1  # the last one adds up the squared length
        if (
            self._word_table.shape != (len(self._words), columns)
            or self._letter_table.shape != (len(self._letters), columns)
            or self._offsets.shape != (len(self.outputs),)
            or len(self.outputs) < 2
            or math.isnan(self.threshold)
        ):
            raise ValueError("the arrays do not fit the header")

    @classmethod
    def load(cls, parameters: bytes) -> LocalStudent:
        """Read what `Trained.parameters` wrote. Runs no code from it; StorageError where it is malformed."""
        header, arrays = _format.unpack(parameters)
        try:
            if header["kind"] != KIND:
                raise ValueError(f"a student of kind {header['kind']!r}")
            return cls(header, arrays)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"not the parameters of a local student: {error!r}") from error

    async def answer(self, inputs: Mapping[str, JsonValue]) -> JsonValue | Abstention:
        return self.answer_nowait(inputs)

    def answer_nowait(self, inputs: Mapping[str, JsonValue]) -> JsonValue | Abstention:
        """Answer one call, or abstain. Never waits."""
        label, lead = self.judge(inputs)
        if lead < self.threshold:
            return ABSTAIN
        if self._withheld and mmh3_x64_128_digest(compact(dict(inputs))) in self._withheld:
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
        texts, features = texts_and_values(inputs, self._fields)
        rows: set[int | None] = set(map(self._words.get, features))
        spelled: list[tuple[int, ...]] = []
        known = asked = 0
        for prefix, text in texts:
            words = words_of(text)
            asked += len(words)
            known += sum(map(self._words.__contains__, [prefix + word for word in words] if prefix else words))
            rows.update(map(self._words.get, features_of(words, prefix)))
            spelled += [self._spell(prefix, word) for word in list(dict.fromkeys(words))[:LETTERED_WORDS]]
        rows.discard(None)
        if not rows:
            return self._offsets, -1.0
        scores = self._offsets + self._block(self._word_table, rows)
        if letters := set(chain.from_iterable(spelled)):
            scores = scores + self._block(self._letter_table, letters)
        return scores, known / asked if asked else 1.0

    def _block(self, table: NDArray[float32], rows: set[Any]) -> NDArray[float32]:
        chosen = self._np.fromiter(rows, dtype=self._np.intp, count=len(rows))
        chosen.sort()  # so that the same input always adds up in the same order
        total: NDArray[float32] = table.take(chosen, axis=0).sum(axis=0)
        total /= math.sqrt(total[-1])
        return total[:-1]

    def _spell(self, prefix: str, word: str) -> tuple[int, ...]:
        found = self._spelled.get((prefix, word))
        if found is None:
            if len(self._spelled) >= CACHED_WORDS:
                self._spelled.clear()
            rows = map(self._letters.get, letters_of(word, prefix))
            found = self._spelled[(prefix, word)] = tuple({row for row in rows if row is not None})
        return found


class Trained:
    """A classifier, and how it did on each group of like inputs when it had not seen them."""

    def __init__(
        self,
        header: dict[str, Any],
        arrays: dict[str, NDArray[float32]],
        verdicts: tuple[Verdict, ...],
        aligned: Sequence[tuple[Mapping[str, JsonValue], JsonValue]],
        match: Callable[[JsonValue, JsonValue], bool] | None,
    ) -> None:
        self.verdicts = verdicts
        self._header, self._arrays, self._aligned, self._match = header, arrays, aligned, match

    def parameters(self, threshold: float) -> bytes:
        """Write the student that answers where its lead is at least `threshold`.

        Aligned inputs that it would still get wrong are withheld from it: there the teacher answers.
        """
        header = {**self._header, "threshold": threshold}
        student = LocalStudent(header, self._arrays)
        wrong: list[JsonValue] = []
        for inputs, output in self._aligned:
            answer = student.answer_nowait(inputs)
            if not isinstance(answer, Abstention) and not agrees(answer, output, self._match):
                wrong.append(mmh3_x64_128_digest(compact(dict(inputs))).hex())
        return _format.pack({**header, "withheld": wrong}, self._arrays)


def agrees(answer: JsonValue, wanted: JsonValue, match: Callable[[JsonValue, JsonValue], bool] | None) -> bool:
    """Tell whether a student's answer is as good as the teacher's."""
    return label_of(answer) == label_of(wanted) or (match is not None and match(answer, wanted))


def train(
    examples: Sequence[tuple[Mapping[str, JsonValue], JsonValue]],
    *,
    seed: int,
    match: Callable[[JsonValue, JsonValue], bool] | None = None,
    aligned: frozenset[int] = frozenset(),
    stopped: Callable[[], bool] = lambda: False,
) -> Trained:
    """Learn from inputs and outputs; every verdict is by a model that saw neither the input nor one like it.

    Blocks for seconds. `aligned` are the places of examples that must not be answered wrongly. `stopped` is asked
    between folds. Raises Unlearnable where no classifier can come of it, SettingsError without scikit-learn.
    """
    from tanuki_async.students._fitting import fit_all  # loads scikit-learn

    header, arrays, verdicts = fit_all(examples, seed=seed, match=match, stopped=stopped)
    return Trained(header, arrays, verdicts, [examples[place] for place in sorted(aligned)], match)
