"""Recorded examples, read back as lessons: one per input, the later answer wins."""

from __future__ import annotations

import json
import logging

from tanuki_async._distill.course import Lesson
from tanuki_async._distill.state import Task
from tanuki_async._errors import StorageError
from tanuki_async._lines import decode_line
from tanuki_async._records import Example
from tanuki_async.abc import Storage

logger = logging.getLogger("tanuki_async.distill")

PATCHES = "PATCHES"
ALIGNMENTS = "SYMBOLIC_ALIGNMENTS"
PAIRS = ("POSITIVE_EMBEDDABLE_ALIGNMENTS", "NEGATIVE_EMBEDDABLE_ALIGNMENTS")
"""What a function that embeds learns from."""


def datasets(task: Task) -> tuple[str, ...]:
    """Return the names of the datasets that `task` learns from."""
    return (PATCHES, ALIGNMENTS) if task.embed is None else PAIRS


async def count(storage: Storage, task: Task) -> int:
    """Return how many examples `task` has; an input that is both called and aligned counts twice."""
    return sum([await storage.count(f"{task.hash}/{name}") for name in datasets(task)])


async def gather(storage: Storage, task: Task) -> list[Lesson]:
    """Read all lessons, aligned ones first. An aligned answer wins over a recorded one, a later over an earlier."""
    if task.embed is not None:
        return await _pairs(storage, task)
    aligned = await _read(storage, f"{task.hash}/{ALIGNMENTS}")
    called = await _read(storage, f"{task.hash}/{PATCHES}")
    lessons = [_lesson(task, example, aligned=True) for example in aligned.values()]
    lessons += [_lesson(task, example, aligned=False) for key, example in called.items() if key not in aligned]
    return lessons


async def _pairs(storage: Storage, task: Task) -> list[Lesson]:
    """Read the pairs, whichever side of each comes first. Where one was said to be both, the later word counts."""
    latest: dict[frozenset[str], Example] = {}
    contrary = 0
    for name in PAIRS:
        for example in (await _read(storage, f"{task.hash}/{name}")).values():
            sides = frozenset(map(json.dumps, example.args))
            known = latest.get(sides)
            contrary += known is not None and known.output != example.output
            if len(sides) == 2 and (known is None or known.at <= example.at):
                latest[sides] = example
    if contrary:
        logger.warning("%s: %d pairs were aligned as alike and as not; the later word counts", task.name, contrary)
    return [_lesson(task, example, aligned=True) for example in sorted(latest.values(), key=lambda each: each.at)]


def _lesson(task: Task, example: Example, *, aligned: bool) -> Lesson:
    return Lesson(task.inputs_of(example.args, example.kwargs), example.output, example, aligned)


async def _read(storage: Storage, name: str) -> dict[str, Example]:
    latest: dict[str, Example] = {}
    unreadable = 0
    async for lines in storage.scan(name):
        for line in lines:
            try:
                example = decode_line(line)
            except StorageError:
                unreadable += 1
                continue
            latest[json.dumps([example.args, dict(example.kwargs)])] = example
    if unreadable:
        logger.warning("%s: left out %d lines that are no records of this release", name, unreadable)
    return latest
