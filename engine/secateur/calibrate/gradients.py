"""Gradients at every sub-block, and what criteria make of them: Taylor scores and Fisher matrices.

Backward goes through the model sub-block by sub-block, with memory for one layer's graph at a time.

Shape suffixes: B windows, T tokens, H hidden, N inner channels, P predicted positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from secateur.calibrate.statistics import accumulate
from secateur.model.architecture import KINDS, Kind, Slot
from secateur.model.decoder import DecoderModel
from secateur.model.forward import (
    ForwardContext,
    add_inner,
    apply_block,
    embed,
    final_hidden,
    sub_block_inner,
)


@dataclass(frozen=True)
class SubBlockGradients:
    """Of the summed next-token loss at one sub-block, in the model's dtype.

    Attributes:
        layer, kind: which sub-block.
        inner_BTN, inner_gradient_BTN: what its last projection reads, and the gradient there.
        output_gradient_BTH: the gradient at the residual stream after it.
    """

    layer: int
    kind: Kind
    inner_BTN: Tensor
    inner_gradient_BTN: Tensor
    output_gradient_BTH: Tensor


def taylor_scores(
    model: DecoderModel, windows_BT: Tensor, context: ForwardContext, *, chunk: int = 4
) -> dict[Slot, Tensor]:
    """First-order Taylor scores [N] fp32 of every sub-block's inner activations, `chunk` windows at a time.

    score_j = sum over windows of | sum over tokens of a_j dL/da_j |, L the next-token loss: the change
    of the loss when the activation is set to zero, to first order (Molchanov et al., arXiv 1611.06440;
    the activation form of LLM-Pruner's criterion).
    """
    scores: dict[Slot, Tensor] = {}
    for tokens_BT in windows_BT.split(chunk):
        for gradients in backward_by_sub_block(model, tokens_BT, context):
            score_N = (gradients.inner_BTN.float() * gradients.inner_gradient_BTN.float()).sum(1).abs().sum(0)
            key = (gradients.layer, gradients.kind)
            scores[key] = scores[key] + score_N if key in scores else score_N
    return scores


def fisher_matrices(
    model: DecoderModel, windows_BT: Tensor, context: ForwardContext, *, seed: int = 0, chunk: int = 4
) -> dict[Slot, Tensor]:
    """Fisher matrices F [H, H] fp32 of the residual stream after every sub-block, `chunk` windows at a time.

    F = sum over tokens of g g^T, g the gradient of the loss with labels drawn from the model itself. To
    second order e^T F e is twice the KL that an error e of the stream costs, tokens and errors taken as
    independent (as K-FAC does, arXiv 1503.05671). Which projection repairs best does not depend on F, as
    every output is fitted on its own; which units are worth keeping does.
    """
    labels = torch.Generator().manual_seed(seed)
    matrices: dict[Slot, Tensor] = {}
    for tokens_BT in windows_BT.split(chunk):
        for gradients in backward_by_sub_block(model, tokens_BT, context, labels):
            key = (gradients.layer, gradients.kind)
            matrices[key] = accumulate(matrices.get(key), gradients.output_gradient_BTH)
    return matrices


def backward_by_sub_block(
    model: DecoderModel, tokens_BT: Tensor, context: ForwardContext, labels: torch.Generator | None = None
) -> Iterator[SubBlockGradients]:
    """Gradients at every sub-block that exists, the last one first.

    Args:
        labels: draws the labels from the model itself (true Fisher); None takes the text's next tokens.
    """
    halves = [
        (index, kind, layer.sub_block(kind)) for index, layer in enumerate(model.layers) for kind in KINDS
    ]
    inputs = [embed(model, tokens_BT)]
    for index, _, block in halves:
        inputs.append(apply_block(inputs[-1], block, context, index))
    upstream_BTH = _loss_gradient(model, inputs.pop(), tokens_BT, labels)
    for (index, kind, block), state in zip(reversed(halves), reversed(inputs), strict=True):
        if block is None:
            continue
        state = state.detach().requires_grad_()
        inner_BTN = sub_block_inner(state, block, context, index)
        output = add_inner(state, inner_BTN, block, context)
        after_BTH = upstream_BTH
        upstream_BTH, inner_gradient = torch.autograd.grad(output, (state, inner_BTN), after_BTH)
        yield SubBlockGradients(index, kind, inner_BTN.detach(), inner_gradient, after_BTH)


def _loss_gradient(
    model: DecoderModel, state_BTH: Tensor, tokens_BT: Tensor, labels: torch.Generator | None
) -> Tensor:
    state = state_BTH.detach().requires_grad_()
    logits_BPV = functional.linear(final_hidden(model, state)[:, :-1], model.head_VH).float()
    flat = logits_BPV.flatten(0, 1)
    targets = tokens_BT[:, 1:].flatten()
    if labels is not None:
        targets = _drawn(flat.detach().softmax(-1), labels)
    loss = functional.cross_entropy(flat, targets, reduction="sum")
    return torch.autograd.grad(loss, state)[0]


def _drawn(p_NV: Tensor, chance: torch.Generator) -> Tensor:
    """An index [N] from each distribution: chance of the host, so that devices draw alike."""
    upto_NV = p_NV.cumsum(-1)
    point_N1 = torch.rand(len(p_NV), 1, generator=chance).to(p_NV.device) * upto_NV[:, -1:]
    return (upto_NV <= point_N1).sum(-1).clamp_(max=p_NV.shape[1] - 1)
