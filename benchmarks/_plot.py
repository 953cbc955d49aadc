"""Draws the picture of the README from the JSON of bench_call.py: python _plot.py results/call.json picture.png"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

NAMES = {
    "ours": "tanuki_async", "aiohttp": "aiohttp, by hand", "httpx": "httpx, by hand", "openai": "openai SDK",
    "magentic": "magentic", "instructor": "instructor", "litellm": "litellm", "pydantic_ai": "pydantic-ai",
}  # fmt: skip
STEPS = {"1": "#c6dbef", "32": "#6baed6", "256": "#3182bd", "1000": "#08519c"}
OURS, OTHERS = "#d94801", "#7f7f7f"


def middle(rounds: dict[str, Any], client: str, phase: str, field: str) -> float:
    found = [each[field] for each in rounds[client].get(phase, ()) if each.get(field) is not None]
    return statistics.median(found) if found else float("nan")


def main(results: Path, picture: Path) -> None:
    told = json.loads(results.read_text())
    rounds = told["rounds"]
    names = [name for name in NAMES if name in rounds][::-1]  # bars grow from below
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.55 * len(names) + 1.6), width_ratios=(3, 2))
    height = 0.8 / len(STEPS)
    for at, (step, colour) in enumerate(STEPS.items()):
        widths = [middle(rounds, name, step, "cpu_ms") for name in names]
        places = [place + 0.4 - height * (at + 0.5) for place in range(len(names))]
        left.barh(places, widths, height, color=colour, label=f"{step} in flight")
    left.set_xscale("log")
    left.set_xlim(0.05, 20)
    left.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    left.set_yticks(range(len(names)), [NAMES[name] for name in names])
    left.set_title("CPU per typed call, ms (log scale; less is better)", fontsize=10)
    left.legend(fontsize=8, frameon=False, loc="upper right")
    late = [middle(rounds, name, "1000 late", "per_second") for name in names]
    bars = right.barh(range(len(names)), late, 0.6, color=[OURS if name == "ours" else OTHERS for name in names])
    right.bar_label(bars, [f"{each:,.0f}" for each in late], padding=3, fontsize=9)
    right.axvline(5_000, color="black", linewidth=0.8, linestyle=":")
    right.set_yticks([])
    right.set_xlim(0, 5_900)
    right.set_title("calls/s, 1,000 in flight, answers after 200 ms\n(5,000 possible)", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    for label in left.get_yticklabels():
        if label.get_text() == NAMES["ours"]:
            label.set(color=OURS, weight="bold")
    note = f"one process, Python {told['python']}, {told['cores']} cores shared with others; {told['began'][:10]}"
    figure.text(0.01, 0.005, note, fontsize=7, color="#555555")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
