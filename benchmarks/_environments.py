"""A virtual environment for each client, with pinned releases: libraries that exclude each other can be compared."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACE = Path(os.environ.get("TANUKI_BENCHMARK_ENVS") or Path(__file__).parent / ".envs")
OURS, PLOT = "ours", "plot"

PINS: dict[str, tuple[str, ...]] = {
    OURS: (),  # this repository, with whatever a base install brings
    "httpx": ("httpx==0.28.1", "pydantic==2.14.3"),
    "aiohttp": ("aiohttp==3.14.5", "pydantic==2.14.3"),
    "openai": ("openai==3.54.0",),
    "instructor": ("instructor==1.17.0",),
    "magentic": ("magentic==0.41.1",),
    "pydantic_ai": ("pydantic-ai-slim[openai]==2.68.0",),
    "litellm": ("litellm==1.106.2",),
    PLOT: ("matplotlib==3.11.2",),
}
NOT_COUNTED = {"pip", "setuptools", "wheel"}


@dataclass(frozen=True)
class Environment:
    """A Python with one client. `place` is None for the Python that runs this, used as it is."""

    name: str
    place: Path | None

    @property
    def python(self) -> str:
        if self.place is None:
            return sys.executable
        return str(self.place / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))

    @property
    def packages(self) -> Path | None:
        return None if self.place is None else next(self.place.glob("[Ll]ib/**/site-packages"))

    def variables(self) -> dict[str, str]:
        """The environment of a process in it: no settings of one's own, nothing fetched at import."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TANUKI_"))}
        kept |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "sk-benchmark"}
        kept.pop("PYTHONPATH", None)
        return kept if self.place is not None else {**kept, "PYTHONPATH": str(ROOT)}

    def versions(self) -> dict[str, str]:
        """All distributions in it and their releases, without the installer."""
        found = distributions() if self.packages is None else distributions(path=[str(self.packages)])
        pairs = ((each.name, each.version) for each in found)
        return dict(sorted((name, version) for name, version in pairs if name not in NOT_COUNTED))

    def megabytes(self) -> float | None:
        """What it takes on disk, without the installer and without compiled Python."""
        if self.packages is None:
            return None
        ignored = (*NOT_COUNTED, "pkg_resources", "_distutils_hack", "distutils-precedence")
        tops = (top for top in self.packages.iterdir() if not top.name.startswith(ignored))
        files = (file for top in tops for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file())
        return sum(file.stat().st_size for file in files if file.suffix != ".pyc") / 1e6


def here(name: str) -> Environment:
    """The Python that runs this, for a quick look without installing anything."""
    return Environment(name, None)


def ready(name: str) -> Environment:
    """The environment of that name, made now if it is not there as pinned. Ours is installed anew each time."""
    environment = Environment(name, PLACE / name)
    wanted = " ".join(PINS[name]) or hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    noted = PLACE / name / "installed.txt"
    if not noted.exists() or noted.read_text() != wanted:
        print(f"installing {name}: {' '.join(PINS[name]) or ROOT}", file=sys.stderr, flush=True)
        shutil.rmtree(PLACE / name, ignore_errors=True)
        _create(environment)
        _install(environment, *(PINS[name] or (str(ROOT),)))
        noted.write_text(wanted)
    elif name == OURS:
        _install(environment, "--no-deps", "--force-reinstall", str(ROOT))
    return environment


def processor_seconds(command: Sequence[str], environment: Environment, directory: Path) -> float:
    """Run a command; CPU seconds, user and system, of it and of nothing else."""
    process = subprocess.Popen(command, env=environment.variables(), cwd=directory, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return used.ru_utime + used.ru_stime


def _create(environment: Environment) -> None:
    if shutil.which("uv"):
        _run("uv", "venv", "--quiet", "--python", sys.executable, str(environment.place))
    else:
        _run(sys.executable, "-m", "venv", str(environment.place))


def _install(environment: Environment, *what: str) -> None:
    if shutil.which("uv"):
        _run("uv", "pip", "install", "--quiet", "--python", environment.python, *what)
    else:
        _run(environment.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
