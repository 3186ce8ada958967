"""The script of `make gpu-check` itself: every step runs, small, on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check.settings import LIMITS
from benchmarks.gpu_check.steps import STEPS
from benchmarks.host import ROOT


def check(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, dict[str, object]]]:
    """Exit status, and what the steps found."""
    out = tmp_path / "check.json"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--pretend", "--out", str(out), *arguments]
    status = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode
    return status, json.loads(out.read_text())["steps"]


@pytest.mark.slow
def test_every_step_runs_small_on_a_cpu(tmp_path: Path) -> None:
    status, steps = check(tmp_path)
    assert list(steps) == list(STEPS) == list(LIMITS)
    assert {name: found["failure"] for name, found in steps.items() if "failure" in found} == {}
    assert all(steps["prune"]["ok"].values())  # type: ignore[attr-defined]
    assert steps["prune"]["killed"]["status"] == -9  # type: ignore[index]
    assert steps["judge"]["ok"]
    assert status == 0


def test_a_step_that_fails_says_why(tmp_path: Path) -> None:
    status, steps = check(tmp_path, "--only", "judge")  # nothing was pruned to judge
    assert status == 1
    assert "slim" in str(steps["judge"]["failure"]) or "0.8" in str(steps["judge"]["failure"])
