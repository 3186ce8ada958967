"""A prune killed in mid-search and started again loses nothing and ends as if it had not been killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

EVALUATIONS = 24
KILL_AFTER = 20  # recorded architectures: past the single cuts, in the rounds of the search


@pytest.fixture(scope="module")
def dense(make_tiny: Callable[..., Path]) -> Path:
    return make_tiny("llama", num_hidden_layers=4)


def command(dense: Path, out: Path) -> list[str]:
    options = ["--keep", "0.7", "--corpus", "pydoc", "--evaluations", str(EVALUATIONS), "--quantum", "32"]
    small = ["--window", "64", "--calibration-tokens", "4096", "--search-windows", "8"]
    arguments = ["prune", str(dense), "--out", str(out), *options, *small, "--json"]
    return [sys.executable, "-m", "secateur.cli.app", *arguments]


def recorded(study: Path) -> int:
    """Whole lines of the journal that hold an evaluated architecture."""
    journal = study / "study.journal"
    text = journal.read_text() if journal.is_file() else ""
    return sum('"origin"' in line for line in text.splitlines(keepends=True) if line.endswith("\n"))


def finish(dense: Path, out: Path) -> dict[str, object]:
    done = subprocess.run(command(dense, out), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(dense: Path, tmp_path: Path) -> None:
    expected = finish(dense, tmp_path / "whole")
    out, study = tmp_path / "killed", tmp_path / "killed.study"
    process = subprocess.Popen(command(dense, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while recorded(study) < KILL_AFTER:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = recorded(study)
    assert not out.exists()
    with (study / "study.journal").open("a") as journal:
        journal.write('{"op_code": 4, "wor')  # as if killed while writing a line
    resumed = finish(dense, out)
    assert KILL_AFTER <= before < recorded(study) == recorded(tmp_path / "whole.study")
    assert resumed["architecture"] == expected["architecture"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert not list(tmp_path.glob(".*partial*"))
