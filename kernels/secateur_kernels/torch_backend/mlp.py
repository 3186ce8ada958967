"""The gated MLP up to its projection, in torch: slices, so work falls with what is kept.

Shape suffixes: N tokens, H hidden, C inner channels, K channels listed, W channels kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from secateur_kernels.arguments import Widths


def gated_inner(
    x: Tensor,
    gate_CH: Tensor,
    up_CH: Tensor,
    kept: Widths,
    index_C: Tensor | None,
    gate_bias_C: Tensor | None,
    up_bias_C: Tensor | None,
    activation: str = "silu",
) -> Tensor:
    """See `secateur_kernels.gated_inner`; one width per entry of the input."""
    listed = len(gate_CH) if index_C is None else len(index_C)
    inner = []
    for count, x_NH in zip(kept.host(), x if x.dim() == 3 else [x], strict=True):
        width = min(max(count, 0), listed)
        gate_NW = functional.linear(
            x_NH, _kept(gate_CH, width, index_C), _kept_or_none(gate_bias_C, width, index_C)
        )
        up_NW = functional.linear(
            x_NH, _kept(up_CH, width, index_C), _kept_or_none(up_bias_C, width, index_C)
        )
        inner.append(_gated(gate_NW, up_NW, listed, activation))
    return torch.stack(inner) if x.dim() == 3 else inner[0]


def _gated(gate_NW: Tensor, up_NW: Tensor, listed: int, activation: str) -> Tensor:
    """act(gate) * up, in the first columns of so many."""
    if gate_NW.requires_grad or up_NW.requires_grad:
        active_NW = _gelu(gate_NW) if activation == "gelu_tanh" else functional.silu(gate_NW)
        return functional.pad(active_NW * up_NW, (0, listed - gate_NW.shape[1]))
    if activation == "gelu_tanh":
        gate_NW = _gelu(gate_NW)
    else:
        functional.silu(gate_NW, inplace=True)
    if gate_NW.shape[1] == listed:
        return gate_NW.mul_(up_NW)
    inner_NK = gate_NW.new_empty(len(gate_NW), listed)
    torch.mul(gate_NW, up_NW, out=inner_NK[:, : gate_NW.shape[1]])
    return inner_NK


def _gelu(gate_NW: Tensor) -> Tensor:
    return functional.gelu(gate_NW, approximate="tanh")


def _kept(rows: Tensor, width: int, index_C: Tensor | None) -> Tensor:
    return rows[:width] if index_C is None else torch.index_select(rows, 0, index_C[:width])


def _kept_or_none(rows: Tensor | None, width: int, index_C: Tensor | None) -> Tensor | None:
    return None if rows is None else _kept(rows, width, index_C)
