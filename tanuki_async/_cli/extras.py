"""What the base install lacks: asked for where it is used, missed with one clear line."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class MissingExtra(Exception):  # noqa: N818  # no error of the library: the command line's own
    """A package is not installed; the message says what to install."""


def need(package: str, extra: str, why: str) -> None:
    """Raise MissingExtra unless `package` can be imported."""
    if find_spec(package) is None:
        raise MissingExtra(f"{why}: pip install 'tanuki_async[{extra}]'")


def console(*, stderr: bool = False) -> Console:
    """Return what prints tables, on a terminal as wide as it is, elsewhere wide enough for long names."""
    need("rich", "cli", "printing tables needs rich (--json prints without)")
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = max(found.width, 160)
    return found


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table. A column whose name begins with `>` holds numbers."""
    need("rich", "cli", "printing tables needs rich (--json prints without)")
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return made
