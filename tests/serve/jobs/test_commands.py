"""`secateur jobs` against a real server: lines for people on stderr, one document on stdout."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from secateur.cli.commands import run
from tests.serve.jobs.running import JobServer

SMALL = (
    "--evaluations 10 --window 32 --calibration-tokens 3200 --search-windows 4 --quantum 32 --corpus text.txt"
)
Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def jobs(job_server: JobServer, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``secateur jobs ...``; returns exit status, the document on stdout, and what stderr says."""

    def command(*arguments: str) -> tuple[int, Any, str]:
        status = run(["jobs", *arguments, "--target", job_server.address, "--json"])
        captured = capsys.readouterr()
        return status, json.loads(captured.out) if captured.out else None, captured.err

    return command


def test_submitted_and_watched(jobs: Command) -> None:
    status, job, said = jobs("submit", "dense", "--keep", "0.7", *SMALL.split(), "--watch", "--title", "mine")
    assert status == 0
    assert job["state"] == "PRUNE_JOB_STATE_SUCCEEDED" and job["display_name"] == "mine"
    assert "[1] created" in said and "searching" in said and "done" in said
    assert f"{job['name']}: succeeded; {job['result']['checkpoints'][0]['folder']}: kept " in said
    _, listed, _ = jobs("list")
    assert job["name"] in [one["name"] for one in listed["jobs"]]
    _, again, _ = jobs("get", job["name"].removeprefix("pruneJobs/"))
    assert again == job
    status, watched, said = jobs("watch", job["name"], "--cursor", "1")
    assert status == 0 and watched == job and "[1]" not in said and "[2] queued" in said
    assert jobs("delete", job["name"])[1] == {"deleted": job["name"]}
    status, document, said = jobs("get", job["name"])
    assert status == 2 and document is None and "NOT_FOUND: no job" in said


def test_a_job_that_fails(jobs: Command) -> None:
    """The exit status of who watches says so."""
    status, document, said = jobs("submit", "dense", "--keep", "0.0001", *SMALL.split(), "--watch")
    assert status == 1 and document["state"] == "PRUNE_JOB_STATE_FAILED"
    assert "the smallest feasible is" in said.splitlines()[-1]


def test_cancelled(jobs: Command) -> None:
    _, job, _ = jobs("submit", "dense", "--keep", "0.7", *SMALL.split(), "--id", f"j-{uuid.uuid4().hex[:8]}")
    status, document, _ = jobs("cancel", job["name"])
    assert status == 0 and document["state"] == "PRUNE_JOB_STATE_CANCELLING"
    status, document, said = jobs("watch", job["name"])
    assert status == 1 and document["state"] == "PRUNE_JOB_STATE_CANCELLED"
    assert "cancelled; what was evaluated is kept for another run" in said


def test_only_checked(jobs: Command) -> None:
    before = jobs("list")[1]
    status, document, said = jobs("submit", "dense", "--keep", "0.7", "--validate-only")
    assert status == 0 and "nothing was made" in said and "name" not in document
    assert jobs("list")[1] == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["submit", "dense", "--keep", "2"], "INVALID_ARGUMENT: prune_job.spec.keep: got 2: allowed is"),
        (["submit", "dense", "--keep", "x"], "--keep: got x: allowed are numbers"),
        (["submit", "nobody", "--keep", "0.8"], "NOT_FOUND: no model 'nobody'"),
        (
            ["submit", "/etc/passwd", "--keep", "0.8"],
            "prune_job.spec.path: got /etc/passwd, allowed are paths",
        ),
        (["cancel", "nothing"], "NOT_FOUND: no job pruneJobs/nothing"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str, jobs: Command) -> None:
    status, document, said = jobs(*arguments)
    assert status == 2 and document is None
    assert line in said and len(said.splitlines()) == 1


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs", "list", "--target", "127.0.0.1:9"]) == 2
    assert "no server answers there" in capsys.readouterr().err
