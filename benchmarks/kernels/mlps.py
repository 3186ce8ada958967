"""Cases of the gated MLP and of projections: one width, nested widths, several candidates.

Shape suffixes: M candidates, N tokens, H hidden, C inner channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import secateur_kernels
from benchmarks.kernels.case import (
    BASELINE,
    Call,
    Case,
    Inputs,
    Provider,
    compiled,
    tilings,
    triton_only_on_gpu,
)
from secateur_kernels import reference
from secateur_kernels.arguments import Widths
from secateur_kernels.work import mlp_work, nested_projection_work, projection_work, rows_work

SHARES = (1.0, 0.75, 0.5, 0.25)
EIGHT = (192, 384, 576, 768, 960, 1152, 1344, 1536)


def cases() -> list[Case]:
    widths = [width_case(1024, 576, 1536, share, False) for share in SHARES]
    widths += [width_case(2048, 4096, 14336, share, True) for share in SHARES]
    nested = [nested_mlp_case(1024, 576, 1536, (384, 768, 1152, 1536), False)]
    return [
        *widths,
        projection_case(1024, 576, 1536, 768),
        nested_projection_case(1024, 576, 1536, (384, 768, 1152, 1536)),
        *nested,
        nested_mlp_case(1024, 576, 1536, EIGHT, False),
        nested_mlp_case(2048, 576, 1536, EIGHT, True),
    ]


def width_case(tokens: int, hidden: int, channels: int, share: float, only_gpu: bool) -> Case:
    kept = int(channels * share)

    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        x_NH, gate_CH, up_CH, down_HC = _inputs(tokens, hidden, channels, device, dtype)

        def multiplied() -> Call:
            mask_C = (torch.arange(channels, device=device) < kept).to(dtype)
            return lambda: _mlp(x_NH, gate_CH, up_CH, down_HC, mask_C)

        small = gate_CH[:kept].clone(), up_CH[:kept].clone(), down_HC[:, :kept].clone()

        def ours(backend: str) -> Call:
            if backend == "triton":
                triton_only_on_gpu(device)
            run = secateur_kernels.masked_mlp
            return lambda: run(x_NH, gate_CH, up_CH, down_HC, kept, backend=backend)

        providers = (
            Provider(BASELINE, multiplied),
            Provider("dense of that size", lambda: lambda: _mlp(x_NH, *small)),
            Provider("dense of that size, compiled", lambda: compiled(_mlp, x_NH, *small)),
            Provider("masked_mlp torch", lambda: ours("torch")),
            Provider("masked_mlp triton", lambda: ours("triton")),
        )

        def true(rows: Tensor) -> Tensor:
            return reference.masked_mlp(x_NH[rows], gate_CH, up_CH, down_HC, slice(0, kept))

        return Inputs(providers, true, tokens, 0)

    return Case(
        "MLP",
        f"N={tokens} H={hidden} C={channels} keep {share:g}",
        only_gpu,
        False,
        lambda itemsize: mlp_work(tokens, hidden, [kept], itemsize),
        build,
    )


def inner_case(tokens: int, hidden: int, channels: int) -> Case:
    """Gate, up and activation with everything kept: what cuBLAS does in two products."""

    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        x_NH, gate_CH, up_CH, _ = _inputs(tokens, hidden, channels, device, dtype)

        def eager() -> Tensor:
            return functional.silu(functional.linear(x_NH, gate_CH)) * functional.linear(x_NH, up_CH)

        def tiled(tile: Any) -> Call:
            from secateur_kernels.triton_backend.mlp import gated_inner

            all_kept = Widths((channels,), None, True)
            return lambda: gated_inner(x_NH, gate_CH, up_CH, all_kept, None, None, None, tile=tile)

        def ours() -> Call:
            return lambda: secateur_kernels.gated_inner(x_NH, gate_CH, up_CH, backend="torch")

        providers = (
            Provider(BASELINE, lambda: eager),
            Provider("gated_inner torch", ours),
            *tilings("gated_inner", device, dtype, tiled),
        )

        def true(rows: Tensor) -> Tensor:
            x, gate, up = (tensor.double() for tensor in (x_NH[rows], gate_CH, up_CH))
            return functional.silu(functional.linear(x, gate)) * functional.linear(x, up)

        return Inputs(providers, true, tokens, 0)

    return Case(
        "gated inner",
        f"N={tokens} H={hidden} C={channels}",
        False,
        False,
        lambda itemsize: rows_work(tokens, hidden, [channels], itemsize, matrices=2),
        build,
    )


def nested_mlp_case(tokens: int, hidden: int, channels: int, kept: tuple[int, ...], only_gpu: bool) -> Case:
    """One input, candidates of several widths: against a loop over MLPs of those sizes."""

    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        x_NH, gate_CH, up_CH, down_HC = _inputs(tokens, hidden, channels, device, dtype)
        small = [(gate_CH[:k].clone(), up_CH[:k].clone(), down_HC[:, :k].clone()) for k in kept]

        def ours(name: str, backend: str) -> Call:
            if backend == "triton":
                triton_only_on_gpu(device)
            run: Callable[..., Tensor] = getattr(secateur_kernels, name)
            return lambda: run(x_NH, gate_CH, up_CH, down_HC, kept, backend=backend)

        providers = (
            Provider(BASELINE, lambda: lambda: torch.stack([_mlp(x_NH, *weights) for weights in small])),
            Provider("masked_mlp torch", lambda: ours("masked_mlp", "torch")),
            Provider("masked_mlp triton", lambda: ours("masked_mlp", "triton")),
            Provider("nested_mlp torch", lambda: ours("nested_mlp", "torch")),
            Provider("nested_mlp triton", lambda: ours("nested_mlp", "triton")),
        )

        def true(rows: Tensor) -> Tensor:
            return torch.stack(
                [reference.masked_mlp(x_NH[rows], gate_CH, up_CH, down_HC, slice(0, k)) for k in kept]
            )

        return Inputs(providers, true, tokens, 1)

    def work(itemsize: int) -> secateur_kernels.work.Work:
        alone = mlp_work(
            tokens, hidden, [max(kept)], itemsize
        )  # nested: the widest, and every result written
        return alone + secateur_kernels.work.Work(0, itemsize * (len(kept) - 1) * tokens * hidden)

    return Case(
        f"{len(kept)} candidates, one input",
        f"N={tokens} H={hidden} C={channels}",
        only_gpu,
        False,
        work,
        build,
    )


def projection_case(tokens: int, hidden: int, channels: int, kept: int) -> Case:
    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        x_NH, gate_CH, _, down_HC = _inputs(tokens, hidden, channels, device, dtype)
        inner_NC = x_NH @ gate_CH.T
        masked_NC = inner_NC * (torch.arange(channels, device=device) < kept)

        def ours(backend: str) -> Call:
            if backend == "triton":
                triton_only_on_gpu(device)
            return lambda: secateur_kernels.masked_projection(inner_NC, down_HC, kept, backend=backend)

        providers = (
            Provider(BASELINE, lambda: lambda: functional.linear(masked_NC, down_HC)),
            Provider("masked_projection torch", lambda: ours("torch")),
            Provider("masked_projection triton", lambda: ours("triton")),
        )

        def true(rows: Tensor) -> Tensor:
            return reference.masked_projection(inner_NC[rows], down_HC, kept)

        return Inputs(providers, true, tokens, 0)

    return Case(
        "projection",
        f"N={tokens} H={hidden} C={channels} keep {kept / channels:g}",
        False,
        False,
        lambda itemsize: projection_work(tokens, hidden, [kept], itemsize),
        build,
    )


def nested_projection_case(tokens: int, hidden: int, channels: int, kept: tuple[int, ...]) -> Case:
    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        x_NH, gate_CH, _, down_HC = _inputs(tokens, hidden, channels, device, dtype)
        inner_NC = x_NH @ gate_CH.T

        def separate() -> Tensor:
            return torch.stack([functional.linear(inner_NC[:, :k], down_HC[:, :k]) for k in kept])

        def ours(backend: str) -> Call:
            if backend == "triton":
                triton_only_on_gpu(device)
            return lambda: secateur_kernels.nested_projection(inner_NC, down_HC, kept, backend=backend)

        providers = (
            Provider(BASELINE, lambda: separate),
            Provider("nested_projection torch", lambda: ours("torch")),
            Provider("nested_projection triton", lambda: ours("triton")),
        )

        def true(rows: Tensor) -> Tensor:
            return torch.stack([reference.masked_projection(inner_NC[rows], down_HC, k) for k in kept])

        return Inputs(providers, true, tokens, 1)

    return Case(
        "nested projection",
        f"N={tokens} H={hidden} C={channels}, {len(kept)} widths",
        False,
        False,
        lambda itemsize: nested_projection_work(tokens, hidden, kept, itemsize),
        build,
    )


def _inputs(
    tokens: int, hidden: int, channels: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x_NH = torch.randn(tokens, hidden, device=device)
    gate_CH, up_CH = (torch.randn(channels, hidden, device=device) / hidden**0.5 for _ in range(2))
    down_HC = torch.randn(hidden, channels, device=device) / channels**0.5
    return x_NH.to(dtype), gate_CH.to(dtype), up_CH.to(dtype), down_HC.to(dtype)


def _mlp(
    x_NH: Tensor, gate_CH: Tensor, up_CH: Tensor, down_HC: Tensor, mask_C: Tensor | None = None
) -> Tensor:
    inner_NC = functional.silu(functional.linear(x_NH, gate_CH)) * functional.linear(x_NH, up_CH)
    return functional.linear(inner_NC if mask_C is None else inner_NC * mask_C, down_HC)
