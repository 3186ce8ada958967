"""`--corpus self`: the model's own text, the same for a seed, written once, part of the study's identity.

The model here is random, and so is what it writes; what counts is that a whole job runs on it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.calibrate import self_text
from secateur.calibrate.corpus import load_corpora
from secateur.calibrate.self_text import generate_text
from secateur.checkpoint.source import ModelSource, open_source
from secateur.checkpoint.transformers_module import transformers_module
from secateur.config.prune import PruneOptions
from secateur.errors import BadInput, StudyMismatch
from secateur.prune.pipeline import prune
from secateur.prune.preparation import load_model


class Quiet:
    """A reporter that remembers its stages and what was said."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.said: list[str] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append(name)

    def step(self, note: str = "", count: int = 1) -> None: ...

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module")
def source(tiny_llama: Path) -> ModelSource:
    return open_source(tiny_llama)


def written(source: ModelSource, seed: int = 0, **changes: Any) -> str:
    asked = {"tokens": 3000, "length": 32} | changes
    return generate_text(load_model(source), source.tokenizer(), seed=seed, reporter=Quiet(), **asked)


def test_the_same_for_a_seed_and_another_for_another(source: ModelSource) -> None:
    before = torch.random.get_rng_state()
    first = written(source)
    assert first == written(source) != written(source, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())  # nobody else's randomness is touched


def test_as_much_as_was_asked_for(source: ModelSource) -> None:
    tokens = source.tokenizer()(written(source), add_special_tokens=False)["input_ids"]
    assert len(tokens) >= 3000


def test_special_tokens_are_never_drawn(source: ModelSource) -> None:
    tokenizer = source.tokenizer()
    special = sorted(set(tokenizer.all_special_ids))
    module = transformers_module(load_model(source))
    with torch.inference_mode():
        drawn = self_text._sequences(module, self_text._starts(tokenizer, special), special, 32)
    assert drawn.shape == (self_text.BATCH, 32)
    assert not set(drawn.flatten().tolist()) & set(special)


def test_drawn_from_the_models_distribution(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to no nucleus it is greedy decoding, as transformers does it."""
    monkeypatch.setattr(self_text, "TOP_P", 1e-6)
    module = transformers_module(load_model(source))
    starts = torch.arange(10, 14)[:, None]
    with torch.inference_mode():
        drawn = self_text._sequences(module, starts, [0, 1], 12)
        greedy = module.generate(  # type: ignore[operator]
            starts,
            do_sample=False,
            max_new_tokens=11,
            suppress_tokens=[0, 1],
            eos_token_id=None,
            pad_token_id=0,
        )
    assert torch.equal(drawn, greedy)


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
    options, notes = options_for(tiny_llama, tmp_path / "slim"), Quiet()
    record = prune(options, notes)
    assert any(stage.startswith("writing") for stage in notes.stages)
    assert record["corpora"] == ["self"] and record["corpus_digests"]["self"]
    again = Quiet()
    second = prune(replace(options, out=tmp_path / "again", study=options.study_url), again)
    assert not any(stage.startswith("writing") for stage in again.stages)
    assert second["corpus_digests"] == record["corpus_digests"]
    assert second["architecture"] == record["architecture"]


def test_mixed_with_other_text_and_judged_by_other_text(tiny_llama: Path, tmp_path: Path) -> None:
    options = options_for(
        tiny_llama, tmp_path / "slim", corpus=("self", "pydoc:calibration"), validation=("pydoc:validation",)
    )
    record = prune(options, Quiet())
    assert record["corpora"] == ["self", "pydoc:calibration", "pydoc:validation"]


def test_text_that_changed_is_another_study(tiny_llama: Path, tmp_path: Path) -> None:
    options = options_for(tiny_llama, tmp_path / "slim", evaluations=1)
    prune(options, Quiet())
    (file,) = options.study_folder.glob("self-*.txt")
    file.write_text(file.read_text() + " more")
    with pytest.raises(StudyMismatch, match="another corpus"):
        prune(replace(options, out=tmp_path / "again", study=options.study_url), Quiet())


def test_only_to_calibrate_on() -> None:
    with pytest.raises(BadInput, match="corpus: got self: a model's own text is only to calibrate on"):
        load_corpora(["pydoc", "self"])
