"""The server that all clients talk to, in a process of its own: answers at once, or later if the text says so.

    python benchmarks/_server.py     prints its base URL; ends when its standard input does

Its answers are made once, so that the server is not what is measured: the plain one, a call of the tool that the
request names, and the same as a stream, for clients that ask for one.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import _report

_report.import_from_here()

from tanuki_async._records import Reply  # noqa: E402
from tanuki_async.testing import LoopbackServer  # noqa: E402

ANSWER = '{"label":"good","score":0.93}'
LATE = {b"[5 ms]": 0.005, b"[200 ms]": 0.2, b"[8 s]": 8.0}  # in the text of a request: seconds before its answer
FRAME: dict[str, Any] = {
    "id": "chatcmpl-00000001",
    "created": 1_795_300_000,
    "model": "gpt-4o-mini",
    "service_tier": "default",
    "system_fingerprint": None,
}
USAGE: dict[str, Any] = {
    "prompt_tokens": 120,
    "completion_tokens": 12,
    "total_tokens": 132,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


@contextmanager
def running() -> Generator[str]:
    """Run the server; gives its base URL."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError("the server did not start")
        try:
            yield url
        finally:
            process.stdin.close()
            process.wait(timeout=10)


def answer(request: Any) -> Reply | Coroutine[Any, Any, Reply]:
    body: bytes = request.body
    tool = json.loads(body)["tools"][0]["function"]["name"] if b'"tools":' in body else None
    reply = reply_for(tool, streaming=b'"stream":true' in body or b'"stream": true' in body)
    for mark, seconds in LATE.items():
        if mark in body:
            return later(reply, seconds)
    return reply


async def later(reply: Reply, seconds: float) -> Reply:
    await asyncio.sleep(seconds)
    return reply


@lru_cache
def reply_for(tool: str | None, *, streaming: bool) -> Reply:
    message: dict[str, Any] = {"role": "assistant", "content": ANSWER, "refusal": None, "annotations": []}
    if tool is not None:
        call = {"id": "call_1", "type": "function", "function": {"name": tool, "arguments": ANSWER}}
        message = {**message, "content": None, "tool_calls": [call]}
    finish = "stop" if tool is None else "tool_calls"
    if streaming:
        return Reply(status=200, headers={"content-type": "text/event-stream"}, body=events(message, finish))
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    whole = {**FRAME, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    headers = {"content-type": "application/json", "x-request-id": "req_0000000000000001"}
    return Reply(status=200, headers=headers, body=json.dumps(whole, separators=(",", ":")).encode())


def events(message: dict[str, Any], finish: str) -> bytes:
    """The same answer as a stream of the usual form: role, content in one piece, the end, the usage."""
    calls = [{"index": index, **call} for index, call in enumerate(message.get("tool_calls", ()))]
    said = {"tool_calls": calls} if calls else {"content": message["content"]}
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in (({"role": "assistant", "content": None}, None), (said, None), ({}, finish))
    ]
    chunks.append({"choices": [], "usage": USAGE})
    lines = [json.dumps({**FRAME, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
    return "".join(f"data: {line}\n\n" for line in (*lines, "[DONE]")).encode()


async def main() -> None:
    server = LoopbackServer(keep=0)
    server.route("POST", "/v1/chat/completions", answer)
    async with server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = None
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
