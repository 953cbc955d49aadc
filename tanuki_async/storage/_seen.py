"""What a name has already: a filter over its examples, or exactly the newest line of each input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from tanuki_async._bloom import Bloom
from tanuki_async._errors import StorageError
from tanuki_async._lines import arguments_key, key_of
from tanuki_async._turns import in_turns

__all__ = ["Counted", "Filter", "Fresh", "Index", "Newest", "question_of"]

Fresh: TypeAlias = tuple[list[bytes], Callable[[], object]]
"""Lines that should be added, and what takes them in, to be called once they are in the data."""


class Index(Protocol):
    """Something built from all lines of a name, in their order."""

    def feed(self, lines: Sequence[bytes]) -> None:
        """Take in lines that are in the data."""
        ...

    def fresh(self, lines: Sequence[bytes]) -> Fresh:
        """Find those that should be added, taking in nothing yet."""
        ...


class Filter:
    """Knows nearly exactly which examples are there."""

    def __init__(self, bloom: Bloom | None = None) -> None:
        self.bloom = bloom or Bloom()

    def feed(self, lines: Sequence[bytes]) -> None:
        for some in in_turns(lines):
            self.bloom.update(list(map(key_of, some)))

    def fresh(self, lines: Sequence[bytes]) -> Fresh:
        bloom, first = self.bloom, dict[bytes, bytes]()
        for some in in_turns(lines):
            for line in some:
                key = key_of(line)
                if key not in first and key not in bloom:
                    first[key] = line
        return list(first.values()), partial(self._take_in, list(first))

    def _take_in(self, keys: Sequence[bytes]) -> None:
        for some in in_turns(keys):
            self.bloom.update(some)


class Newest:
    """Knows exactly the newest answer for each input. For few lines: it holds two keys of each."""

    def __init__(self) -> None:
        self._answers: dict[bytes, bytes] = {}

    def feed(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self._answers[question_of(line)] = key_of(line)

    def fresh(self, lines: Sequence[bytes]) -> Fresh:
        trial: dict[bytes, bytes] = {}
        kept: list[bytes] = []
        for line in lines:
            question, example = question_of(line), key_of(line)
            if trial.get(question, self._answers.get(question)) != example:
                trial[question] = example
                kept.append(line)
        return kept, partial(self._answers.update, trial)


class Counted:
    """Knows nothing but, by its reader, how many lines there are."""

    def feed(self, lines: Sequence[bytes]) -> None:
        """Take in nothing."""

    def fresh(self, lines: Sequence[bytes]) -> Fresh:
        return list(lines), tuple


def question_of(line: bytes) -> bytes:
    """Return the key of a line's arguments, or for a line that is no record of ours, a key of the whole line."""
    try:
        return arguments_key(line)
    except (StorageError, ValueError):  # not a record of ours, or with NaN: a whole line is its own input
        return key_of(line)
