"""Calibration: statistics, ranking and factors of a model, kept on disk so that it is done once.

A calibration folder holds one safetensors file per layer (orders of the units and Cholesky factors)
and is complete when `calibration.json` is there. Written layer by layer under a temporary name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.calibrate.criteria import CRITERIA, SubBlockStats
from secateur.calibrate.gradients import fisher_matrices, taylor_scores
from secateur.calibrate.least_squares import DEFAULT_SHRINKAGE, factorise
from secateur.calibrate.statistics import GramMatrix, collect_grams
from secateur.model.architecture import Slot
from secateur.model.decoder import DecoderModel
from secateur.model.forward import forward_context
from secateur.model.units import expand_units, last_projection, unit_span
from secateur.storage import follow_umask, os_errors_as_output_failed, write_json

META = "calibration.json"
TAYLOR_WINDOWS = 16
FISHER_WINDOWS = 32
Orders = dict[Slot, Tensor]


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
    """A complete calibration folder: orders [U] and Cholesky factors [N, N] by sub-block, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.orders: Orders = {}
        self.factors: dict[Slot, Tensor] = {}
        for layer, kind in json.loads((folder / META).read_text())["sub_blocks"]:
            tensors = load_file(_layer_file(folder, layer))
            self.orders[layer, kind] = tensors[f"{kind}.order"]
            self.factors[layer, kind] = tensors[f"{kind}.factor"]


def is_complete(folder: Path) -> bool:
    """Whether a calibration was finished there, and can be read: what is damaged is computed again."""
    try:
        Calibration(folder)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return False
    return True


def calibrate(
    model: DecoderModel, windows_BT: Tensor, folder: Path, config: CalibrationConfig
) -> Iterator[GramMatrix]:
    """Collect, rank and factorise into `folder`; yields each sub-block's statistics as it is done.

    Args:
        model: dense model in the compute dtype.
        windows_BT: calibration windows.

    The folder counts only once the iterator is exhausted.

    Raises:
        FloatingPointError: as `collect_grams`.
        OutputFailed: the folder cannot be written.
    """
    with os_errors_as_output_failed(folder):
        folder.mkdir(parents=True, exist_ok=True)
    context = forward_context(model, windows_BT.shape[1])
    taylor, fisher = {}, {}
    if config.criterion == "taylor":
        taylor = taylor_scores(model, windows_BT[:TAYLOR_WINDOWS], context)
    elif config.criterion == "obs-fisher":
        fisher = fisher_matrices(model, windows_BT[:FISHER_WINDOWS], context)
    layer_tensors: dict[str, Tensor] = {}
    sub_blocks: list[Slot] = []
    for gram in collect_grams(model, windows_BT, context):
        layer, kind = gram.layer, gram.kind
        block = model.layers[layer].sub_block(kind)
        assert block is not None  # collect_grams() yields existing sub-blocks
        span, slot = unit_span(model, kind), (layer, kind)
        stats = SubBlockStats(
            block, last_projection(block), gram.gram_NN, span, taylor.get(slot), fisher.get(slot)
        )
        order_U = CRITERIA[config.criterion](stats, shrinkage=config.shrinkage).contiguous()
        layer_tensors[f"{kind}.order"] = order_U
        layer_tensors[f"{kind}.factor"] = factorise(
            gram.gram_NN, expand_units(order_U, span), config.shrinkage
        )
        sub_blocks.append(slot)
        if kind == "ffn" or model.layers[layer].ffn is None:
            _save_layer(layer_tensors, _layer_file(folder, layer))
            layer_tensors = {}
        yield gram
    write_json(
        folder / META, {"recipe": asdict(config), "tokens": windows_BT.numel(), "sub_blocks": sub_blocks}
    )


def _save_layer(tensors: dict[str, Tensor], file: Path) -> None:
    temporary = file.with_name(f".{file.stem}.tmp")
    with os_errors_as_output_failed(file.parent):
        save_file(tensors, temporary)
        follow_umask(temporary)
        os.replace(temporary, file)


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer:03d}.safetensors"
