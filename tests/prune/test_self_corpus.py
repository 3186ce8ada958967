"""`--corpus self`: a whole job on the model's own text, written once and part of the study's identity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secateur.config.prune import PruneOptions
from secateur.errors import StudyMismatch
from secateur.prune.pipeline import prune


class Notes:
    """A reporter that remembers its stages."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append(name)

    def step(self, note: str = "", count: int = 1) -> None: ...

    def message(self, line: str) -> None: ...


def options_for(model: Path, out: Path, **changes: Any) -> PruneOptions:
    small = PruneOptions(
        model=str(model),
        out=out,
        keep=(0.7,),
        corpus=("self",),
        evaluations=4,
        window=32,
        calibration_tokens=1600,
        search_windows=4,
        quantum=32,
    )
    return replace(small, **changes)


def test_a_job_on_it_is_resumed_without_writing_again(tiny_llama: Path, tmp_path: Path) -> None:
    options, notes = options_for(tiny_llama, tmp_path / "slim"), Notes()
    record = prune(options, notes)
    assert any(stage.startswith("writing") for stage in notes.stages)
    assert record["corpora"] == ["self"] and record["corpus_digests"]["self"]
    again = Notes()
    second = prune(replace(options, out=tmp_path / "again", study=options.study_url), again)
    assert not any(stage.startswith("writing") for stage in again.stages)
    assert second["corpus_digests"] == record["corpus_digests"]
    assert second["architecture"] == record["architecture"]


def test_mixed_with_other_text_and_judged_by_other_text(tiny_llama: Path, tmp_path: Path) -> None:
    options = options_for(
        tiny_llama, tmp_path / "slim", corpus=("self", "pydoc:calibration"), validation=("pydoc:validation",)
    )
    record = prune(options, Notes())
    assert record["corpora"] == ["self", "pydoc:calibration", "pydoc:validation"]


def test_text_that_changed_is_another_study(tiny_llama: Path, tmp_path: Path) -> None:
    options = options_for(tiny_llama, tmp_path / "slim", evaluations=1)
    prune(options, Notes())
    (file,) = options.study_folder.glob("self-*.txt")
    file.write_text(file.read_text() + " more")
    with pytest.raises(StudyMismatch, match="another corpus"):
        prune(replace(options, out=tmp_path / "again", study=options.study_url), Notes())
