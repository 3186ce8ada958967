"""The Fisher matrix of the residual stream after every sub-block: which errors there the output feels.

F = sum over tokens of g g^T, g the gradient of the loss with labels drawn from the model itself. To second
order e^T F e is twice the KL that an error e of the stream costs, tokens and errors taken as independent
(as K-FAC does, arXiv 1503.05671). Which projection repairs best does not depend on F, as every output is
fitted on its own; which units are worth keeping does.

Shape suffixes: H hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.calibrate.gradients import backward_by_sub_block
from secateur.calibrate.statistics import accumulate
from secateur.model.architecture import Kind
from secateur.model.dense import DecoderModel
from secateur.model.forward import ForwardContext

Metrics = dict[tuple[int, Kind], Tensor]


def fisher_metrics(
    model: DecoderModel, windows_BT: Tensor, geo: ForwardContext, *, seed: int = 0, chunk: int = 4
) -> Metrics:
    """F [H, H] fp32 of every sub-block, from the given windows, `chunk` windows at a time."""
    labels = torch.Generator().manual_seed(seed)
    metrics: Metrics = {}
    for tokens_BT in windows_BT.split(chunk):
        for found in backward_by_sub_block(model, tokens_BT, geo, labels):
            key = (found.layer, found.kind)
            metrics[key] = accumulate(metrics.get(key), found.output_gradient_BTH)
    return metrics
