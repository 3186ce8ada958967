"""RMS norms by vLLM's own CPU kernels, which vLLM registers for GPUs only.

Left to itself, vLLM 0.32 computes a norm on a CPU as ten small torch operations, each with its own pass
and its own call: 36 µs for a row of 576 numbers where the kernel in the same wheel takes 2.5. A SmolLM2 has
61 norms per step. Other rows than those of the kernels (of another dtype than the weight, not contiguous,
partly normalised) stay with torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

CPU_NORMS = "secateur_cpu"
"""Provider of `NORMS` that an engine on a CPU may choose."""

NORMS = ("rms_norm", "fused_add_rms_norm")
"""Of ``vllm.ir.ops``, and the names of the kernels behind them."""


def register_norms() -> None:
    """Make the provider known to vLLM; whoever starts an engine chooses it. May be called repeatedly."""
    from vllm import ir
    from vllm.platforms import current_platform

    if CPU_NORMS in ir.ops.rms_norm.impls:
        return
    current_platform.import_kernels()
    supported = current_platform.is_cpu() and all(hasattr(torch.ops._C, name) for name in NORMS)

    @ir.ops.rms_norm.register_impl(CPU_NORMS, supports_args=_takes_row, supported=supported)
    def rms_norm(
        x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> Tensor:
        output = torch.empty_like(x)
        torch.ops._C.rms_norm(output, x, weight, epsilon)
        return output

    @ir.ops.fused_add_rms_norm.register_impl(
        CPU_NORMS, supports_args=_takes_sum, supported=supported, inplace=True
    )
    def fused_add_rms_norm(
        x: Tensor,
        x_residual: Tensor,
        weight: Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
        return x, x_residual


def _takes_row(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return weight is not None and weight.dtype == x.dtype and variance_size is None and x.is_contiguous()


def _takes_sum(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return _takes_row(x, weight, epsilon, variance_size) and x_residual.is_contiguous()
