"""The fingerprint of a model: another when any byte of it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from secateur.checkpoint import fingerprint
from secateur.checkpoint.source import open_source

Editable = Callable[[Path], Path]


def test_same_bytes_elsewhere_are_the_same_model(tiny_llama: Path, editable: Editable) -> None:
    assert open_source(tiny_llama).fingerprint == open_source(editable(tiny_llama)).fingerprint


@pytest.mark.parametrize("name", ["model.layers.2.mlp.down_proj.weight", "model.norm.weight"])
def test_one_changed_weight_changes_it(tiny_llama: Path, editable: Editable, name: str) -> None:
    folder = editable(tiny_llama)
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}
    tensors[name].view(-1)[-1].add_(1e-3)
    save_file(tensors, folder / "model.safetensors")
    assert open_source(tiny_llama).fingerprint != open_source(folder).fingerprint


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_config_and_tokenizer_count(tiny_llama: Path, editable: Editable, name: str) -> None:
    folder = editable(tiny_llama)
    (folder / name).write_text((folder / name).read_text() + "\n")
    assert open_source(tiny_llama).fingerprint != open_source(folder).fingerprint


def test_chunks_past_the_first_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "CHUNK", 8)
    file = tmp_path / "weights"
    digests = set()
    for content in (b"x" * 20, b"x" * 19 + b"y", b"x" * 8 + b"y" + b"x" * 11, b"x" * 21, b""):
        file.write_bytes(content)
        digests.add(fingerprint.fingerprint_files([file]))
    assert len(digests) == 5
