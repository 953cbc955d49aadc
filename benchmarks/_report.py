"""What every benchmark tells beside its figures: the machine, its load, the command; medians with their spread."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def import_from_here() -> None:
    """Let `import tanuki_async` find this repository, installed or not."""
    sys.path.insert(0, str(ROOT))


def surroundings() -> dict[str, Any]:
    """What a reader must know to judge the figures; taken at the start."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "revision": _revision(),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_at_start": load(),
    }


def load() -> list[float]:
    """Load averages of the last 1, 5 and 15 minutes; empty where the system has none."""
    return [round(each, 2) for each in os.getloadavg()] if hasattr(os, "getloadavg") else []


def write(path: Path | None, what: dict[str, Any], figures: dict[str, Any]) -> None:
    """Keep everything as JSON: the surroundings, the load at the end, and each single figure."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**what, "load_at_end": load(), **figures}, indent=1) + "\n")


def spread(values: Sequence[float], digits: int = 2, scale: float = 1.0) -> str:
    """The median, with the least and the most."""
    if not values:
        return "—"
    shown = [f"{value * scale:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]}…{shown[2]})"


def show(figures: dict[str, Sequence[float]]) -> None:
    """Print one figure a line: median, least and most."""
    for name, values in figures.items():
        print(f"{name:66} {spread(values, 3)}")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _revision() -> str:
    """The commit, with `-dirty` where files were changed since; empty outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
