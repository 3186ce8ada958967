"""The loss of recovery: KL from the dense model's next-token distribution to the slim one's.

Both models have the same head, which is not trained: logits differ by (slim - dense states) @ head.T. Only a
tile of tokens ever has logits; gradients are found with the losses.

Shape suffixes: N positions, n positions of a tile, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TILE_BYTES = {"cpu": 32 << 20}  # of one tile of logits in fp32; four such are there at once
DEVICE_TILE_BYTES = 512 << 20


def distillation_kl(hidden_NH: Tensor, teacher_NH: Tensor, head_VH: Tensor) -> Tensor:
    """KL(teacher || student) per position, fp32 [N], nats; differentiable by `hidden_NH` alone.

    Defined by ``log_p = (teacher @ head.T).log_softmax(-1); log_q = (hidden @ head.T).log_softmax(-1);
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)``. Products in the head's dtype, softmax and sums in fp32.
    Memory for a few tiles of logits. Where the states are the same, KL and gradient are exactly 0.
    """
    kl_N: Tensor = _DistillationKl.apply(hidden_NH, teacher_NH, head_VH)
    return kl_N


class _DistillationKl(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, teacher_NH: Tensor, head_VH: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        kl_N = torch.empty(len(hidden_NH), dtype=_wide(head_VH), device=hidden_NH.device)
        gradient_NH = torch.empty_like(hidden_NH, dtype=kl_N.dtype) if wanted else None
        for start in range(0, len(hidden_NH), tile := _tile_positions(head_VH)):
            rows = slice(start, start + tile)
            kl_N[rows], gradient_nH = _of_tile(hidden_NH[rows], teacher_NH[rows], head_VH, wanted)
            if gradient_NH is not None and gradient_nH is not None:
                gradient_NH[rows] = gradient_nH
        if gradient_NH is not None:
            ctx.save_for_backward(gradient_NH)
        ctx.dtype = hidden_NH.dtype
        return kl_N

    @staticmethod
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor, None, None]:
        (gradient_NH,) = ctx.saved_tensors
        return (gradient_NH * upstream_N[:, None]).to(ctx.dtype), None, None


def _of_tile(
    hidden_nH: Tensor, teacher_nH: Tensor, head_VH: Tensor, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Losses, and their gradients (q - p) @ head, of some positions."""
    wide = _wide(head_VH)
    logits_nV = (teacher_nH.to(head_VH.dtype) @ head_VH.T).to(wide)
    log_p_nV = torch.log_softmax(logits_nV, -1)
    logits_nV += (hidden_nH.to(wide) - teacher_nH.to(wide)).to(head_VH.dtype) @ head_VH.T
    log_q_nV = torch.log_softmax(logits_nV, -1)
    del logits_nV
    p_nV = log_p_nV.exp()
    kl_n = torch.linalg.vecdot(p_nV, log_p_nV.sub_(log_q_nV)).clamp_(min=0)
    if not with_gradient:
        return kl_n, None
    return kl_n, (log_q_nV.exp_().sub_(p_nV).to(head_VH.dtype) @ head_VH).to(wide)


def _wide(head_VH: Tensor) -> torch.dtype:
    """Fp32, or fp64 to check against."""
    return torch.promote_types(head_VH.dtype, torch.float32)


def _tile_positions(head_VH: Tensor) -> int:
    tile_bytes = TILE_BYTES.get(head_VH.device.type, DEVICE_TILE_BYTES)
    return max(1, tile_bytes // (4 * len(head_VH)))
