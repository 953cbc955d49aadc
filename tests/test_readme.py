"""Every block of the README is a program that runs, against a loopback server in place of the provider."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tanuki_async.testing import ChatRequest, LoopbackServer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def plain(request: ChatRequest) -> object:
    """The same word to all, in a list where one is asked for."""
    wanted: Any = request.schema["properties"] if request.schema else {}
    return ["good"] if wanted.get("value", {}).get("type") == "array" else '{"value": "good"}'


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(README[: README.index(block)].count("\n") + 1))
async def test_a_block_runs(block: str, tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    script = tmp_path / "block.py"
    script.write_text(block)
    async with LoopbackServer(answer=plain) as server:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "error", str(script)],
            env={**subprocess_env, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
        )
    assert done.returncode == 0, done.stderr


def test_the_first_screen_prints_what_it_says() -> None:
    assert "asyncio.run(main())" in BLOCKS[0]


def test_every_command_of_the_readme_is_one_that_is_tested() -> None:
    commands = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    run = (ROOT / ".ci" / "run").read_text()
    assert commands[1].strip().removeprefix("bash .ci/venv dev && ") in run
