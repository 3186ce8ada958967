"""fp64 definitions of the public functions: slow, whole, and obviously right. Tests compare with them.

Shape suffixes: N tokens, H hidden, V vocabulary, C inner channels.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    activation: str = "silu",
) -> Tensor:
    """The gated MLP of the channels kept (a slice, or their numbers), [N, H]."""
    inner_NC = gated_inner(x_NH, gate_CH, up_CH, gate_bias_C, up_bias_C, activation)
    out_NH = inner_NC[:, kept] @ down_HC[:, kept].double().T
    return out_NH if down_bias_H is None else out_NH + down_bias_H.double()


def gated_inner(
    x_NH: Tensor,
    gate_CH: Tensor,
    up_CH: Tensor,
    gate_bias_C: Tensor | None = None,
    up_bias_C: Tensor | None = None,
    activation: str = "silu",
) -> Tensor:
    """Every inner channel of a gated MLP, [N, C]."""
    gate_NC = x_NH.double() @ gate_CH.double().T
    up_NC = x_NH.double() @ up_CH.double().T
    if gate_bias_C is not None:
        gate_NC = gate_NC + gate_bias_C.double()
    if up_bias_C is not None:
        up_NC = up_NC + up_bias_C.double()
    if activation == "gelu_tanh":
        return torch.nn.functional.gelu(gate_NC, approximate="tanh") * up_NC
    return gate_NC * torch.sigmoid(gate_NC) * up_NC


def entropy(hidden_NH: Tensor, head_VH: Tensor) -> Tensor:
    """Entropy of the next-token distribution, [N], nats."""
    log_q_NV = torch.log_softmax(hidden_NH.double() @ head_VH.double().T, dim=-1)
    return -(log_q_NV.exp() * log_q_NV).sum(-1)


def top_k_kl(hidden_NH: Tensor, teacher_NH: Tensor, head_VH: Tensor, ids_NK: Tensor) -> Tensor:
    """KL(teacher || candidate) over the ids given and, as one outcome, all others, [N], nats."""
    p_NV = torch.softmax(teacher_NH.double() @ head_VH.double().T, dim=-1)
    q_NV = torch.softmax(hidden_NH.double() @ head_VH.double().T, dim=-1)
    listed_NV = torch.zeros_like(p_NV, dtype=torch.bool).scatter(1, ids_NK.long(), True)
    terms_NV = torch.special.xlogy(p_NV, p_NV / q_NV) * listed_NV
    p_N, q_N = (p_NV * ~listed_NV).sum(-1), (q_NV * ~listed_NV).sum(-1)
    rest_N = torch.where(p_N > 0, torch.special.xlogy(p_N, p_N / q_N), 0.0)
    return terms_NV.sum(-1) + rest_N


def attention_inner(
    x_NH: Tensor,
    query_QH: Tensor,
    key_KH: Tensor,
    value_KH: Tensor,
    groups: int,
    *,
    head_dim: int,
    cos_TD: Tensor,
    sin_TD: Tensor,
    lengths_B: Sequence[int],
    window: int | None = None,
    query_bias_Q: Tensor | None = None,
    key_bias_K: Tensor | None = None,
    value_bias_K: Tensor | None = None,
    query_norm_D: Tensor | None = None,
    key_norm_D: Tensor | None = None,
    norm_eps: float = 1e-6,
    scale: float | None = None,
) -> Tensor:
    """Attended values of the first `groups` KV groups' query heads, [N, groups * R * D]."""
    per_group = len(query_QH) // len(key_KH)
    rows = []
    for x_TH in x_NH.split(list(lengths_B)):
        cos, sin = cos_TD[: len(x_TH)].double(), sin_TD[: len(x_TH)].double()
        columns = [x_TH.new_zeros(len(x_TH), 0, dtype=torch.float64)]
        for head in range(groups * per_group):
            group = head // per_group
            q = _rotated(
                _normed(_head(x_TH, query_QH, query_bias_Q, head, head_dim), query_norm_D, norm_eps), cos, sin
            )
            k = _rotated(
                _normed(_head(x_TH, key_KH, key_bias_K, group, head_dim), key_norm_D, norm_eps), cos, sin
            )
            v = _head(x_TH, value_KH, value_bias_K, group, head_dim)
            position = torch.arange(len(x_TH), device=x_TH.device)
            age = position[:, None] - position
            forbidden = (age < 0) | (age >= (window or len(x_TH) + 1))
            scores = (q @ k.T * (head_dim**-0.5 if scale is None else scale)).masked_fill(
                forbidden, float("-inf")
            )
            columns.append(torch.softmax(scores, dim=-1) @ v)
        rows.append(torch.cat(columns, dim=1))
    return torch.cat(rows)


def _head(x_TH: Tensor, weight: Tensor, bias: Tensor | None, number: int, head_dim: int) -> Tensor:
    rows = slice(number * head_dim, (number + 1) * head_dim)
    head_TD = x_TH.double() @ weight[rows].double().T
    return head_TD if bias is None else head_TD + bias[rows].double()


def _normed(head_TD: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
    if weight_D is None:
        return head_TD
    return head_TD * torch.rsqrt(head_TD.square().mean(-1, keepdim=True) + eps) * weight_D.double()


def _rotated(head_TD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    one, two = head_TD.chunk(2, dim=-1)
    return head_TD * cos_TD + torch.cat((-two, one), dim=-1) * sin_TD
