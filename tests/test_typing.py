from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TYPING = ROOT / "tests" / "typing"


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.timeout(300)
def test_mypy_infers_the_public_face_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    result = run("mypy", "--cache-dir", str(tmp_path), "tests/typing/api.py", cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.timeout(300)
def test_pyright_infers_the_public_face_and_refuses_what_is_wrong() -> None:
    result = run("pyright", "--pythonpath", sys.executable, "--project", str(TYPING), cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 errors" in result.stdout
