"""No job leaves the folders that the server opens: by what a client names, or by what a file names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.rpc import code_pb2

from secateur.config.option import declared
from secateur.config.prune import PruneOptions
from secateur.serve.failures import RpcError
from secateur.serve.jobs.specification import options_of
from secateur.v1.prune_pb2 import PruneJob, PruneSpec

PATHS = [
    declaration.option.message_field
    for declaration in declared(PruneOptions)
    if declaration.option.is_path and declaration.option.message_field
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder.resolve()


def resolved_model(job: PruneJob, root: Path, folder: Path) -> str:
    return options_of(job, root.parent / "job", [root], lambda name: folder).model


def denied(job: PruneJob, root: Path, folder: Path) -> str:
    with pytest.raises(RpcError) as refused:
        resolved_model(job, root, folder)
    assert refused.value.code == code_pb2.PERMISSION_DENIED
    (violation,) = refused.value.violations
    return violation.field


def slim(folder: Path, dense: Path) -> Path:
    """A checkpoint that says that it was cut from another."""
    folder.mkdir(parents=True)
    dense.mkdir(parents=True, exist_ok=True)
    record = {"model": {"reference": "dense", "path": str(dense)}}
    (folder / "secateur.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("field", [*PATHS, "path"])
def test_every_path_of_a_job(field: str, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("text")
    job = PruneJob(spec=PruneSpec(keep=[0.8], **({} if field == "path" else {"model": "m"})))
    value = getattr(job.spec, field)
    if isinstance(value, str):
        setattr(job.spec, field, str(outside))
    else:
        value.append(str(outside))
    assert denied(job, root, root).startswith(f"prune_job.spec.{field}")


def test_there_are_such_fields() -> None:
    assert set(PATHS) >= {"corpora", "validation", "latency_table"}


class TestWhatACheckpointWasCutFrom:
    JOB = PruneJob(spec=PruneSpec(model="m", keep=[0.8]))

    def test_a_checkpoint_that_a_client_may_have_written_names_nothing_outside(
        self, root: Path, tmp_path: Path
    ) -> None:
        folder = slim(root / "slim", tmp_path / "outside")
        assert denied(self.JOB, root, folder) == "prune_job.spec.model"

    def test_it_may_name_what_lies_below_the_roots(self, root: Path) -> None:
        folder = slim(root / "slim", root / "dense")
        assert resolved_model(self.JOB, root, folder) == str(root / "dense")

    def test_a_checkpoint_of_the_operator_may_name_anything(self, root: Path, tmp_path: Path) -> None:
        folder = slim(tmp_path / "slim", tmp_path / "outside")
        assert resolved_model(self.JOB, root, folder) == str(tmp_path / "outside")
