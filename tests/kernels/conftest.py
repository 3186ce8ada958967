"""What kernel tests share: poisoned allocations, errors judged against the same-dtype eager operation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from secateur_kernels.backend import runs_on, triton_installed

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# What a comparison may miss beyond twice the error of the eager operation, as a share of the largest value.
EPS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(params=["torch", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each implementation in turn; Triton on a GPU where there is one, else under its interpreter."""
    if request.param == "triton" and not (
        triton_installed() and (torch.cuda.is_available() or runs_on("cpu"))
    ):
        pytest.skip("triton can neither run nor be interpreted here")
    return request.param


@pytest.fixture
def device(backend: str) -> torch.device:
    """Where tensors of a test go: the GPU for compiled kernels, else the CPU."""
    return torch.device("cpu" if runs_on("cpu") or not torch.cuda.is_available() else "cuda")


# fp16 goes the way of bf16 in every kernel.
@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow if name == "fp16" else ()) for name in DTYPES],
    ids=list(DTYPES),
)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Each dtype in turn."""
    return DTYPES[request.param]


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the package allocates starts as NaN: an output that is not written shows."""
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, _poisoned(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "new_empty", _poisoned(Tensor.new_empty))


@pytest.fixture(autouse=True)
def strict_arithmetic() -> Iterator[None]:
    """NaN out of the interpreter's NumPy is an error, not a warning (rows that are all -inf make one)."""
    with numpy.errstate(invalid="raise", divide="raise"):
        yield


def _poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def allocate_poisoned(*args: Any, **kwargs: Any) -> Tensor:
        tensor = allocate(*args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.startswith("secateur_kernels") and tensor.is_floating_point():
            tensor.fill_(float("nan"))
        return tensor

    return allocate_poisoned


def assert_as_good_as_eager(found: Tensor, eager: Tensor, true: Tensor) -> None:
    """Every element within twice the worst error of the same-dtype eager operation, both against fp64."""
    assert found.shape == true.shape and found.dtype == eager.dtype
    assert torch.isfinite(found).all()
    if found.numel() == 0:
        return
    allowed = 2 * float((eager.double() - true).abs().max()) + EPS[found.dtype] * float(true.abs().max())
    worst = float((found.double() - true).abs().max())
    assert worst <= allowed, f"error {worst:.3g}, allowed {allowed:.3g}"
