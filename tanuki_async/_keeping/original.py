"""Data that Tanuki.py wrote: found, read line by line, and fitted into the functions of a module."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic_core import from_json

from tanuki_async._clock import timestamp
from tanuki_async._codec.describe import FunctionSpec
from tanuki_async._errors import StorageError, UsageError, clip
from tanuki_async._function import PatchedFunction
from tanuki_async._keeping.fitting import MisfitError, line_of, pair_of
from tanuki_async._keeping.reprs import ReprError, read_repr
from tanuki_async._record import dataset

__all__ = ["Source", "assign", "lines", "sources"]

_DATASETS: Mapping[str, dataset.Dataset] = {
    ".patches": dataset.PATCHES,
    ".alignments": dataset.SYMBOLIC_ALIGNMENTS,
    ".positive": dataset.POSITIVE_EMBEDDABLE_ALIGNMENTS,
    ".negative": dataset.NEGATIVE_EMBEDDABLE_ALIGNMENTS,
}
_MOMENT = frozenset({"year", "month", "day", "hour", "minute", "second", "microsecond", "tzinfo"})
_TRIED = 200
"""Lines of each file by which the function that it belongs to is found."""


@dataclass(frozen=True, slots=True)
class Source:
    """All files that Tanuki.py wrote for one function, by data set. Their name is a hash that says nothing to us."""

    name: str
    files: dict[dataset.Dataset, Path] = field(default_factory=dict[dataset.Dataset, Path])


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file: what it became, or why nothing came of it."""

    file: Path
    number: int
    record: bytes | None
    reason: str = ""


def sources(directory: Path) -> list[Source]:
    """Find the data of Tanuki.py in a directory or below. StorageError where there is none."""
    if not directory.is_dir():
        raise StorageError(f"there is no directory {str(directory)!r}")
    found: dict[str, Source] = {}
    for path in sorted(directory.rglob("*")):
        if path.suffix in _DATASETS and path.is_file():
            found.setdefault(path.stem, Source(path.stem)).files[_DATASETS[path.suffix]] = path
    if not found:
        raise StorageError(
            f"there is nothing of Tanuki.py in {str(directory)!r}; it writes files such as <hash>.patches to "
            "$TANUKI_LOG_DIR/functions, by default below the user's data directory"
        )
    return list(found.values())


def assign(source: Source, functions: Mapping[str, PatchedFunction]) -> tuple[str | None, str]:
    """Return the name of the function whose types take most of a source's lines, or None and why none is.

    The files name no function, so a source that two functions take equally well is the user's to assign.
    """
    scores: dict[str, int] = {}
    for name, function in functions.items():
        scores[name] = sum(line.record is not None for line in lines(source, function.spec, most=_TRIED))
    best = max(scores.values(), default=0)
    if not best:
        return None, f"no line fits a function of the module ({', '.join(sorted(functions)) or 'it has none'})"
    fitting = [name for name, score in scores.items() if score == best]
    if len(fitting) > 1:
        return None, f"it fits {' and '.join(fitting)}; say which: --map {source.name}={fitting[0]}"
    return fitting[0], ""


def named(wanted: str, functions: Mapping[str, PatchedFunction]) -> str:
    """Return the qualified name of the function that a user calls `wanted`."""
    found = [name for name in functions if wanted in (name, name.rpartition(".")[2])]
    if len(found) != 1:
        raise UsageError(f"{wanted!r} is no function of the module; it has: {', '.join(sorted(functions)) or 'none'}")
    return found[0]


def lines(source: Source, spec: FunctionSpec, *, most: int | None = None) -> Iterator[Line]:
    """Read every line of a source, the aligned ones last, so that they win."""
    for each in sorted(source.files, key=dataset.DATASETS.index):
        path = source.files[each]
        at = timestamp(datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC))
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if most is not None and number > most:
                    break
                if text.strip():
                    yield _read(path, number, text, each, spec, at)


def dataset_of(path: Path) -> dataset.Dataset:
    """Return the data set that a file holds."""
    return _DATASETS[path.suffix]


def _read(path: Path, number: int, text: bytes, each: dataset.Dataset, spec: FunctionSpec, at: str) -> Line:
    try:
        return Line(path, number, _record(text.decode().strip(), each, spec, at))
    except UnicodeDecodeError as error:
        return Line(path, number, None, f"not UTF-8: {error.reason}")
    except (ReprError, MisfitError) as error:
        return Line(path, number, None, " ".join(str(error).split()))


def _record(text: str, each: dataset.Dataset, spec: FunctionSpec, at: str) -> bytes:
    value = _tidy(read_repr(text))
    if not isinstance(value, dict) or value.keys() != {"args", "kwargs", "output"}:
        raise ReprError("it is no record: it should be a dict of args, kwargs and output")
    record = cast("dict[str, Any]", value)
    args, kwargs, output = record["args"], record["kwargs"], record["output"]
    if not isinstance(args, tuple) or not isinstance(kwargs, dict):
        raise ReprError("it is no record: args should be a tuple and kwargs a dict")
    arguments = (cast("Sequence[Any]", args), cast("Mapping[str, Any]", kwargs))
    if each in (dataset.POSITIVE_EMBEDDABLE_ALIGNMENTS, dataset.NEGATIVE_EMBEDDABLE_ALIGNMENTS):
        alike = each == dataset.POSITIVE_EMBEDDABLE_ALIGNMENTS
        return pair_of(spec, [arguments, _other(output)], alike=alike, at=at)
    if spec.wire is None:
        raise MisfitError(f"{spec.name}() embeds its input; it has no answers")
    aligned = each == dataset.SYMBOLIC_ALIGNMENTS
    outputs = [output] if aligned else _meanings(output)
    return line_of(spec, *arguments, outputs, source="align" if aligned else "call", at=at)


def _other(output: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Read the other input of a pair: its arguments, and those by name as pairs."""
    try:
        args, kwargs = output
        return tuple(args), dict(kwargs)
    except (TypeError, ValueError) as error:
        raise ReprError(f"it is no pair: {clip(repr(output), 60)}") from error


def _meanings(output: Any) -> list[Any]:
    """Return what an answer may mean, as Tanuki.py tries it: JSON, a repr, the text itself."""
    if not isinstance(output, str):
        return [output]
    found: list[Any] = []
    for read in (from_json, read_repr):
        try:
            found.append(_tidy(read(output)))
        except ValueError:
            continue
    return [*found, output]


def _tidy(value: Any) -> Any:
    """Put together what Tanuki.py took apart: moments and enum members become dicts of their attributes there."""
    if isinstance(value, (list, tuple)):
        items = [_tidy(item) for item in cast("Sequence[Any]", value)]
        return tuple(items) if isinstance(value, tuple) else items
    if not isinstance(value, dict):
        return value
    fields = {key: _tidy(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if "_value_" in fields and "_name_" in fields:
        return fields["_value_"]
    if fields.keys() == _MOMENT:
        try:
            return datetime.datetime(**fields)
        except (TypeError, ValueError) as error:
            raise ReprError(f"it is no moment: {error}") from error
    return fields
