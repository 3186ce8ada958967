"""A tiny model, calibrated, with its space and a budget: small enough to search in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.calibration import Calibration, CalibrationConfig, calibrate
from secateur.checkpoint.source import open_source
from secateur.model.decoder import DecoderModel, architecture_of
from secateur.model.units import permute
from secateur.space.budget import Budget, budget_of
from secateur.space.space import Space

QUANTUM = 32


def _windows(count: int, length: int, seed: int) -> Tensor:
    return torch.randint(2, 300, (count, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def windows() -> Tensor:
    """Windows that candidates are measured on."""
    return _windows(5, 16, 1)


@pytest.fixture(scope="session")
def library_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., BlockLibrary]:
    """Calibrate a checkpoint folder: ``library_of(folder, dtype)``."""

    def build(folder: Path, dtype: torch.dtype = torch.float32) -> BlockLibrary:
        source = open_source(folder)
        model = source.load_model()
        place = tmp_path_factory.mktemp("calibration")
        with torch.inference_mode():
            list(calibrate(model, _windows(24, 24, 0), place, CalibrationConfig()))
        calibration = Calibration(place)
        return BlockLibrary(permute(model, calibration.orders), calibration.repairs, dtype)

    return build


@pytest.fixture(scope="session")
def library(tiny_llama: Path, library_of: Callable[..., BlockLibrary]) -> BlockLibrary:
    return library_of(tiny_llama)


@pytest.fixture(scope="session")
def model(library: BlockLibrary) -> DecoderModel:
    return library.master


@pytest.fixture(scope="session")
def space(model: DecoderModel) -> Space:
    return Space(architecture_of(model), QUANTUM)


@pytest.fixture(scope="session")
def budget(model: DecoderModel, space: Space) -> Budget:
    return budget_of(model, space, {"params": 0.6}, field="keep")
