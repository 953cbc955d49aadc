"""The command `tanuki`: shows the whole job in one run, and looks at what functions have left behind."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Generator, Sequence

from tanuki_async._cli import (
    carrying,
    demo,
    evaluate,
    examples,
    exporting,
    forgetting,
    functions,
    jobs,
    keeping,
    mapping,
    models,
    status,
)
from tanuki_async._cli.extras import MissingExtra
from tanuki_async._errors import TanukiError
from tanuki_async._version import __version__

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status: 0, 1 where it failed, 2 where it was called wrongly, 130 by Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        with _log_shown():
            options.run(options)
            sys.stdout.flush()
    except TanukiError as error:
        return _fail(str(error), 1)
    except MissingExtra as error:
        return _fail(str(error), 2)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted; what was recorded is kept", 130)
    return 0


def _fail(message: str, exit_status: int) -> int:
    print("tanuki:", " ".join(message.split()), file=sys.stderr)
    return exit_status


class _Lines(logging.Handler):
    """Prints warnings as lines, without tracebacks, on whatever standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print("tanuki:", record.getMessage(), file=sys.stderr)


@contextlib.contextmanager
def _log_shown() -> Generator[None]:
    handler = _Lines(logging.WARNING)
    logger = logging.getLogger("tanuki_async")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tanuki", description=__doc__)
    parser.add_argument("--version", action="version", version=f"tanuki_async {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (
        demo, functions, status, examples, evaluate, mapping, jobs, models, carrying, exporting, keeping, forgetting,
    ):  # fmt: skip
        command.add(commands)
    return parser
