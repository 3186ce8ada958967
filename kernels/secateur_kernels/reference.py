"""fp64 definitions of the public functions: slow, whole, and obviously right. Tests compare with them.

Shape suffixes: N tokens, H hidden, V vocabulary.
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
