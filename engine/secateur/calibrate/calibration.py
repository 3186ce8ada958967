"""Calibration: statistics, ranking and factors of a model, kept on disk so that it is done once.

A calibration folder holds one safetensors file per layer (orders of the units and Cholesky factors)
and is complete when `calibration.json` is there. Written layer by layer under a temporary name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.calibrate.criteria import SubBlockStats, criterion_named
from secateur.calibrate.fisher import fisher_metrics
from secateur.calibrate.library import expand_units, last_projection, unit_span
from secateur.calibrate.repair import DEFAULT_SHRINKAGE, factorise
from secateur.calibrate.statistics import GramMatrix, collect_grams
from secateur.calibrate.taylor import taylor_scores
from secateur.model.architecture import Kind
from secateur.model.dense import DecoderModel
from secateur.model.forward import forward_context
from secateur.storage import os_errors_as_output_failed, write_json

TAYLOR_WINDOWS = 16
FISHER_WINDOWS = 32
Orders = dict[tuple[int, Kind], Tensor]


@dataclass(frozen=True)
class CalibrationConfig:
    """How units are ranked and projections repaired.

    Attributes:
        criterion: name in `criteria.CRITERIA`.
        shrinkage: damping as a fraction of the mean diagonal of the Gram matrix.
    """

    criterion: str = "obs-greedy"
    shrinkage: float = DEFAULT_SHRINKAGE


class Calibration:
    """Orders and factors of a complete calibration folder; factors are read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.orders: Orders = {}
        self.factors: Mapping[tuple[int, Kind], Tensor] = _FactorFiles(folder)
        for layer, kind in self.factors:
            with safe_open(_layer_file(folder, layer), framework="pt") as file:
                self.orders[layer, kind] = file.get_tensor(f"{kind}.order")


class _FactorFiles(Mapping[tuple[int, Kind], Tensor]):
    """Cholesky factors on disk, memory-mapped on access."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        meta = json.loads((folder / "calibration.json").read_text())
        self._keys: list[tuple[int, Kind]] = [(layer, kind) for layer, kind in meta["sub_blocks"]]

    def __getitem__(self, key: tuple[int, Kind]) -> Tensor:
        layer, kind = key
        with safe_open(_layer_file(self._folder, layer), framework="pt") as file:
            return file.get_tensor(f"{kind}.factor")

    def __iter__(self) -> Iterator[tuple[int, Kind]]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def is_complete(folder: Path) -> bool:
    """Whether a calibration was finished there."""
    return (folder / "calibration.json").is_file()


def calibrate(
    model: DecoderModel, windows_BT: Tensor, folder: Path, recipe: CalibrationConfig
) -> Iterator[GramMatrix]:
    """Collect, rank and factorise into `folder`; yields each sub-block's statistics as it is done.

    Args:
        model: dense model in the compute dtype.
        windows_BT: calibration windows.

    The folder counts only once the iterator is exhausted.
    """
    criterion = criterion_named(recipe.criterion)
    with os_errors_as_output_failed(folder):
        folder.mkdir(parents=True, exist_ok=True)
    geo = forward_context(model, windows_BT.shape[1])
    name = recipe.criterion
    scores = taylor_scores(model, windows_BT[:TAYLOR_WINDOWS], geo) if name == "taylor" else {}
    metrics = fisher_metrics(model, windows_BT[:FISHER_WINDOWS], geo) if name == "obs-fisher" else {}
    pending: dict[str, Tensor] = {}
    done: list[tuple[int, Kind]] = []
    for gram in collect_grams(model, windows_BT, geo):
        block = model.layers[gram.layer].sub_block(gram.kind)
        assert block is not None  # collect() yields existing sub-blocks
        span = unit_span(model, gram.kind)
        key = (gram.layer, gram.kind)
        evidence = SubBlockStats(
            block, last_projection(block), gram.gram_NN, span, scores.get(key), metrics.get(key)
        )
        order_U = criterion(evidence, shrinkage=recipe.shrinkage)
        pending[f"{gram.kind}.order"] = order_U.contiguous()
        pending[f"{gram.kind}.factor"] = factorise(
            gram.gram_NN, expand_units(order_U, span), recipe.shrinkage
        )
        done.append((gram.layer, gram.kind))
        pending = _flush(model, folder, gram, pending)
        yield gram
    meta = {"recipe": asdict(recipe), "tokens": windows_BT.numel(), "sub_blocks": done}
    write_json(folder / "calibration.json", meta)


def _flush(
    model: DecoderModel, folder: Path, gram: GramMatrix, pending: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Write the layer's file once its last sub-block is in."""
    if gram.kind == "attention" and model.layers[gram.layer].ffn is not None:
        return pending
    temporary = folder / f".layer-{gram.layer:03d}.tmp"
    with os_errors_as_output_failed(folder):
        save_file(pending, temporary)
        os.replace(temporary, _layer_file(folder, gram.layer))
    return {}


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer:03d}.safetensors"
