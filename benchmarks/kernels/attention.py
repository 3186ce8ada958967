"""Cases of masked attention: windows of text, some KV groups kept.

Shape suffixes: B windows, T positions, N = B x T tokens, H hidden, Q and K channels of queries and keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.kernels.case import BASELINE, Call, Case, Inputs, Provider, compiled, triton_only_on_gpu
from secateur_kernels import Backend, Heads, Packing, masked_attention
from secateur_kernels.work import attention_work


@dataclass(frozen=True)
class Attention:
    """Windows of text, and the heads that attend to them: `queries` in each of `groups`."""

    windows: int
    length: int
    hidden: int
    head_dim: int
    queries: int
    groups: int


SMOLLM2 = Attention(16, 256, 576, 64, 3, 3)  # 135M


def cases() -> list[Case]:
    return [case(SMOLLM2, kept) for kept in (3, 2, 1)]


def case(of: Attention, kept: int) -> Case:
    tokens, hidden, head_dim = of.windows * of.length, of.hidden, of.head_dim

    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        torch.manual_seed(0)
        x_NH = torch.randn(tokens, hidden, device=device).to(dtype)
        rows = (of.groups * of.queries * head_dim, of.groups * head_dim, of.groups * head_dim)
        query, key, value = ((torch.randn(n, hidden, device=device) / hidden**0.5).to(dtype) for n in rows)
        output = (torch.randn(hidden, rows[0], device=device) / rows[0] ** 0.5).to(dtype)
        mask = (torch.arange(rows[0], device=device) < kept * of.queries * head_dim).to(dtype)
        wide, narrow = kept * of.queries * head_dim, kept * head_dim
        small = query[:wide].clone(), key[:narrow].clone(), value[:narrow].clone(), output[:, :wide].clone()

        still = torch.zeros(of.length, head_dim, device=device, dtype=dtype)
        packing = Packing.of([of.length] * of.windows, cos_TD=still + 1, sin_TD=still)  # rotates by nothing

        def ours(backend: Backend) -> Call:
            if backend == "triton":
                triton_only_on_gpu(device)
            heads = Heads(query, key, value, head_dim)
            return lambda: masked_attention(x_NH, heads, output, packing, kept, backend=backend)

        def attention_of_it(x_NH: Tensor, *weights: Tensor) -> Tensor:
            return _attention(x_NH, of, *weights)

        providers = (
            Provider(BASELINE, lambda: lambda: _attention(x_NH, of, query, key, value, output, mask)),
            Provider("SDPA of that size", lambda: lambda: _attention(x_NH, of, *small)),
            Provider("SDPA of that size, compiled", lambda: compiled(attention_of_it, x_NH, *small)),
            Provider("flash-attn", lambda: _flash(x_NH, of, *small)),
            Provider("masked_attention torch", lambda: ours("torch")),
            Provider("masked_attention triton", lambda: ours("triton")),
        )

        def true(rows_n: Tensor) -> Tensor:
            whole = _attention(x_NH.double(), of, *(weight.double() for weight in small))
            return whole[rows_n]

        return Inputs(providers, true, len(x_NH), 0)

    return Case(
        "attention",
        f"{of.windows} x {of.length} tokens, H={hidden}, {kept} of {of.groups} groups",
        False,
        False,
        lambda itemsize: attention_work(
            [of.length] * of.windows, hidden, head_dim, of.queries, [kept], itemsize
        ),
        build,
    )


def _attention(
    x_NH: Tensor,
    of: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    mask_Q: Tensor | None = None,
) -> Tensor:
    """Without rotation of positions; ours rotates, by nothing."""

    def heads(weight: Tensor) -> Tensor:
        return functional.linear(x_NH, weight).view(of.windows, of.length, -1, of.head_dim).transpose(1, 2)

    mixed = functional.scaled_dot_product_attention(
        heads(query), heads(key), heads(value), is_causal=True, enable_gqa=True
    )
    mixed_NQ = mixed.transpose(1, 2).reshape(len(x_NH), -1)
    return functional.linear(mixed_NQ if mask_Q is None else mixed_NQ * mask_Q, output)


def _flash(x_NH: Tensor, of: Attention, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Call:
    from flash_attn import flash_attn_func

    triton_only_on_gpu(x_NH.device)

    def heads(weight: Tensor) -> Tensor:
        return functional.linear(x_NH, weight).view(of.windows, of.length, -1, of.head_dim)

    def call() -> Tensor:
        mixed: Tensor = flash_attn_func(heads(query), heads(key), heads(value), causal=True)
        return functional.linear(mixed.reshape(len(x_NH), -1), output)

    return call
