"""One typed call, ours beside others: CPU, calls per second, latency, stalls, memory, weight.

    python benchmarks/bench_call.py [--json benchmarks/results/call.json] [--plot docs/benchmark.png]
    python benchmarks/bench_call.py --quick           # a minute at most; installs nothing

Each client runs in a process of its own, from an environment of its own that is made at the first run. A round starts
all of them anew, then goes through the levels; at each level they take their turn, in an order that rotates.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import _environments
import _report
import _server
from _environments import Environment

HERE = Path(__file__).parent
TITLES = {  # client → how the tables call it; also the order of the tables
    "bare": "our transport alone",
    "ours": "**tanuki_async**",
    "aiohttp": "aiohttp, by hand",
    "httpx": "httpx, by hand",
    "openai": "openai SDK `parse`",
    "magentic": "magentic",
    "instructor": "instructor",
    "litellm": "litellm",
    "pydantic_ai": "pydantic-ai",
}
IMPORTS = {  # what a program that uses it imports
    "bare": "from tanuki_async import patch, Tanuki",
    "ours": "from tanuki_async import patch, Tanuki",
    "aiohttp": "import aiohttp; from pydantic import BaseModel",
    "httpx": "import httpx; from pydantic import BaseModel",
    "openai": "from openai import AsyncOpenAI; from pydantic import BaseModel",
    "magentic": "from magentic import chatprompt, OpenaiChatModel; from pydantic import BaseModel",
    "instructor": "import instructor; from openai import AsyncOpenAI; from pydantic import BaseModel",
    "litellm": "import litellm; from pydantic import BaseModel",
    "pydantic_ai": "from pydantic_ai import Agent; from pydantic_ai.models.openai import OpenAIChatModel",
}
PHASE_LIMIT = 180.0
SLOW_SECONDS = 3.0
Figures = dict[str, Any]
Results = dict[str, dict[str, list[Figures]]]  # client → phase → one per round


def levels(seconds: float) -> list[dict[str, dict[str, Any]]]:
    """What is measured one after the other; the phases of one level belong together, for their warm connections."""
    many = {"in_flight": 1_000, "seconds": 3 * seconds}
    return [
        {"1": {"in_flight": 1, "seconds": seconds}},
        {"32": {"in_flight": 32, "seconds": seconds, "waves": 8}},
        {"256": {"in_flight": 256, "seconds": 2 * seconds, "waves": 2}},
        {"1000": many, "1000 late": {**many, "seconds": 4 * seconds, "late": True}},
    ]


def quick_levels() -> list[dict[str, dict[str, Any]]]:
    return [
        {"1": {"in_flight": 1, "seconds": 0.05, "most": 200}},
        {"32": {"in_flight": 32, "seconds": 0.05, "most": 400}},
        {"32 late": {"in_flight": 32, "seconds": 0.2, "late": True, "most": 400}},
    ]


class Client:
    """A process with one client, which measures a phase when it is told to."""

    def __init__(self, name: str, environment: Environment, url: str, scratch: Path) -> None:
        self.name = name
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        command = [environment.python, str(HERE / "_worker.py"), name, url, str(scratch)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env=environment.variables(),
            cwd=scratch,
        )
        self.ready = self._hear()

    def measure(self, phase: dict[str, Any]) -> Figures:
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self._process.stdin.write(json.dumps(phase) + "\n")
            self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Figures:
        assert self._process.stdout is not None
        late = threading.Timer(PHASE_LIMIT, self._process.kill)
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        if line:
            return json.loads(line)
        self._process.wait()
        self._complaints.seek(0)
        why = self._complaints.read().strip().splitlines() or [f"no answer within {PHASE_LIMIT:g} s"]
        print(f"{self.name} failed: {why[-1]}", file=sys.stderr)
        return {"error": why[-1][:300]}

    def close(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.communicate(timeout=30)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        self._complaints.close()


def one_round(number: int, environments: dict[str, Environment], plan: list[Any], results: Results) -> None:
    names = list(environments)
    with _server.running() as url, ExitStack() as stack:
        clients: dict[str, Client] = {}
        for name, environment in environments.items():
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            started = _environments.processor_seconds([environment.python, "-c", IMPORTS[name]], environment, scratch)
            clients[name] = Client(name, environment, url, scratch)
            stack.callback(clients[name].close)
            results[name].setdefault("start", []).append({**clients[name].ready, "import_ms": started * 1e3})
        for at, level in enumerate(plan):
            turn = (number + 2 * at) % len(names)
            for name in names[turn:] + names[:turn]:
                if number % 2 and slow(results[name], level):
                    continue
                for phase, how in level.items():
                    results[name].setdefault(phase, []).append({"round": number, **clients[name].measure(how)})
            print(f"round {number + 1}: {' and '.join(level)} in flight done", file=sys.stderr, flush=True)


def slow(phases: dict[str, list[Figures]], level: dict[str, Any]) -> bool:
    """Whether a level took this client so long in the first round that every second round has to do."""
    return any(phases[phase][0].get("seconds", 0) > SLOW_SECONDS for phase in level)


def values(results: Results, client: str, phase: str, field: str) -> list[float]:
    return [each[field] for each in results.get(client, {}).get(phase, []) if each.get(field) is not None]


def against(results: Results, phase: str, field: str, one: str, other: str, *, ratio: bool = True) -> list[float]:
    """Round by round, one client's figure over another's, or minus it."""
    by_round = ({each["round"]: each.get(field) for each in results[name].get(phase, ())} for name in (one, other))
    ones, others = by_round
    both = [(ones[number], others[number]) for number in ones if ones[number] and others.get(number)]
    return [a / b if ratio else a - b for a, b in both]


def compare(results: Results) -> dict[str, list[float]]:
    """What does not depend on how fast the machine was: ratios and differences within a round."""
    found: dict[str, list[float]] = {}
    if "ours" in results and "bare" in results:
        found |= above_bare(results)
    for other in sorted(results.keys() - {"ours", "bare"} if "ours" in results else ()):
        for phase in ("1", "32", "256", "1000"):
            found[f"CPU of {other} over ours, {phase} in flight"] = against(results, phase, "cpu_ms", other, "ours")
    return {name: each for name, each in found.items() if each}


def above_bare(results: Results) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for phase in ("1", "32", "256", "1000"):
        added = against(results, phase, "cpu_ms", "ours", "bare", ratio=False)
        found[f"CPU above our transport alone, {phase} in flight, µs"] = [each * 1e3 for each in added]
    added = against(results, "1", "median_ms", "ours", "bare", ratio=False)
    found["latency above our transport alone, 1 in flight, µs"] = [each * 1e3 for each in added]
    found["longest gap above our transport alone, 32 in flight, ms"] = against(
        results, "32", "gap_ms", "ours", "bare", ratio=False
    )
    found["calls/s over our transport alone, 200 ms x 1,000"] = against(
        results, "1000 late", "per_second", "ours", "bare"
    )
    growth = zip(values(results, "ours", "1000", "cpu_ms"), values(results, "ours", "32", "cpu_ms"), strict=False)
    found["our CPU per call at 1,000 in flight over that at 32"] = [a / b for a, b in growth]
    return found


def tables(results: Results, weights: dict[str, Any]) -> str:
    """The medians, as Markdown."""
    steps = [step for step in ("1", "32", "256", "1000") if any(step in each for each in results.values())]
    late = next((phase for each in results.values() for phase in each if phase.endswith("late")), "")
    head = ["client, same task", *(f"CPU ms, {step}" for step in steps), *(f"calls/s, {step}" for step in steps)]
    head += [f"200 ms × {late.split()[0]}: calls/s", "longest gap, ms", "ms, 1 in flight"]
    head += ["RSS MB", "import, CPU ms", "distributions", "MB"]
    rows: list[list[str]] = []
    for name in results:
        row = [TITLES[name]]
        row += [middle(results, name, step, "cpu_ms", 3) for step in steps]
        row += [middle(results, name, step, "per_second", 0) for step in steps]
        row += [middle(results, name, late, "per_second", 0), middle(results, name, late, "gap_ms", 0)]
        row += [middle(results, name, "1", "median_ms", 3), middle(results, name, late, "peak_mb", 0)]
        row += [middle(results, name, "start", "import_ms", 0)]
        size = weights[name]["megabytes"]
        row += [str(len(weights[name]["versions"])), "—" if size is None else f"{size:.0f}"]
        rows.append(row)
    return _report.markdown(head, rows)


def middle(results: Results, client: str, phase: str, field: str, digits: int) -> str:
    found = values(results, client, phase, field)
    return f"{statistics.median(found):,.{digits}f}" if found else "—"


def environments_for(names: Sequence[str], *, quick: bool) -> dict[str, Environment]:
    if not quick:
        return {name: _environments.ready(_environments.OURS if name == "bare" else name) for name in names}
    found = [name for name in names if name in ("ours", "bare") or importlib.util.find_spec(name)]
    return {name: _environments.here(name) for name in found}


def draw(results: Path, picture: Path, *, quick: bool) -> None:
    """Make the picture, with matplotlib in an environment of its own."""
    environment = _environments.here("plot") if quick else _environments.ready(_environments.PLOT)
    subprocess.run([environment.python, str(HERE / "_plot.py"), str(results), str(picture)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds; 5")
    parser.add_argument("--seconds", type=float, default=0.7, help="about how long one client has at one level; 0.7")
    parser.add_argument("--clients", default=None, help=f"which, by comma; of {','.join(TITLES)}")
    parser.add_argument(
        "--quick", action="store_true", help="prove that it runs: ours, httpx, aiohttp if they are here"
    )
    parser.add_argument("--json", type=Path, help="where to keep all figures")
    parser.add_argument("--plot", type=Path, help="where to draw them; wants --json")
    options = parser.parse_args()
    if options.plot and not options.json:
        parser.error("--plot draws what --json keeps: give both")
    what = _report.surroundings()
    names = (options.clients or ("bare,ours,aiohttp,httpx" if options.quick else ",".join(TITLES))).split(",")
    environments = environments_for(names, quick=options.quick)
    results: Results = {name: {} for name in environments}
    what["load_at_start"] = _report.load()  # once more, after installing
    for number in range(1 if options.quick else options.repeats):
        plan = quick_levels() if options.quick else levels(options.seconds)
        one_round(number, environments, plan, results)
    weights = {
        name: {"versions": each.versions(), "megabytes": each.megabytes()} for name, each in environments.items()
    }
    ratios = compare(results)
    print(tables(results, weights), end="\n\n")
    _report.show(ratios)
    _report.write(options.json, what, {"ratios": ratios, "weights": weights, "rounds": results})
    if options.plot:
        draw(options.json, options.plot, quick=options.quick)


if __name__ == "__main__":
    main()
