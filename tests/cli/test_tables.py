"""Tables of models and jobs on a terminal of 80 columns: nothing that is copied or compared is folded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rich.console import Console

from secateur.cli import jobs, models
from secateur.v1 import models_pb2, prune_pb2

FOLDER = "/srv/checkpoints/of-the-whole-team/smollm2-135m-instruct/slim-0.70-seed-3"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    console = Console(width=80, record=True, soft_wrap=False)
    for module in (models, jobs):
        monkeypatch.setattr(module, "console", console)
    monkeypatch.setattr(models, "print_status", lambda line: console.print(line, soft_wrap=True))
    yield console


def test_models(narrow: Console) -> None:
    slim = models_pb2.Model(name="slim", aliases=["default"])
    for number, state in ((1, models_pb2.MODEL_STATE_SERVING), (2, models_pb2.MODEL_STATE_FAILED)):
        version = slim.versions.add(version=str(number), state=state, active=number == 1, max_model_len=8192)
        version.checkpoint.folder = f"{FOLDER}-{number}"
        version.checkpoint.dense_parameters.non_embedding = 106_000_000
        version.checkpoint.kept_parameters.non_embedding = 74_200_000
        version.counters.finished_requests = 1_234_567
    slim.versions[1].reason = "the weights on disk have changed since they were loaded"
    models._print([slim])
    text = narrow.export_text()
    table, folders = text.split("slim 1: ")
    assert max(len(line) for line in table.splitlines()) <= 80
    for whole in ("version", "running", "requests", "1 *", "8192", "1234567", "70%", "= default"):
        assert whole in table
    assert f"{FOLDER}-1" in folders and f"slim 2: {FOLDER}-2" in folders


def test_jobs(narrow: Console) -> None:
    job = prune_pb2.PruneJob(name="pruneJobs/prune-1f2e3d4c5b6a", display_name="for the long evening run")
    job.progress.evaluations_done, job.progress.evaluations_total = 120, 150
    job.progress.best.kl = 0.12345
    narrow.print(jobs._table([job]))
    text = narrow.export_text()
    assert max(len(line) for line in text.splitlines()) <= 80
    for whole in ("prune-1f2e3d4c5b6a", "120/150", "0.1235", "evaluations", "best KL"):
        assert whole in text
