"""First-order Taylor scores of inner activations, with memory for one layer's graph at a time.

score_j = sum over windows of | sum over tokens of a_j dL/da_j |, L the next-token loss: the change
of the loss when the activation is set to zero, to first order (Molchanov et al., arXiv 1611.06440;
the activation form of LLM-Pruner's criterion).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from secateur.model.dense import KINDS, Kind, Model
from secateur.model.forward import Geometry, apply_block, embed, final_hidden, inner, project

Scores = dict[tuple[int, Kind], Tensor]


def taylor_scores(model: Model, windows_BT: Tensor, geo: Geometry, *, chunk: int = 4) -> Scores:
    """Scores [N] fp32 of every sub-block, from the given windows, `chunk` windows at a time."""
    scores: Scores = {}
    for tokens_BT in windows_BT.split(chunk):
        for key, score_N in _chunk_scores(model, tokens_BT, geo).items():
            scores[key] = scores[key] + score_N if key in scores else score_N
    return scores


def _chunk_scores(model: Model, tokens_BT: Tensor, geo: Geometry) -> Scores:
    halves = [
        (index, kind, layer.sub_block(kind)) for index, layer in enumerate(model.layers) for kind in KINDS
    ]
    inputs = [embed(model, tokens_BT)]
    for index, _, block in halves:
        inputs.append(apply_block(inputs[-1], block, geo, index))
    upstream = _loss_gradient(model, inputs.pop(), tokens_BT)
    scores: Scores = {}
    for (index, kind, block), state in zip(reversed(halves), reversed(inputs), strict=True):
        if block is None:
            continue
        state = state.detach().requires_grad_()
        inner_BTN = inner(state, block, geo, index)
        output = state + project(inner_BTN, block)
        upstream, inner_gradient = torch.autograd.grad(output, (state, inner_BTN), upstream)
        scores[index, kind] = (inner_BTN.detach().float() * inner_gradient.float()).sum(1).abs().sum(0)
    return scores


def _loss_gradient(model: Model, state_BTH: Tensor, tokens_BT: Tensor) -> Tensor:
    state = state_BTH.detach().requires_grad_()
    logits = functional.linear(final_hidden(model, state)[:, :-1], model.head_VH).float()
    loss = functional.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum")
    return torch.autograd.grad(loss, state)[0]
