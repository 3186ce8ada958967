"""The Cholesky factor of a damped Gram matrix: there is always one, and it is of the permuted matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.calibrate.least_squares import damped, factorise


def gram(channels: int, tokens: int) -> Tensor:
    x_MN = torch.randn(tokens, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x_MN.T @ x_MN


def test_damping_leaves_what_it_is_given_alone() -> None:
    given = gram(5, 9)
    before = given.clone()
    level = 0.1 * given.diagonal().mean()
    assert torch.allclose(damped(given, 0.1), before + level * torch.eye(5, dtype=torch.float64))
    assert torch.equal(given, before)


def test_channels_that_were_never_active() -> None:
    assert factorise(torch.zeros(4, 4), torch.arange(4), 0.01).isfinite().all()


def test_fewer_tokens_than_channels() -> None:
    assert factorise(gram(40, 7).float(), torch.arange(40), 0.01).isfinite().all()


def test_permuted() -> None:
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    factor = factorise(gram(7, 30), order, 0.01).double()
    expected = damped(gram(7, 30), 0.01)[order][:, order]
    assert torch.equal(factor, factor.tril())
    assert torch.allclose(factor @ factor.T, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))
