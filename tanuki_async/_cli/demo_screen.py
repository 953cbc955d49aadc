"""What the demonstration shows: a bar or plain lines while it runs, tables at its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from tanuki_async._cli import extras
from tanuki_async._cli.demo_report import Bill, Part, Report
from tanuki_async._cli.demo_run import Progress, Screen

if TYPE_CHECKING:
    from rich.console import Console

Say = Callable[[str], None]


@contextlib.contextmanager
def screen(console: Console | None, *, animated: bool) -> Generator[Screen]:
    """Give what shows a run: nothing without a console, else plain lines, or a bar below them on a terminal."""
    if console is None:
        yield _nothing
    elif animated:
        with _bar(console) as show:
            yield show
    else:
        yield _Lines(console.print, every=0.1)


def _nothing(_: Progress) -> None:
    return


class _Lines:
    """Prints a line when something happened, and each time another share of the calls is done."""

    def __init__(self, say: Say, *, every: float) -> None:
        self._say, self._every = say, every
        self._told: set[str] = set()
        self._next = every

    def __call__(self, progress: Progress) -> None:
        for event in self._events(progress):
            if event not in self._told:
                self._told.add(event)
                self._say(f"{time.monotonic() - progress.started:5.1f} s  {event}")
        if self._every and progress.done >= self._next * progress.total:
            self._next += self._every
            self._say(f"{time.monotonic() - progress.started:5.1f} s  {counts(progress)}")

    @staticmethod
    def _events(progress: Progress) -> Generator[str]:
        status = progress.status
        if progress.done == 0 and status.student:
            yield f"a {status.student} student that was trained before is found in storage"
        elif progress.done == 0:
            yield "the teacher answers; every answer is recorded"
        if progress.takeover and progress.takeover[0] > 1:
            calls = f"{progress.takeover[0]:,} calls"
            yield f"the student has taken over after {calls}; the teacher answers where it is not sure"
        if status.trainings > progress.trainings_before and status.bound is not None:
            yield (
                f"a {status.student} student learnt: right on {status.agreement:.1%} of the held-out messages that it "
                f"would answer, at least {status.bound:.1%}"
            )
        elif status.trainings > progress.trainings_before and status.phase == "collecting":
            yield status.reason


@contextlib.contextmanager
def _bar(console: Console) -> Generator[Screen]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    words = TextColumn("{task.description}", markup=False)
    with Bar(BarColumn(20), MofNCompleteColumn(), words, console=console) as bar:
        task = bar.add_task("", visible=False)
        lines = _Lines(console.print, every=0)

        def show(progress: Progress) -> None:
            lines(progress)
            said = counts(progress)
            bar.update(task, visible=True, completed=progress.done, total=progress.total, description=said)

        yield show


def counts(progress: Progress) -> str:
    """Say in one line who answered until now, who answers, and for how much."""
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    return (
        f"teacher {progress.counts['teacher']:,}, student {progress.counts['student']:,}{failed}; "
        f"{progress.status.phase}; ${progress.cost:.2f}"
    )


def print_report(console: Console, report: Report) -> None:
    """Print the tables of a finished run."""
    console.print(_calls(report))
    console.print(_money(report))
    console.print(_words(report))


def _calls(report: Report) -> object:
    table = extras.table(f"{report.all.calls:,} calls in {report.seconds:.1f} s", ">teacher", ">student", ">all")
    parts = (report.teacher, report.student, report.all)
    rows: dict[str, Callable[[Part], str]] = {
        "answered": lambda part: f"{part.calls:,}",
        "share": lambda part: f"{part.share:.1%}",
        "right, by the labels of the set": lambda part: _unless_none(part.correct, "{:.1%}"),
        "latency, median": lambda part: _unless_none(part.p50_ms, "{:,.2f} ms"),
        "latency, 99 of 100 within": lambda part: _unless_none(part.p99_ms, "{:,.2f} ms"),
    }
    for name, cell in rows.items():
        table.add_row(name, *map(cell, parts))
    return table


def _money(report: Report) -> object:
    table = extras.table(f"priced as {report.model}", ">with distillation", ">without", ">saved")
    rows: dict[str, tuple[Callable[[Bill], float], str]] = {
        "requests": (lambda bill: bill.requests, "{:,}"),
        "input tokens": (lambda bill: bill.input_tokens, "{:,}"),
        "output tokens": (lambda bill: bill.output_tokens, "{:,}"),
        "cost": (lambda bill: bill.cost, "${:,.2f}"),
    }
    for name, (figure, how) in rows.items():
        with_it = figure(report.bill)
        without = figure(report.bill_without) if report.bill_without else None
        saved = 1 - with_it / without if without else None
        table.add_row(name, how.format(with_it), _unless_none(without, how), _unless_none(saved, "{:.0%}"))
    return table


def _words(report: Report) -> str:
    lines: list[str] = []
    if report.bound is not None:
        lines.append(
            f"The student agreed with the teacher on {report.agreement:.1%} of the held-out messages that it would "
            f"answer ({report.coverage:.0%} of {report.held_out:,}): at least {report.bound:.1%}, with 95 % confidence."
        )
    else:
        lines.append(f"No student serves yet: {report.reason}.")
    lines.append(
        f"It passed {report.deferred:,} calls on to the teacher, not being sure; "
        f"{report.audits:,} of its answers were checked with the teacher in the background."
    )
    if report.found_again:
        lines.append("It was found in storage, and has learnt from some of these messages before.")
    if report.failed:
        lines.append(f"{report.failed:,} calls failed.")
    where = f"--dir {report.storage}"
    lines += [
        "",
        "Look at what was kept:",
        f"  tanuki functions {where}",
        f"  tanuki status classify_sms {where}",
        f"  tanuki examples classify_sms {where}",
        "Run it again, and the student answers from the first call; --fresh starts anew:",
        f"  tanuki demo {where}",
    ]
    return "\n".join(lines)


def _unless_none(value: float | None, how: str) -> str:
    return "" if value is None else how.format(value)
