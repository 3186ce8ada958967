"""Cases of masked attention: windows of text, some KV groups kept.

Shape suffixes: B windows, T positions, N = B x T tokens, H hidden, Q and K channels of queries and keys.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.kernels.case import BASELINE, Call, Case, Inputs, Provider, compiled, triton_only_on_gpu
from secateur_kernels import Backend, Heads, Packing, masked_attention
from secateur_kernels.work import attention_work

WINDOWS, LENGTH, HIDDEN, HEAD_DIM, QUERIES, GROUPS = 16, 256, 576, 64, 3, 3  # SmolLM2-135M


def cases() -> list[Case]:
    return [case(kept) for kept in (3, 2, 1)]


def case(kept: int) -> Case:
    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        torch.manual_seed(0)
        x_NH = torch.randn(WINDOWS * LENGTH, HIDDEN, device=device).to(dtype)
        rows = (GROUPS * QUERIES * HEAD_DIM, GROUPS * HEAD_DIM, GROUPS * HEAD_DIM)
        query, key, value = ((torch.randn(n, HIDDEN, device=device) / HIDDEN**0.5).to(dtype) for n in rows)
        output = (torch.randn(HIDDEN, rows[0], device=device) / rows[0] ** 0.5).to(dtype)
        mask = (torch.arange(rows[0], device=device) < kept * QUERIES * HEAD_DIM).to(dtype)
        wide, narrow = kept * QUERIES * HEAD_DIM, kept * HEAD_DIM
        small = query[:wide].clone(), key[:narrow].clone(), value[:narrow].clone(), output[:, :wide].clone()

        still = torch.zeros(LENGTH, HEAD_DIM, device=device, dtype=dtype)
        packing = Packing.of([LENGTH] * WINDOWS, cos_TD=still + 1, sin_TD=still)  # rotates by nothing

        def ours(backend: Backend) -> Call:
            if backend == "triton":
                triton_only_on_gpu(device)
            heads = Heads(query, key, value, HEAD_DIM)
            return lambda: masked_attention(x_NH, heads, output, packing, kept, backend=backend)

        providers = (
            Provider(BASELINE, lambda: lambda: _attention(x_NH, query, key, value, output, mask)),
            Provider("SDPA of that size", lambda: lambda: _attention(x_NH, *small)),
            Provider("SDPA of that size, compiled", lambda: compiled(_attention, x_NH, *small)),
            Provider("masked_attention torch", lambda: ours("torch")),
            Provider("masked_attention triton", lambda: ours("triton")),
        )

        def true(rows_n: Tensor) -> Tensor:
            whole = _attention(x_NH.double(), *(weight.double() for weight in small))
            return whole[rows_n]

        return Inputs(providers, true, len(x_NH), 0)

    return Case(
        "attention",
        f"{WINDOWS} x {LENGTH} tokens, {kept} of {GROUPS} groups",
        False,
        False,
        lambda itemsize: attention_work([LENGTH] * WINDOWS, HIDDEN, HEAD_DIM, QUERIES, [kept], itemsize),
        build,
    )


def _attention(
    x_NH: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, mask_Q: Tensor | None = None
) -> Tensor:
    """Without rotation of positions; ours rotates, by nothing."""

    def heads(weight: Tensor) -> Tensor:
        return functional.linear(x_NH, weight).view(WINDOWS, LENGTH, -1, HEAD_DIM).transpose(1, 2)

    mixed = functional.scaled_dot_product_attention(
        heads(query), heads(key), heads(value), is_causal=True, enable_gqa=True
    )
    mixed_NQ = mixed.transpose(1, 2).reshape(len(x_NH), -1)
    return functional.linear(mixed_NQ if mask_Q is None else mixed_NQ * mask_Q, output)
