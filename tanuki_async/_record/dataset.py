"""Examples as lines under a function's hash: which data sets there are, and how they are read."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Literal, TypeAlias

from tanuki_async._errors import StorageError
from tanuki_async._lines import decode_line
from tanuki_async._records import Example
from tanuki_async.abc import Storage

__all__ = [
    "DATASETS",
    "NEGATIVE_EMBEDDABLE_ALIGNMENTS",
    "PATCHES",
    "POSITIVE_EMBEDDABLE_ALIGNMENTS",
    "SYMBOLIC_ALIGNMENTS",
    "Dataset",
    "latest",
    "name_of",
    "read",
]

Dataset: TypeAlias = Literal[
    "PATCHES", "SYMBOLIC_ALIGNMENTS", "POSITIVE_EMBEDDABLE_ALIGNMENTS", "NEGATIVE_EMBEDDABLE_ALIGNMENTS"
]
PATCHES: Literal["PATCHES"] = "PATCHES"
SYMBOLIC_ALIGNMENTS: Literal["SYMBOLIC_ALIGNMENTS"] = "SYMBOLIC_ALIGNMENTS"
POSITIVE_EMBEDDABLE_ALIGNMENTS: Literal["POSITIVE_EMBEDDABLE_ALIGNMENTS"] = "POSITIVE_EMBEDDABLE_ALIGNMENTS"
NEGATIVE_EMBEDDABLE_ALIGNMENTS: Literal["NEGATIVE_EMBEDDABLE_ALIGNMENTS"] = "NEGATIVE_EMBEDDABLE_ALIGNMENTS"
DATASETS: tuple[Dataset, ...] = (
    PATCHES,
    SYMBOLIC_ALIGNMENTS,
    POSITIVE_EMBEDDABLE_ALIGNMENTS,
    NEGATIVE_EMBEDDABLE_ALIGNMENTS,
)

_FEW, _SHORT = 64, 256 * 1024  # lines, and bytes of them, that are decoded on the loop: quicker than asking a thread
logger = logging.getLogger("tanuki_async.record")


def name_of(hash: str, dataset: Dataset) -> str:  # noqa: A002 — the word of the contract
    """Return the name under which a storage keeps this data set of this function."""
    return f"{hash}/{dataset}"


async def read(storage: Storage, hash: str, dataset: Dataset, *, start: int = 0) -> AsyncIterator[list[Example]]:  # noqa: A002
    """Read a data set in batches, in the order of writing, leaving out the first `start` lines.

    A line that cannot be read (damaged, or written by a newer release) is left out, with one warning per reading.
    """
    name, unread = name_of(hash, dataset), 0
    async for lines in storage.scan(name, start=start):
        few = len(lines) <= _FEW and sum(map(len, lines)) <= _SHORT  # images make lines long
        examples, complaint = _decode(lines) if few else await asyncio.to_thread(_decode, lines)
        if complaint and not unread:
            logger.warning("a line of %s is left out, and maybe others: %s", name, complaint)
        unread += len(lines) - len(examples)
        if examples:
            yield examples


def latest(examples: Iterable[Example]) -> list[Example]:
    """Keep, for each input, the example that came last, in the order of these."""
    newest: dict[str, Example] = {}
    for example in examples:
        question = json.dumps((example.args, dict(example.kwargs)))
        newest.pop(question, None)
        newest[question] = example
    return list(newest.values())


def _decode(lines: Sequence[bytes]) -> tuple[list[Example], StorageError | None]:
    examples: list[Example] = []
    complaint: StorageError | None = None
    for line in lines:
        try:
            examples.append(decode_line(line))
        except StorageError as error:
            complaint = error
    return examples, complaint
