"""Norms by vLLM's CPU kernels are those of torch, and what the kernels cannot do stays with torch."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("vllm")

from vllm import ir
from vllm.platforms import current_platform

from secateur.serve.engine.environment import kernel_choice
from secateur.vllm_plugin.cpu_norms import CPU_NORMS, register_norms

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="kernels of a CPU")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def registered() -> None:
    register_norms()
    register_norms()  # every process of vLLM's may load plugins more than once


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("width", [576, 200])
def test_equal_to_torchs(dtype: torch.dtype, rows: int, width: int) -> None:
    torch.manual_seed(0)
    x, residual = torch.randn(2, rows, width).to(dtype)
    weight = torch.rand(width).add(0.5).to(dtype)
    for name, inputs in (("rms_norm", (x,)), ("fused_add_rms_norm", (x, residual))):
        operation = getattr(ir.ops, name)
        wanted = operation.impls["native"].impl_fn(*(t.clone() for t in inputs), weight, 1e-5)
        given = operation.impls[CPU_NORMS].impl_fn(*(t.clone() for t in inputs), weight, 1e-5)
        torch.testing.assert_close(given, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_what_the_kernels_cannot_do_is_left_alone() -> None:
    norm = ir.ops.rms_norm.impls[CPU_NORMS]
    x, weight = torch.randn(3, 8), torch.ones(8)
    assert norm.supports_args(x, weight, 1e-5)
    assert not norm.supports_args(x, None, 1e-5)
    assert not norm.supports_args(x, weight.bfloat16(), 1e-5)
    assert not norm.supports_args(x, weight, 1e-5, 4)
    assert not norm.supports_args(torch.randn(8, 3).T, weight, 1e-5)
    with ir.ops.rms_norm.set_priority([CPU_NORMS, "native"]):
        torch.testing.assert_close(
            ir.ops.rms_norm(x, weight.bfloat16(), 1e-5),
            ir.ops.rms_norm.impls["native"].impl_fn(x, weight.bfloat16(), 1e-5),
        )


def test_chosen_where_nothing_is_compiled() -> None:
    assert kernel_choice(compiled=True) == {}
    chosen = kernel_choice(compiled=False)["ir_op_priority"]
    assert chosen == {"rms_norm": [CPU_NORMS], "fused_add_rms_norm": [CPU_NORMS]}
