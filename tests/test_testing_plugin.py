from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = ["-p", "pytest_asyncio.plugin", "-p", "tanuki_async.testing.plugin"]
ASYNCIO = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]


def run(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    Path("test_users.py").write_text(code, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", *PLUGIN, "-W", "error", *ASYNCIO]
    env = {**env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # installed or not, the plugin is loaded once
    return subprocess.run([*command, "test_users.py"], env=env, capture_output=True, text=True, check=False)


USERS = '''
import httpx
import tanuki_async as tanuki

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

@tanuki.patch
async def greeting(text: str) -> bool:
    """Is it a greeting?"""
    ...

def ask(server):
    return httpx.post(server.url + "/chat/completions", json=QUESTION, trust_env=False).json()

def test_server(tanuki_server):
    first, second = tanuki_server("yes"), tanuki_server(["no"])
    assert ask(first)["choices"][0]["message"]["content"] == "yes"
    assert ask(second)["choices"][0]["message"]["content"] == "no"

async def test_clock(tanuki_clock):
    await tanuki_clock.advance(3)
    assert tanuki_clock.monotonic() == 3

async def test_open(tanuki, fake_provider):
    fake_provider.put(True, False)
    assert await greeting("hello") is True
    assert await greeting("goodbye") is False
    assert len(fake_provider.calls) == 2
'''


@pytest.mark.timeout(120)
def test_users_get_a_server_a_clock_and_an_open_tanuki(subprocess_env: dict[str, str]) -> None:
    result = run(USERS, subprocess_env)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 passed" in result.stdout
    assert not Path(".align").exists()


@pytest.mark.parametrize(
    "code",
    [
        "def test_it(fake_provider): fake_provider.put(1)",
        "def test_it(tanuki_server): tanuki_server(['never asked for'])",
    ],
)
def test_answers_left_over_fail_the_users_test(subprocess_env: dict[str, str], code: str) -> None:
    result = run(code, subprocess_env)
    assert result.returncode == 1
    assert "scripted answers were never asked for" in result.stdout


def test_users_without_pytest_asyncio_are_not_disturbed(subprocess_env: dict[str, str]) -> None:
    code = "def test_it(): pass"
    Path("sitecustomize.py").write_text("import sys\nsys.modules['pytest_asyncio'] = None\n", "utf-8")
    env = {**subprocess_env, "PYTHONPATH": f"{Path.cwd()}:{subprocess_env['PYTHONPATH']}"}
    Path("test_users.py").write_text(code, "utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tanuki_async.testing.plugin",
        "-W",
        "error",
        "test_users.py",
    ]
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
