"""The benchmarks run and write what a reader of their results needs. Nothing is installed, no figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import _redis
import pytest
from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
QUICK = ["bench_call.py", "bench_import.py", "bench_map.py", "bench_limits.py", "bench_filter.py", "bench_embed.py"]


def run(script: str, results: Path, env: dict[str, str], *more: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, str(BENCHMARKS / script), "--quick", "--json", str(results), *more]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=55)
    assert done.returncode == 0, done.stderr
    return json.loads(results.read_text()), done.stdout


@pytest.mark.parametrize("script", QUICK)
def test_a_benchmark_runs_and_tells_its_surroundings(
    script: str, tmp_path: Path, subprocess_env: dict[str, str]
) -> None:
    told, shown = run(script, tmp_path / "results" / "of.json", subprocess_env)

    assert shown.strip()
    assert script in told["command"]
    assert {"python", "machine", "cores", "load_at_start", "load_at_end", "revision"} <= told.keys()


def test_the_call_benchmark_keeps_each_figure_of_each_client(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    told, shown = run("bench_call.py", tmp_path / "call.json", subprocess_env, "--clients", "bare,ours")

    assert "tanuki_async" in shown
    assert list(told["rounds"]) == ["bare", "ours"]
    for client in told["rounds"].values():
        for phase in ("1", "32", "32 late"):
            assert [figure for figure in client[phase] if "error" in figure] == []
            assert client[phase][0]["calls"] > 0
            assert client[phase][0]["cpu_ms"] > 0
    assert told["weights"]["ours"]["versions"]["pydantic"]
    assert told["ratios"]


def test_nothing_is_lost_or_out_of_order_while_storage_fails(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    pytest.importorskip("redis.asyncio.sentinel")
    if _redis.find_server() is None:
        pytest.skip(_redis.WHY)

    told, _ = run("bench_storage_faults.py", tmp_path / "faults.json", subprocess_env, "--places", "redis")

    found = told["places"]["redis"]
    assert found["calls"] == found["records"] + found["missing"] > 0
    assert found["waited at the end of a fault"] > [0]
    assert (found["lost"], found["twice"], found["out of order"]) == (0, 0, 0)
    assert found["p99 failing / well"] > 0


def test_opening_is_measured_in_new_processes(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    told, _ = run("bench_opening.py", tmp_path / "opening.json", subprocess_env, "--places", "file")

    found = told["places"]["file"]
    assert len(found["open and first append, s"]) == 1
    assert found["distinct taken for others, %"][0] < 1


def test_the_picture_is_drawn_from_the_kept_figures(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "benchmark.png"

    run("bench_call.py", tmp_path / "call.json", subprocess_env, "--clients", "ours", "--plot", str(picture))

    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_scripts_explain_themselves(subprocess_env: dict[str, str]) -> None:
    for script in [*QUICK, "bench_opening.py", "bench_storage_faults.py"]:
        command = [sys.executable, str(BENCHMARKS / script), "--help"]
        told = subprocess.run(command, env=subprocess_env, capture_output=True, text=True, check=True).stdout
        assert "--json" in told
        assert "--repeats" in told


def test_what_is_recorded_fast_reaches_s3_in_large_objects(tmp_path: Path, subprocess_env: dict[str, str]) -> None:
    results = tmp_path / "s3.json"
    command = [sys.executable, str(BENCHMARKS / "bench_s3.py"), "--items", "9000", "--repeats", "1"]
    subprocess.run([*command, "--json", str(results)], env=subprocess_env, check=True, capture_output=True, timeout=55)

    figures = json.loads(results.read_text())["figures"]
    assert figures["sustained distinct records/s to S3"][0] > 0
    assert max(figures["size of a segment, MiB"]) >= 1
