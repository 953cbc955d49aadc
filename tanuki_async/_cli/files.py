"""Files that commands write, which appear whole, and rows in them: JSON lines, CSV or Parquet."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from tanuki_async._cli import extras
from tanuki_async._errors import UsageError

FORMS = ("jsonl", "csv", "parquet")
"""What a file of rows may be, by its ending."""
_LARGEST_CELL = 2**31 - 1


class Writer(Protocol):
    """Writes rows."""

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows. All have the names of the first."""
        ...

    def close(self) -> None:
        """Write what is to come after the last row."""
        ...


@contextlib.contextmanager
def appearing(path: Path) -> Generator[BinaryIO]:
    """Open a file that takes its place when all is in it, for its user only."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise UsageError(f"{str(path)!r} cannot be written: {error.strerror}") from error
        with os.fdopen(descriptor, "wb") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def form_of(path: Path) -> str:
    """Tell what a file is by its ending. UsageError for another one."""
    form = path.suffix.removeprefix(".").lower()
    form = "jsonl" if form == "ndjson" else form
    if form not in FORMS:
        raise UsageError(f"{str(path)!r} should end in {', '.join(f'.{each}' for each in FORMS)}: that says what it is")
    if form == "parquet":
        extras.need("pyarrow", "parquet", "Parquet needs pyarrow")
    return form


def rows_in(path: Path) -> Iterator[Any]:
    """Read a file row by row. Blocks; UsageError names a line that cannot be read."""
    read = {"jsonl": _json_lines, "csv": _csv_rows, "parquet": _parquet_rows}[form_of(path)]
    try:
        yield from read(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def writer(path: Path, file: BinaryIO) -> Writer:
    """Make what writes rows to `file`, in the form that `path` ends in."""
    kinds: dict[str, Callable[[BinaryIO], Writer]] = {"jsonl": _JsonLines, "csv": _Csv, "parquet": _Parquet}
    return kinds[form_of(path)](file)


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UsageError(f"{str(path)!r}, line {number}: this is no JSON: {line[:80]!r}") from error


def _csv_rows(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(_LARGEST_CELL)  # Python's is 128 KiB
        rows = csv.DictReader(file)
        names = rows.fieldnames or ()
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"{str(path)!r} has two columns {twice!r}: rename one")
        for row in rows:
            if None in row or None in row.values():
                raise UsageError(f"{str(path)!r}, line {rows.line_num}: it has another number of cells than the first")
            yield row


def _parquet_rows(path: Path) -> Iterator[Any]:
    parquet: Any = importlib.import_module("pyarrow.parquet")
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


class _JsonLines:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        self._file.writelines(
            json.dumps(row, ensure_ascii=False, default=str).encode(errors="backslashreplace") + b"\n" for row in rows
        )

    def close(self) -> None:
        return


class _Csv:
    def __init__(self, file: BinaryIO) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
        self._rows: csv.DictWriter[str] | None = None

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        if self._rows is None and rows:
            self._rows = csv.DictWriter(self._text, list(rows[0]), lineterminator="\n")
            self._rows.writeheader()
        for row in map(_flat, rows):
            assert self._rows is not None
            try:
                self._rows.writerow(row)
            except ValueError as error:
                raise UsageError(
                    f"CSV has the columns of the first row, and another has others ({error}): write .jsonl"
                ) from error

    def close(self) -> None:
        self._text.detach()


class _Parquet:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._arrow: Any = importlib.import_module("pyarrow")
        self._writer: Any = None

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        texts = [row | {name: _cell(row[name]) for name in ("output", "error")} for row in rows]
        if self._writer is None:
            fields = [field for field in self._arrow.Table.from_pylist(texts).schema if field.name in rows[0]]
            text = self._arrow.string()
            schema = self._arrow.schema(
                [self._arrow.field(each.name, text) if each.name in ("output", "error") else each for each in fields]
            )
            self._writer = importlib.import_module("pyarrow.parquet").ParquetWriter(self._file, schema)
        try:
            self._writer.write_table(self._arrow.Table.from_pylist(texts, schema=self._writer.schema))
        except self._arrow.ArrowInvalid as error:
            raise UsageError(f"a column of Parquet has one type, that of the first rows: {error}") from error

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _flat(row: dict[str, Any]) -> dict[str, str]:
    return {name: _cell(value) or "" for name, value in row.items()}


def _cell(value: object) -> str | None:
    """Write a value in one cell: text as it is, anything else as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
