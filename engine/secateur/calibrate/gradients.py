"""Backward through the model sub-block by sub-block, with memory for one layer's graph at a time.

Shape suffixes: B windows, T tokens, H hidden, N inner channels, P predicted positions of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from secateur.model.architecture import KINDS, Kind
from secateur.model.dense import DecoderModel
from secateur.model.forward import (
    ForwardContext,
    apply_block,
    embed,
    final_hidden,
    project_output,
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


def backward_by_sub_block(
    model: DecoderModel, tokens_BT: Tensor, geo: ForwardContext, labels: torch.Generator | None = None
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
        inputs.append(apply_block(inputs[-1], block, geo, index))
    upstream_BTH = _loss_gradient(model, inputs.pop(), tokens_BT, labels)
    for (index, kind, block), state in zip(reversed(halves), reversed(inputs), strict=True):
        if block is None:
            continue
        state = state.detach().requires_grad_()
        inner_BTN = sub_block_inner(state, block, geo, index)
        output = state + project_output(inner_BTN, block)
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
        drawn = torch.multinomial(flat.detach().softmax(-1).cpu(), 1, generator=labels)[:, 0]
        targets = drawn.to(flat.device)
    loss = functional.cross_entropy(flat, targets, reduction="sum")
    return torch.autograd.grad(loss, state)[0]
