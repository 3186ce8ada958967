"""A tiny dense model and a slim one that was cut from it without repair, which has much to learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.export import export
from secateur.checkpoint.source import open_source
from secateur.model.architecture import Architecture
from secateur.prune.surgery import build_slim_model

MIXED = Architecture((2, 1, 0), (64, 0, 192))
UNIFORM = Architecture((1, 1, 1), (64, 64, 64))


@pytest.fixture(scope="session")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Cut a dense folder: ``cut(folder, MIXED)``; the record says where the dense model is."""

    def make(dense: Path, shape: Architecture = MIXED, dtype: torch.dtype = torch.float32) -> Path:
        source = open_source(dense)
        slim = build_slim_model(BlockLibrary(source.load_model(), None, torch.float32), shape)
        out = tmp_path_factory.mktemp("slim") / "slim"
        export(slim, source, out, None, dtype)
        model = {"reference": str(dense), "path": str(dense), "fingerprint": source.fingerprint}
        (out / "secateur.json").write_text(json.dumps({"model": model, "corpora": ["pydoc"]}))
        return out

    return make


@pytest.fixture(scope="session")
def slim_llama(tiny_llama: Path, cut: Callable[..., Path]) -> Path:
    """The tiny Llama in layers of different widths."""
    return cut(tiny_llama)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory, english: str) -> Path:
    """Little text: a tokenizer takes seconds to read much."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(english[:20_000])
    return file


@pytest.fixture
def small(text: Path) -> dict[str, Any]:
    """Options of a run that takes a second."""
    sizes = {"steps": 12, "window": 32, "batch": 4, "validation_windows": 8}
    return {"corpus": (str(text),), "learning_rate": 2e-3, **sizes}
