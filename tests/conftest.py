"""Keeps the suite honest: no blocked loop, no network beyond this machine, no keys, nothing written to the tree."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster

ROOT = Path(__file__).parent.parent
SETTINGS = (
    "TANUKI_", "OPENAI_", "TOGETHER_", "ANYSCALE_", "ANTHROPIC_", "AWS_", "OTEL_", "GEMINI_", "GROQ_", "OPENROUTER_",
    "OLLAMA_", "VLLM_", "LLAMACPP_", "LMSTUDIO_",
)  # fmt: skip


def only_loopback(event: str, args: tuple[Any, ...]) -> None:
    """Refuse connections that leave this machine."""
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = str(args[1][0])
    elif event == "socket.getaddrinfo":
        host = args[0].decode() if isinstance(args[0], bytes) else str(args[0] or "127.0.0.1")
    else:
        return
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost" or host.endswith((".localhost", ".invalid"))
    if not local:
        raise RuntimeError(f"a test wants to reach {host!r}; tests talk to this machine only")


sys.addaudithook(only_loopback)


@pytest.fixture(scope="session", autouse=True)
def blocked_loop() -> Iterator[None]:
    """Fail what blocks the event loop from inside the library: files, time.sleep, locks."""
    buster = BlockBuster("tanuki_async")
    buster.activate()
    for function in buster.functions.values():  # decorating reads a stub's source once, wherever it is written
        function.can_block_in("tanuki_async/_codec/stub.py", "_is_written_as_stub")
        function.can_block_in("tanuki_async/storage/_aside.py", "_work")  # a loop that nobody's call waits on
    yield
    buster.deactivate()


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give each test a directory of its own and no settings from outside."""
    for name in list(os.environ):
        if name.startswith(SETTINGS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TANUKI_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def subprocess_env() -> dict[str, str]:
    """The environment for a child Python that must find this package, installed or not."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests alone that need a real model server, unless they are asked for."""
    if "live" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("live"):
            item.add_marker(pytest.mark.skip(reason="needs a real server: ask for it with -m live"))
