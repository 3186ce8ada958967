"""fp64 definitions of the public functions: slow, whole, and obviously right. Tests compare with them.

Shape suffixes: N tokens, H hidden, V vocabulary, C inner channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def linear_nll(hidden_NH: Tensor, head_VH: Tensor, target_N: Tensor) -> Tensor:
    """Negative log-likelihood of each target, [N], nats."""
    logits_NV = hidden_NH.double() @ head_VH.double().T
    return functional.cross_entropy(logits_NV, target_N, reduction="none")


def linear_kl(hidden_NH: Tensor, teacher_NH: Tensor, head_VH: Tensor) -> Tensor:
    """KL(teacher || candidate) of the next-token distributions, [N], nats."""
    log_p_NV = torch.log_softmax(teacher_NH.double() @ head_VH.double().T, dim=-1)
    log_q_NV = torch.log_softmax(hidden_NH.double() @ head_VH.double().T, dim=-1)
    return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)


def masked_projection(
    inner_NC: Tensor, weight_HC: Tensor, width: int, bias_H: Tensor | None = None
) -> Tensor:
    """The projection of the first `width` channels, [N, H]."""
    out_NH = inner_NC[:, :width].double() @ weight_HC[:, :width].double().T
    return out_NH if bias_H is None else out_NH + bias_H.double()


def masked_mlp(
    x_NH: Tensor,
    gate_CH: Tensor,
    up_CH: Tensor,
    down_HC: Tensor,
    kept: Tensor | slice,
    gate_bias_C: Tensor | None = None,
    up_bias_C: Tensor | None = None,
    down_bias_H: Tensor | None = None,
) -> Tensor:
    """The gated MLP of the channels kept (a slice, or their numbers), [N, H]."""
    inner_NC = gated_inner(x_NH, gate_CH, up_CH, gate_bias_C, up_bias_C)
    out_NH = inner_NC[:, kept] @ down_HC[:, kept].double().T
    return out_NH if down_bias_H is None else out_NH + down_bias_H.double()


def gated_inner(
    x_NH: Tensor,
    gate_CH: Tensor,
    up_CH: Tensor,
    gate_bias_C: Tensor | None = None,
    up_bias_C: Tensor | None = None,
) -> Tensor:
    """Every inner channel of a gated MLP, [N, C]."""
    gate_NC = x_NH.double() @ gate_CH.double().T
    up_NC = x_NH.double() @ up_CH.double().T
    if gate_bias_C is not None:
        gate_NC = gate_NC + gate_bias_C.double()
    if up_bias_C is not None:
        up_NC = up_NC + up_bias_C.double()
    return gate_NC * torch.sigmoid(gate_NC) * up_NC


def entropy(hidden_NH: Tensor, head_VH: Tensor) -> Tensor:
    """Entropy of the next-token distribution, [N], nats."""
    log_q_NV = torch.log_softmax(hidden_NH.double() @ head_VH.double().T, dim=-1)
    return -(log_q_NV.exp() * log_q_NV).sum(-1)
