"""Examples carried to a function: from the files of Tanuki.py, or from the data of another function."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tanuki_async._cards import put_card
from tanuki_async._clock import SYSTEM_CLOCK, Clock
from tanuki_async._errors import StorageError
from tanuki_async._function import PatchedFunction
from tanuki_async._keeping import original
from tanuki_async._keeping.fitting import MisfitError, Names, fit_example
from tanuki_async._lines import decode_line, key_of
from tanuki_async._record import dataset
from tanuki_async._redact import redaction
from tanuki_async.abc import Storage

__all__ = ["Carried", "Misfit", "adopt", "import_from"]

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Misfit:
    """A line that was left out, or with line 0 a whole file."""

    place: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.place}:{self.line}: {self.reason}" if self.line else f"{self.place}: {self.reason}"


@dataclass(slots=True)
class Carried:
    """What became of the lines of one source. `function` is where they went; None: nowhere."""

    source: str
    function: str | None
    hash: str | None
    added: Counter[str] = field(default_factory=Counter[str])
    there: Counter[str] = field(default_factory=Counter[str])
    misfits: list[Misfit] = field(default_factory=list[Misfit])


async def import_from(
    directory: Path,
    storage: Storage,
    functions: Mapping[str, PatchedFunction],
    *,
    told: Mapping[str, str],
    clock: Clock = SYSTEM_CLOCK,
) -> AsyncIterator[Carried]:
    """Carry over all that Tanuki.py kept, source by source. `told` names the functions of sources that need it."""
    for source in await asyncio.to_thread(original.sources, directory):
        name, why = await asyncio.to_thread(_named, source, functions, told)
        if name is None:
            files = [Misfit(str(path), 0, why) for path in source.files.values()]
            yield Carried(source.name, None, None, misfits=files)
            continue
        spec = functions[name].spec
        carried = Carried(source.name, name, spec.hash)
        await put_card(storage, spec, clock)
        await _import(source, storage, functions[name], carried)
        yield carried


def _named(
    source: original.Source, functions: Mapping[str, PatchedFunction], told: Mapping[str, str]
) -> tuple[str | None, str]:
    if source.name in told:
        return original.named(told[source.name], functions), ""
    return original.assign(source, functions)


async def _import(source: original.Source, storage: Storage, function: PatchedFunction, carried: Carried) -> None:
    reading = original.lines(source, function.spec)
    redacted = redaction(function.spec, function.options.redact, None)
    while batch := await asyncio.to_thread(_some, reading):
        kept: dict[dataset.Dataset, list[bytes]] = {}
        for line in batch:
            if line.record is None:
                carried.misfits.append(Misfit(str(line.file), line.number, line.reason))
            elif record := line.record if redacted is None else redacted.line(line.record):
                kept.setdefault(original.dataset_of(line.file), []).append(record)
        for each, records in kept.items():
            await _add(storage, function.spec.hash, each, records, carried)


def _some(reading: Iterator[original.Line]) -> list[original.Line]:
    return list(itertools.islice(reading, _BATCH))


async def adopt(
    storage: Storage, old: str, new: str, *, names: Names | None, function: PatchedFunction | None
) -> Carried:
    """Carry the examples of hash `old` over to hash `new`; what is there already, or does not fit, is left out.

    Without `function` nobody can tell what fits, and all is carried as it is.
    """
    carried = Carried(old, function.spec.qualname if function else None, new)
    for each in dataset.DATASETS:
        number = 0
        async for lines in storage.scan(dataset.name_of(old, each)):
            kept: list[bytes] = []
            for line in lines:
                number += 1
                try:
                    kept.append(_refitted(line, each, names, function))
                except (StorageError, MisfitError) as error:
                    carried.misfits.append(Misfit(dataset.name_of(old, each), number, " ".join(str(error).split())))
            if kept:
                await _add(storage, new, each, kept, carried)
    return carried


def _refitted(line: bytes, each: dataset.Dataset, names: Names | None, function: PatchedFunction | None) -> bytes:
    example = decode_line(line)
    if function is None or each in (dataset.POSITIVE_EMBEDDABLE_ALIGNMENTS, dataset.NEGATIVE_EMBEDDABLE_ALIGNMENTS):
        return line
    return fit_example(function.spec, example, names)


async def _add(
    storage: Storage, function_hash: str, each: dataset.Dataset, records: Sequence[bytes], carried: Carried
) -> None:
    """Append what is not there. Aligned examples are few, and compared exactly with all there are."""
    name = dataset.name_of(function_hash, each)
    fresh = list(records)
    if each != dataset.PATCHES:
        there = {key_of(line) async for lines in storage.scan(name) for line in lines}
        fresh = list({key_of(line): line for line in records if key_of(line) not in there}.values())
    written = (await storage.append(name, fresh, latest=each != dataset.PATCHES)).written if fresh else 0
    carried.added[each] += written
    carried.there[each] += len(records) - written
