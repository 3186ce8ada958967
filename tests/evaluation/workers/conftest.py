"""A tiny model's calibration on disk, and a description of its evaluator for workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.calibration import CalibrationConfig, calibrate
from secateur.checkpoint.source import open_source
from secateur.evaluation.opening import EvaluatorSpec, LibrarySpec, open_library
from secateur.model.compute import Compute


@pytest.fixture(scope="session")
def spec(tiny_llama: Path, windows: Tensor, tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    source = open_source(tiny_llama)
    model = source.load_model()
    folder = tmp_path_factory.mktemp("workers") / "calibration"
    text = torch.randint(2, 300, (24, 24), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        list(calibrate(model, text, folder, CalibrationConfig()))
    compute = Compute.on_cpu(torch.float32)
    library = LibrarySpec(str(tiny_llama), source.fingerprint, folder, repair=True, compute=compute)
    return EvaluatorSpec(library, windows)


@pytest.fixture(scope="session")
def library(spec: EvaluatorSpec) -> BlockLibrary:
    """The library that the workers have."""
    return open_library(spec.library)
