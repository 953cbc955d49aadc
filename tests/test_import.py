from __future__ import annotations

import importlib
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import ROOT

import tanuki_async
from tanuki_async import abc

HEAVY = [
    "aioboto3", "aiohttp", "anthropic", "fastapi", "h2", "httpx", "httpx2", "hypothesis", "numpy", "openai", "opentelemetry",
    "pandas", "pyreqwest", "pytest", "redis", "rich", "sklearn", "ssl", "tenacity", "unittest", "uvicorn",
]  # fmt: skip


def modules() -> Iterator[str]:
    for found in pkgutil.walk_packages(tanuki_async.__path__, "tanuki_async."):
        yield found.name


def python(code: str, env: dict[str, str]) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_library_loads_nothing_heavy(subprocess_env: dict[str, str]) -> None:
    code = f"import sys, asyncio, pydantic, mmh3; a = set(sys.modules); import tanuki_async; print(sorted((set(sys.modules) - a) & set({HEAVY})))"
    assert python(code, subprocess_env) == "[]"


def test_importing_the_testing_tools_loads_nothing_heavy(subprocess_env: dict[str, str]) -> None:
    code = f"import sys, asyncio, pydantic, mmh3; a = set(sys.modules); import tanuki_async.testing; print(sorted((set(sys.modules) - a) & set({HEAVY})))"
    assert python(code, subprocess_env) == "[]"


def test_importing_does_nothing(subprocess_env: dict[str, str]) -> None:
    code = (
        "import logging, os, threading, asyncio, pydantic, mmh3\n"
        "level, handlers, logger = logging.root.level, list(logging.root.handlers), logging.getLoggerClass()\n"
        "environment, files = dict(os.environ), os.listdir()\n"
        "import tanuki_async\n"
        "assert (logging.root.level, logging.root.handlers, logging.getLoggerClass()) == (level, handlers, logger)\n"
        "assert dict(os.environ) == environment and os.listdir() == files\n"
        "assert threading.active_count() == 1\n"
    )
    python(code, {**subprocess_env, "PYTHONDONTWRITEBYTECODE": "1"})


def test_the_face_is_a_sorted_list_of_what_is_there() -> None:
    names = tanuki_async.__all__
    assert list(names) == sorted(names)
    for name in names:
        assert getattr(tanuki_async, name) is not None
    assert {name for places in tanuki_async._BEHIND.values() for name in places} <= set(names)
    assert set(names) <= set(dir(tanuki_async))
    with pytest.raises(AttributeError, match="no attribute 'path'"):
        tanuki_async.path  # noqa: B018


def test_importing_the_library_loads_no_file_that_is_not_needed(subprocess_env: dict[str, str]) -> None:
    code = "import sys, tanuki_async; print(sorted(each for each in sys.modules if each.startswith('tanuki_async')))"
    assert python(code, subprocess_env) == "['tanuki_async', 'tanuki_async._version']"


@pytest.mark.parametrize("name", ["abc", "testing"])
def test_public_modules_list_their_names_sorted(name: str) -> None:
    module = importlib.import_module(f"tanuki_async.{name}")
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, each) for each in module.__all__)


def test_every_name_of_the_contract_is_there() -> None:
    promised = """patch align amap Tanuki configure flush describe status distill feedback Embedding Image Model Limits
        Usage Example TanukiError UsageError StubError SettingsError AlignmentError NotOpenError InputError
        PromptTooLongError ProviderError ProviderUnreachableError ProviderUnavailableError RateLimitedError
        QuotaExceededError AuthenticationError RequestRejectedError RefusalError CallTimeoutError OutputError
        BudgetExceededError StorageError __version__""".split()  # noqa: SIM905
    assert set(promised) <= set(tanuki_async.__all__)


ALONE = """
import importlib, sys, types

for name in {names!r}:
    above = name.startswith("tanuki_async._cli")  # stands on the public face
    for loaded in [each for each in sys.modules if each.startswith("tanuki_async._cli" if above else "tanuki_async")]:
        del sys.modules[loaded]
    if not above:  # the face would import most others: put an empty one in its place
        face = sys.modules["tanuki_async"] = types.ModuleType("tanuki_async")
        face.__path__ = {path!r}
    try:
        importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").startswith("tanuki_async"):
            raise  # but a module for an extra that is not installed may need that extra
"""


PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_every_module_imports_by_itself(subprocess_env: dict[str, str], part: int) -> None:
    names = [name for name in modules() if not name.endswith("__main__")]
    assert len(names) > 20 * PARTS
    chosen = names[part::PARTS]
    above = [name for name in chosen if name.startswith("tanuki_async._cli")]
    path = list(tanuki_async.__path__)
    for group in (above, [name for name in chosen if name not in above]):
        python(ALONE.format(names=group, path=path), subprocess_env)


def test_what_a_user_may_implement_is_named_by_its_public_path() -> None:
    for name in ("Provider", "Storage", "Student", "Tuning", "Batches", "Lease"):
        assert getattr(abc, name).__module__ == "tanuki_async.abc"
    assert pickle.loads(pickle.dumps(abc.Lease("k", "o", 1))) == abc.Lease("k", "o", 1)
