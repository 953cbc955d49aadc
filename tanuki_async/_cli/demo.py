"""`tanuki demo`: real messages, a teacher, a student that learns from it and takes over, in one run.

5,159 real text messages go through one patched coroutine that tells spam from ham. The teacher's answers are recorded
in the background; a local student learns from them, proves how well it agrees, and answers from then on where it is
sure. The teacher is a server on this machine that answers from the labels of the set, so nothing is paid and no key is
needed; with --live it is a real model.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tanuki_async._about import describe
from tanuki_async._cli import _sms, extras
from tanuki_async._errors import SettingsError, UsageError
from tanuki_async._models import DEFAULT_TEACHERS

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from rich.console import Console

    from tanuki_async._cli.demo_run import Watched

DIRECTORY = ".tanuki-demo"
CONCURRENCY = 16
LIVE_ROWS = 1_000
ANSWERER = "tanuki_async._cli.demo_teacher:answer"

Messages = Sequence[tuple[str, str]]


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="show the whole job in one run, without a key",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=count, metavar="N", help="how many messages; all, or 1,000 with --live")
    parser.add_argument("--concurrency", type=count, default=CONCURRENCY, metavar="N", help="calls at once; 16")
    parser.add_argument("--dir", default=DIRECTORY, metavar="DIR", help=f"where data is kept; {DIRECTORY} by default")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs left in DIR")
    parser.add_argument("--live", action="store_true", help="ask the default teacher at OpenAI; needs OPENAI_API_KEY")
    parser.add_argument("--yes", action="store_true", help="with --live, do not ask before spending")
    parser.add_argument("--plain", action="store_true", help="no animation; plain lines")
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON object, and nothing else")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the demonstration and print its report."""
    extras.need("sklearn", "demo", "the local student of the demonstration needs scikit-learn")
    console = None if options.json else extras.console()
    messages = _sms.load()[: options.rows or (LIVE_ROWS if options.live else None)]
    if options.live:
        _agree_to_pay(messages, options)
    if options.fresh:
        _forget(Path(options.dir))
    if console is not None:
        console.print(_opening(messages, options))
    with _teacher(live=options.live) as teacher:
        _run(messages, teacher, console, options)


def _run(messages: Messages, teacher: Watched, console: Console | None, options: argparse.Namespace) -> None:
    from tanuki_async._cli import demo_report, demo_run, demo_screen

    with demo_screen.screen(console, animated=bool(console and console.is_terminal) and not options.plain) as screen:
        outcome = asyncio.run(
            demo_run.run(messages, place=options.dir, teacher=teacher, concurrency=options.concurrency, screen=screen)
        )
    report = demo_report.report(
        outcome, live=options.live, model=str(DEFAULT_TEACHERS[0]), storage=shlex.quote(options.dir)
    )
    if console is None:
        print(json.dumps(asdict(report), indent=2))
    else:
        demo_screen.print_report(console, report)


def _opening(messages: Messages, options: argparse.Namespace) -> str:
    who = (
        f"The teacher is {DEFAULT_TEACHERS[0]} at OpenAI."
        if options.live
        else "The teacher here is a server on this machine that answers from the labels of the set, in 60 to 100 ms; "
        "a real one is asked with --live."
    )
    return (
        f"{len(messages):,} real text messages, spam or ham, through one patched coroutine, "
        f"{options.concurrency} calls at once.\n{who}\nData is kept in {options.dir}.\n"
    )


@contextlib.contextmanager
def _teacher(*, live: bool) -> Generator[Watched]:
    from tanuki_async._cli.demo_run import Watched
    from tanuki_async.testing.server import in_process

    if live:
        yield Watched()
        return
    with in_process("--call", ANSWERER) as url:
        yield Watched(base_url=url, api_key="none-needed")


def _agree_to_pay(messages: Messages, options: argparse.Namespace) -> None:
    if not os.environ.get("OPENAI_API_KEY", "").strip():
        raise SettingsError("--live asks OpenAI: set OPENAI_API_KEY. Without --live the demonstration needs no key")
    offer = (
        f"{len(messages):,} calls to {DEFAULT_TEACHERS[0]} cost about ${_most(messages):.2f} at most: every call "
        "answered by the teacher, every answer as long as is allowed, prompts never cached."
    )
    if options.yes:
        print(offer, file=sys.stderr)
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{offer} Say --yes to go on")
    if input(f"{offer} Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was asked, nothing was paid")


def _most(messages: Messages) -> float:
    """US dollars, if the teacher answers all and never briefly."""
    from tanuki_async._cli.demo_run import ANSWER_TOKENS, classify_sms
    from tanuki_async._codec import prompt, tokens
    from tanuki_async._function import patched
    from tanuki_async._models import lookup, split_name
    from tanuki_async._records import Usage

    model = lookup(*split_name(str(DEFAULT_TEACHERS[0])))
    assert model is not None
    spec = patched(classify_sms).spec
    head = prompt.head(spec, [], patched(classify_sms).options.generation_params)
    asked = sum(tokens.size(head, (prompt.input_turn(spec.bind((text,), {})),)) for text, _ in messages)
    usage = Usage(requests=len(messages), input_tokens=asked, output_tokens=ANSWER_TOKENS * len(messages))
    return model.cost(usage) or 0.0


def _forget(directory: Path) -> None:
    """Delete what this demonstration recorded, and nothing else that may be there."""
    from tanuki_async._cli.demo_run import classify_sms

    shutil.rmtree(directory / describe(classify_sms).hash, ignore_errors=True)


def count(text: str) -> int:
    """Read a number of one or more; argparse's complaint shows this function's name."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number
