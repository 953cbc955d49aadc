"""What an import costs and what an installation weighs: ours beside `import asyncio, pydantic, mmh3`.

    python benchmarks/bench_import.py [--repeats 15] [--json PATH]

`import tanuki_async` alone loads little, since its names are imported when first used; what a program pays is the line
below it, and the one after that what a program has paid that is ready to call. Every repeat is a process of its own,
started in a rotating order in a freshly installed environment; CPU seconds are the system's count for that process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import _environments
import _report
from _environments import Environment

BASE = "import asyncio, pydantic, mmh3"  # which loads the half of pydantic; names are imported when first used
USED = "import asyncio, mmh3; from pydantic import BaseModel, TypeAdapter"
READY = "from tanuki_async import patch, Tanuki"
DECORATED = """
import asyncio, tanuki_async as t
@t.patch
async def f(text: str) -> bool:
    '''Tell whether a text is a question.'''
    ...
async def main():
    async with t.Tanuki(storage="memory:", teacher_models="openai:gpt-6.1-sol"):
        pass
asyncio.run(main())
"""
PROGRAMS = {
    "nothing": "pass",
    BASE: BASE,
    USED: USED,
    "import tanuki_async": "import tanuki_async",
    READY: READY,
    "a decorated function and an open Tanuki": DECORATED,
}
HEAVY = ("httpx", "aiohttp", "redis", "aioboto3", "numpy", "sklearn", "rich")


def resident(program: str, environment: Environment, directory: Path) -> float:
    """Megabytes that a process takes once it has run the program."""
    tell = "\nprint([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmRSS')][0])"
    told = _run(program + tell, environment, directory)
    return int(told) / 1024


def loaded(environment: Environment, directory: Path) -> list[str]:
    """Which heavy libraries a program has loaded that is ready to call."""
    tell = f"\nimport json, sys; print(json.dumps(sorted(set(sys.modules) & set({HEAVY}))))"
    return json.loads(_run(DECORATED + tell, environment, directory))


def _run(program: str, environment: Environment, directory: Path) -> str:
    command = [environment.python, "-c", program]
    return subprocess.run(
        command, env=environment.variables(), cwd=directory, capture_output=True, text=True, check=True
    ).stdout.strip()


def measure(environment: Environment, repeats: int, directory: Path) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    names = list(PROGRAMS)
    for name in names:
        _run(PROGRAMS[name], environment, directory)  # compiles what was never imported before
    for number in range(repeats):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            command = [environment.python, "-c", PROGRAMS[name]]
            figures[name].append(_environments.processor_seconds(command, environment, directory) * 1e3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="in the Python that runs this; installs nothing")
    parser.add_argument("--json", type=Path, help="where to keep all figures")
    options = parser.parse_args()
    environment = _environments.here("ours") if options.quick else _environments.ready(_environments.OURS)
    what = _report.surroundings()
    with tempfile.TemporaryDirectory() as scratch:
        cpu = measure(environment, 2 if options.quick else options.repeats, Path(scratch))
        figures = {f"CPU of {name}, ms": each for name, each in cpu.items()}
        for name, base in (("import tanuki_async", BASE), (READY, BASE), (READY, USED)):
            figures[f"{name} / {base}"] = [a / b for a, b in zip(cpu[name], cpu[base], strict=True)]
        for name, program in PROGRAMS.items():
            figures[f"RSS of {name}, MB"] = [resident(program, environment, Path(scratch))]
        heavy = loaded(environment, Path(scratch))
    versions, megabytes = environment.versions(), environment.megabytes()
    figures["distributions"] = [len(versions)]
    if megabytes is not None:
        figures["MB installed"] = [megabytes]
    _report.show(figures)
    print(f"heavy libraries loaded: {', '.join(heavy) or 'none'}")
    _report.write(options.json, what, {"figures": figures, "heavy": heavy, "versions": versions})


if __name__ == "__main__":
    main()
