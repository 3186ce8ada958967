"""Least-squares repair of a sub-block's last projection after units have been cut.

With C the Gram matrix of the inner activations (units sorted, most important first) and one
Cholesky factor C + damping I = L L^T, the leading block of L is the factor of every prefix. Hence a
single factor repairs *every* width: with K the kept prefix and R the rest,

    W'_K = W_K + W_R C_RK (C_KK + damping I)^-1 = W_K + W_R L_RK L_KK^-1

and the error left over (the Schur complement) is || W_R L_RR ||_F^2. Shrinkage pulls towards the
plain cut W_K, not towards zero. Source: optimal brain surgeon / linear reconstruction, design.md idea 2.

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
    permuted = damped(gram_NN, shrinkage)[order_N][:, order_N]
    return torch.linalg.cholesky(permuted).float().contiguous()


def repaired(weight_HN: Tensor, factor_NN: Tensor, keep: int) -> Tensor:
    """The projection [H, K] of the first `keep` channels that best stands in for all, in the given dtype.

    Cost: 2 H R K + H K^2 FLOPs in fp64.
    """
    if keep == weight_HN.shape[1]:
        return weight_HN
    kept_KK = factor_NN[:keep, :keep].double()
    cross_RK = factor_NN[keep:, :keep].double()
    rest_HK = weight_HN[:, keep:].double() @ cross_RK
    update_HK = torch.linalg.solve_triangular(kept_KK, rest_HK, upper=False, left=False)
    return (weight_HN[:, :keep].double() + update_HK).to(weight_HN.dtype)


def residual_errors(weight_HN: Tensor, factor_NN: Tensor, keeps: list[int]) -> list[float]:
    """Squared output error (summed over calibration tokens) that repair leaves at each of `keeps`.

    L is lower triangular, so W_R L_RR is the last columns of W L: one product serves every width.

    Cost: 2 H N^2 FLOPs in fp32, however many widths.
    """
    by_column_N = (weight_HN.float() @ factor_NN).square().sum(0).double()
    left_N = by_column_N.flip(0).cumsum(0).flip(0)
    return [float(left_N[keep]) if keep < len(left_N) else 0.0 for keep in keeps]
