"""Perplexity of a model on windows (design: "Perplexity protocol")."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from secateur.model.dense import DecoderModel
from secateur.model.forward import forward_context, hidden_states
from secateur_kernels import linear_nll

BATCH_WINDOWS = 16


@torch.inference_mode()
def mean_nll(
    model: DecoderModel, windows_BT: Tensor, advance: Callable[[int], None] = lambda windows: None
) -> float:
    """Mean negative log-likelihood over the T - 1 predicted tokens of every window, nats per token.

    Weights and matrix products in the model's dtype, losses in fp32. `advance` is told of windows done.
    """
    context = forward_context(model, windows_BT.shape[1])
    total = 0.0
    for tokens_BT in windows_BT.split(BATCH_WINDOWS):
        hidden_BTH = hidden_states(model, tokens_BT, context)
        target_N = tokens_BT[:, 1:].flatten()
        total += float(linear_nll(hidden_BTH[:, :-1].flatten(0, 1), model.head_VH, target_N).double().sum())
        advance(len(tokens_BT))
    return total / (windows_BT.shape[0] * (windows_BT.shape[1] - 1))


def perplexity(nll: float) -> float:
    """Exp of a mean NLL; infinite where it does not fit a float."""
    return math.exp(nll) if nll < 700 else math.inf
