"""Calibration: statistics, ranking and repairs of a model, kept on disk so that it is done once.

A calibration folder holds one safetensors file per layer (orders of the units, and `Repairs`)
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

from secateur.calibrate.criteria import CRITERIA, GRADIENT_CRITERIA, SubBlockStats
from secateur.calibrate.gradients import fisher_matrices, taylor_scores
from secateur.calibrate.least_squares import DEFAULT_SHRINKAGE
from secateur.calibrate.repairs import Repairs
from secateur.calibrate.statistics import GramMatrix, collect_grams
from secateur.model.architecture import Slot
from secateur.model.compute import Compute
from secateur.model.decoder import DecoderModel, map_block
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
        repair: whether projections are repaired at all; else units are only ranked.
    """

    criterion: str = "obs-greedy"
    shrinkage: float = DEFAULT_SHRINKAGE
    repair: bool = True


class Calibration:
    """A complete calibration folder: orders [U] and repairs by sub-block, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.orders: Orders = {}
        self.repairs: dict[Slot, Repairs] = {}
        meta = json.loads((folder / META).read_text())
        for layer, kind in meta["sub_blocks"]:
            tensors = load_file(_layer_file(folder, layer))
            self.orders[layer, kind] = tensors[f"{kind}.order"]
            if meta["recipe"]["repair"]:
                self.repairs[layer, kind] = Repairs.from_tensors(tensors, kind)


def is_complete(folder: Path) -> bool:
    """Whether a calibration was finished there, and can be read: what is damaged is computed again."""
    try:
        Calibration(folder)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return False
    return True


def calibrate(
    model: DecoderModel,
    windows_BT: Tensor,
    folder: Path,
    config: CalibrationConfig,
    compute: Compute | None = None,
) -> Iterator[GramMatrix]:
    """Collect, rank and repair into `folder`; yields each sub-block's statistics as it is done.

    Args:
        model: dense model in the dtype it was stored in.
        windows_BT: calibration windows.
        compute: where and in what statistics are computed, a sub-block at a time; None: as the model is.

    The folder counts only once the iterator is exhausted.

    Raises:
        FloatingPointError: as `collect_grams`.
        OutputFailed: the folder cannot be written.
    """
    with os_errors_as_output_failed(folder):
        folder.mkdir(parents=True, exist_ok=True)
    compute = compute or Compute(model.device, model.dtype)
    context = forward_context(model, windows_BT.shape[1], compute.dtype, compute.device)
    taylor, fisher = {}, {}
    if config.criterion in GRADIENT_CRITERIA:
        fast, fast_windows_BT = model.to(compute.dtype, compute.device), windows_BT.to(compute.device)
        if config.criterion == "taylor":
            taylor = taylor_scores(fast, fast_windows_BT[:TAYLOR_WINDOWS], context)
        else:
            fisher = fisher_matrices(fast, fast_windows_BT[:FISHER_WINDOWS], context)
        del fast
    layer_tensors: dict[str, Tensor] = {}
    sub_blocks: list[Slot] = []
    for gram in collect_grams(model, windows_BT, context):
        layer, kind = gram.layer, gram.kind
        block = model.layers[layer].sub_block(kind)
        assert block is not None  # collect_grams() yields existing sub-blocks
        block = map_block(block, lambda tensor: tensor.to(compute.device))
        span, slot = unit_span(model, kind), (layer, kind)
        weight_HN = last_projection(block)
        stats = SubBlockStats(block, weight_HN, gram.gram_NN, span, taylor.get(slot), fisher.get(slot))
        order_U = CRITERIA[config.criterion](stats, shrinkage=config.shrinkage).contiguous()
        layer_tensors[f"{kind}.order"] = order_U
        if config.repair:
            order_N = expand_units(order_U, span)
            repairs = Repairs.fit(weight_HN, gram.gram_NN, order_N, config.shrinkage, span)
            layer_tensors |= repairs.tensors(kind)
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
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, temporary)
        follow_umask(temporary)
        os.replace(temporary, file)


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer:03d}.safetensors"
