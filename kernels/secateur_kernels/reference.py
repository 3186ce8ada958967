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
