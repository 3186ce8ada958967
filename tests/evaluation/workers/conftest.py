"""A tiny model's calibration on disk, and a description of its evaluator for workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from secateur.calibrate.calibration import Calibration, CalibrationConfig, calibrate
from secateur.calibrate.library import BlockLibrary, permute
from secateur.checkpoint.source import open_source
from secateur.evaluation.workers.spec import WorkerSpec
from secateur.model.dense import build_model


@pytest.fixture(scope="session")
def spec(tiny_llama: Path, windows: Tensor, tmp_path_factory: pytest.TempPathFactory) -> WorkerSpec:
    source = open_source(tiny_llama)
    model = build_model(source.config, source.tensors(), source.reference)
    folder = tmp_path_factory.mktemp("workers") / "calibration"
    text = torch.randint(2, 300, (24, 24), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        list(calibrate(model, text, folder, CalibrationConfig()))
    return WorkerSpec(str(tiny_llama), source.fingerprint, folder, windows, torch.float32)


@pytest.fixture(scope="session")
def library(spec: WorkerSpec) -> BlockLibrary:
    """The library that the workers have."""
    source = open_source(spec.model)
    calibration = Calibration(spec.calibration)
    model = build_model(source.config, source.tensors(), source.reference)
    return BlockLibrary(permute(model, calibration.orders), calibration.factors, spec.dtype)
