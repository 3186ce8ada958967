"""First-order Taylor scores of inner activations.

score_j = sum over windows of | sum over tokens of a_j dL/da_j |, L the next-token loss: the change
of the loss when the activation is set to zero, to first order (Molchanov et al., arXiv 1611.06440;
the activation form of LLM-Pruner's criterion).
"""

from __future__ import annotations

from torch import Tensor

from secateur.calibrate.gradients import backward_by_sub_block
from secateur.model.architecture import Kind
from secateur.model.dense import DecoderModel
from secateur.model.forward import ForwardContext

Scores = dict[tuple[int, Kind], Tensor]


def taylor_scores(model: DecoderModel, windows_BT: Tensor, geo: ForwardContext, *, chunk: int = 4) -> Scores:
    """Scores [N] fp32 of every sub-block, from the given windows, `chunk` windows at a time."""
    scores: Scores = {}
    for tokens_BT in windows_BT.split(chunk):
        for found in backward_by_sub_block(model, tokens_BT, geo):
            score_N = (found.inner_BTN.float() * found.inner_gradient_BTN.float()).sum(1).abs().sum(0)
            key = (found.layer, found.kind)
            scores[key] = scores[key] + score_N if key in scores else score_N
    return scores
