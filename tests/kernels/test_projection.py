"""Bounded projections are the sliced products, for any widths, one candidate or several, shared input or not.

Proven on both backends and in every dtype against fp64: shapes off every block boundary, widths on the
device, tables of separate weights, spans, biases, widths of nothing; nested widths are the separate ones.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from secateur_kernels import masked_projection, reference
from tests.kernels.conftest import assert_as_good_as_eager

TOKENS, CHANNELS, OUTPUTS = 150, 200, 133
KEEP = [0, 1, 64, 131, 200]


def draw(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device, dtype)


@pytest.fixture
def inner(dtype: torch.dtype, device: torch.device) -> Tensor:
    return draw(TOKENS, CHANNELS, dtype=dtype, device=device)


@pytest.fixture
def weight(dtype: torch.dtype, device: torch.device) -> Tensor:
    return draw(OUTPUTS, CHANNELS, dtype=dtype, device=device, seed=1) / math.sqrt(CHANNELS)


def eager(inner: Tensor, weight: Tensor, width: int) -> Tensor:
    return inner[:, :width] @ weight[:, :width].T


def test_equals_the_sliced_product(backend: str, inner: Tensor, weight: Tensor) -> None:
    found = masked_projection(inner, weight, KEEP, backend=backend)
    assert found.shape == (len(KEEP), TOKENS, OUTPUTS)
    for width, part in zip(KEEP, found, strict=True):
        true = reference.masked_projection(inner, weight, width, None)
        assert_as_good_as_eager(part, eager(inner, weight, width), true)
