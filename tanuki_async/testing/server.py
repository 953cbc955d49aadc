"""A loopback server as a process of its own: `python -m tanuki_async.testing.server --help`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from tanuki_async.testing.answers import ChatRequest, Value
from tanuki_async.testing.loopback import LoopbackServer

__all__ = ["in_process", "main"]


@contextmanager
def in_process(*arguments: str) -> Generator[str]:
    """Run a server in a process of its own, with arguments of its command line; gives its base URL.

    The process ends with the block, and also when this one is killed.
    """
    command = [sys.executable, "-m", "tanuki_async.testing.server", "--until-eof", *arguments]
    with subprocess.Popen(  # noqa: S603  # our own module, arguments as a list
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the loopback server did not start; its exit status is {process.wait()}")
        try:
            yield url
        finally:
            process.stdin.close()
            process.wait(timeout=10)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted; the first line printed is the base URL."""
    options = _parser().parse_args(arguments)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(options))
    except KeyboardInterrupt:
        pass


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tanuki_async.testing.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--strict", action="store_true", help="answer 400 where OpenAI would")
    parser.add_argument("--until-eof", action="store_true", help="end when the standard input does")
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument("--answer", metavar="TEXT", help="the content of every answer, as it is")
    answers.add_argument("--value", metavar="JSON", help="the value of every answer, in the schema's envelope")
    answers.add_argument("--echo", action="store_true", help="answer the last user turn")
    answers.add_argument("--call", metavar="MODULE:NAME", help="a function that gets the ChatRequest and answers it")
    return parser


def _loop_factory() -> Any:
    try:
        return importlib.import_module("uvloop").new_event_loop  # faster, where it is installed
    except ImportError:
        return None


def _answerer(options: argparse.Namespace) -> dict[str, Any]:
    if options.answer is not None:
        return {"answer": options.answer}
    if options.value is not None:
        return {"answer": Value(json.loads(options.value))}
    if options.echo:
        return {"answer": _echo}
    if options.call:
        module, _, name = options.call.partition(":")
        return {"answer": getattr(importlib.import_module(module), name)}
    return {}


def _echo(request: ChatRequest) -> str:
    return request.text


async def _serve(options: argparse.Namespace) -> None:
    server = LoopbackServer(
        **_answerer(options), latency=options.latency, strict=options.strict, port=options.port, keep=0
    )

    def statistics(_: object) -> dict[str, int]:
        return counts(server)

    server.route("GET", "/v1/statistics", statistics)
    async with server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        if options.until_eof:
            await asyncio.to_thread(sys.stdin.read)
        else:
            await asyncio.Event().wait()


def counts(server: LoopbackServer) -> dict[str, int]:
    """What GET /v1/statistics answers: the server's counts."""
    return {
        "served": server.served,
        "in_flight": server.in_flight - 1,  # without this question
        "max_in_flight": server.max_in_flight,
        "connections": server.connections,
        "connections_made": server.connections_made,
    }


if __name__ == "__main__":
    main()
