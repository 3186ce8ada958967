"""Whole jobs on another device than the CPU: nothing stays behind, and the host seldom waits.

Proven on a device that holds its tensors in host memory (`tests/pretend_device.py`), as strict about mixed
operands as a GPU, with copies counted by the line that asks for them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.host import ROOT
from secateur.evaluation.batch import DEFAULT_GROUP

FAST = (
    "cpu",
    "prune",
    "cut",
    "evaluate on cpu",
    "evaluate",
    "a planted tensor of the host",
    "a planted wait",
)
SLOW = (
    "cpu",
    "prune",
    "streamed",
    "fetches",
    "evaluate on cpu",
    "evaluate streamed",
    "self",
    "fisher streamed",
    "fisher",
    "paper",
)


def run(folder: Path, model: Path, text: str, names: tuple[str, ...]) -> dict[str, Any]:
    (folder / "text.txt").write_text(text[:24_000])
    command = [sys.executable, "-m", "tests.prune.on_pretend_device"]
    arguments = [str(model), str(folder / "text.txt"), str(folder), *names]
    done = subprocess.run([*command, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    documents: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return documents


@pytest.fixture(scope="module")
def jobs(tiny_llama: Path, english: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every job came to."""
    return run(tmp_path_factory.mktemp("devices"), tiny_llama, english, FAST)


@pytest.fixture(scope="module")
def more_jobs(tiny_llama: Path, english: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same of the others."""
    return run(tmp_path_factory.mktemp("devices"), tiny_llama, english, SLOW)


@pytest.mark.parametrize("name", ["prune", "cut", "evaluate"])
def test_a_job_runs_whole(jobs: dict[str, Any], name: str) -> None:
    assert "error" not in jobs[name]
    assert sum(jobs[name]["to_device"].values())  # it was there


@pytest.mark.slow
@pytest.mark.parametrize("name", ["streamed", "self", "fisher", "paper"])
def test_other_jobs_run_whole(more_jobs: dict[str, Any], name: str) -> None:
    test_a_job_runs_whole(more_jobs, name)


@pytest.mark.slow
def test_gradients_are_refused_where_layers_are_streamed(more_jobs: dict[str, Any]) -> None:
    assert more_jobs["fisher streamed"]["error"].startswith(
        "criterion: got obs-fisher: needs the whole model"
    )


def test_it_finds_what_the_cpu_finds(jobs: dict[str, Any], name: str = "prune") -> None:
    for there, here in zip(jobs[name]["result"], jobs["cpu"]["result"], strict=True):
        assert there["architecture"] == here["architecture"]
        assert there["search"]["kl"] == pytest.approx(here["search"]["kl"], rel=1e-3)
        assert there["slim"]["perplexity"] == pytest.approx(here["slim"]["perplexity"], rel=1e-3)


@pytest.mark.slow
def test_streamed_it_finds_the_same(more_jobs: dict[str, Any]) -> None:
    test_it_finds_what_the_cpu_finds(more_jobs, "streamed")
    test_an_evaluation_finds_what_the_cpu_finds(more_jobs, "evaluate streamed")


def test_an_evaluation_finds_what_the_cpu_finds(jobs: dict[str, Any], name: str = "evaluate") -> None:
    assert jobs[name]["result"]["slim"]["perplexity"] == pytest.approx(
        jobs["evaluate on cpu"]["result"]["slim"]["perplexity"], rel=1e-5
    )


def waits(job: dict[str, Any], folder: str) -> Counter[str]:
    return Counter({line: count for line, count in job["to_host"].items() if line.startswith(folder)})


def test_an_evaluation_waits_once_per_group_of_candidates(jobs: dict[str, Any]) -> None:
    search = jobs["prune"]["result"][0]["search"]
    evaluator = waits(jobs["prune"], "evaluation/")
    assert set(evaluator) == {"evaluation/evaluator.py:_on_host", "evaluation/evaluator.py:dense_nll"}
    # Single cuts and rounds in groups; finalists on every rung of their race, and the winners again.
    races = 2 * 5
    assert evaluator["evaluation/evaluator.py:_on_host"] <= 3 * search["pairs"] / DEFAULT_GROUP + races


@pytest.mark.slow
def test_layers_that_are_streamed_come_once_for_all_candidates(more_jobs: dict[str, Any]) -> None:
    found = more_jobs["fetches"]["result"]
    passes = 2  # the dense model's, and one for all candidates; a pass ends with the first layer on its way
    assert found["fetched"] <= passes * (found["layers"] + 1)


@pytest.mark.slow
def test_gradients_wait_no_more_than_that(more_jobs: dict[str, Any]) -> None:
    test_calibration_waits_once_per_sub_block_beside_writing_its_results(more_jobs, "fisher")


def test_calibration_waits_once_per_sub_block_beside_writing_its_results(
    jobs: dict[str, Any], name: str = "prune"
) -> None:
    sub_blocks = 2 * len(jobs[name]["result"][0]["architecture"]["groups"])
    found = waits(jobs[name], "calibrate/")
    written = found.pop("calibrate/calibration.py:<dictcomp>")
    assert written <= 20 * sub_blocks
    assert sum(found.values()) <= sub_blocks  # are activations finite?


def test_mixed_devices_and_waits_are_noticed(jobs: dict[str, Any]) -> None:
    """The tests above can fail."""
    assert "same device" in jobs["a planted tensor of the host"]["error"]
    planted = jobs["a planted wait"]["to_host"]
    assert planted.keys() - jobs["prune"]["to_host"].keys()
