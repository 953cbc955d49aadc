"""What only files can have wrong: torn ends, stale filters, drafts of killed writers, leases of nothing, rights."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from tanuki_async._errors import StorageError
from tanuki_async.abc import Finding
from tanuki_async.storage._files import translated
from tanuki_async.storage._leases import Held
from tanuki_async.storage._segment import Segment

__all__ = ["findings"]

_HASH = re.compile(r"[0-9a-f]{32}")  # a directory of one function
_DRAFT_SECONDS = 60.0
"""Age from which a draft is taken for one of a killed writer: a living one renames it within milliseconds."""


def findings(root: Path, segment: Callable[[str], Segment], *, now: float, repair: bool = False) -> list[Finding]:
    """Look at every file below `root`. With `repair`, bad bytes are moved aside; nothing is deleted."""
    found: list[Finding] = []
    with translated("inspect", root):
        for path in sorted(root.rglob("*")):
            if path.is_symlink() or not path.exists():
                continue
            found += _rights(root, path, repair=repair)
            if path.suffix == ".jsonl":
                found += _data(path.relative_to(root).as_posix().removesuffix(".jsonl"), segment, repair=repair)
            elif path.suffix == ".tmp" and now - path.stat().st_mtime > _DRAFT_SECONDS:
                found.append(_aside(root, path, "a killed writer left its draft", repair=repair))
            elif path.suffix == ".bloom" and not path.with_suffix(".jsonl").exists():
                found.append(_aside(root, path, "its data is gone", repair=repair))
            elif path.suffix == ".lease":
                found += _lease(root, path, repair=repair)
    return found


def _rights(root: Path, path: Path, *, repair: bool) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & 0o077:
        return
    if repair:
        path.chmod(mode & 0o700)
    yield Finding(
        place=path.relative_to(root).as_posix(),
        what=f"other users may use it (rights {mode:03o})",
        mended=f"rights are {mode & 0o700:03o}" if repair else "",
    )


def _data(name: str, segment: Callable[[str], Segment], *, repair: bool) -> Iterator[Finding]:
    def aside(tail: bytes) -> None:
        pieces = [piece for piece in tail.split(b"\n") if piece]
        segment(f"{name}.damaged").append(pieces, latest=False)

    if name.endswith(".damaged"):
        return
    if torn := segment(name).torn_tail(aside=aside if repair else None):
        yield Finding(
            place=name,
            what=f"{torn} bytes of an unfinished line at its end",
            mended=f"moved to {name}.damaged" if repair else "",
        )
    if wrong := segment(name).saved_filter_misses():
        if repair:
            segment(name).rebuild()
        yield Finding(place=name, what=wrong, mended="the filter was made anew" if repair else "")


def _lease(root: Path, path: Path, *, repair: bool) -> Iterator[Finding]:
    """Look at a lease. One that has run out is right: its number must go on growing, as long as there is anything."""
    try:
        held = Held.from_json(path.read_bytes())
    except FileNotFoundError:
        return
    if held is None:
        yield _aside(root, path, "the lease cannot be read", repair=repair)
    elif _HASH.fullmatch(path.parent.name) and not any(
        each.suffix in (".jsonl", ".json") for each in path.parent.iterdir()
    ):
        yield _aside(root, path, "a lease of a function of which nothing is kept", repair=repair)


def _aside(root: Path, path: Path, what: str, *, repair: bool) -> Finding:
    place, to = path.relative_to(root).as_posix(), path.with_name(f"{path.name}.damaged")
    if repair:
        if to.exists():
            raise StorageError(f"{str(to)!r} is there already: look at it and move it away")
        os.rename(path, to)  # noqa: PTH104  # replaces nothing, as was looked at just now
    return Finding(place=place, what=what, mended=f"moved to {to.relative_to(root).as_posix()}" if repair else "")
