"""Least-squares repair of a sub-block's last projection after units have been cut.

With C the Gram matrix of the inner activations (units sorted, most important first) and one
Cholesky factor C + damping I = L L^T, the leading block of L is the factor of every prefix. Hence a
single factor repairs *every* width: with K the kept prefix and R the rest,

    W'_K = W_K + W_R C_RK (C_KK + damping I)^-1 = W_K + W_R L_RK L_KK^-1

and the error left over (the Schur complement) is || W_R L_RR ||_F^2. With M = W L these are
M_K L_KK^-1 and the norm of M_R, so products serve all widths at once (`repairs`). Shrinkage pulls towards
the plain cut W_K, not towards zero. Source: optimal brain surgeon / linear reconstruction.

Shape suffixes: H hidden, N inner channels, K kept ones, R removed ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEFAULT_SHRINKAGE = 0.01


def damped(gram_NN: Tensor, shrinkage: float) -> Tensor:
    """The Gram matrix in fp64 with `shrinkage` times its mean diagonal added to the diagonal."""
    gram64 = gram_NN.to(torch.float64, copy=True)
    level = gram64.diagonal().mean() * shrinkage
    gram64.diagonal().add_(torch.clamp(level, min=1e-12))
    return gram64


def factorise(gram_NN: Tensor, order_N: Tensor, shrinkage: float) -> Tensor:
    """The lower Cholesky factor [N, N] fp32 of the damped Gram matrix, permuted by `order_N`."""
    permuted_NN = gram_NN[order_N][:, order_N]
    return torch.linalg.cholesky(damped(permuted_NN, shrinkage)).float().contiguous()
