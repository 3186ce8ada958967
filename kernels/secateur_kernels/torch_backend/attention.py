"""Masked attention in torch: slices, so work falls with what is kept.

Shape suffixes: B sequences, T tokens of one, N tokens of all, H hidden, D head_dim, A heads, G KV groups, R
query heads of one, Q query channels, K key/value channels. In `_attend_in_bands` G runs over sequences
too, and Q, K are the queries and keys of a band.
"""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from secateur_kernels.arguments import Widths
from secateur_kernels.attention import Heads, Packing

_SHORT = 512
_BAND = 64  # queries; 153 ms for 30 layers of 4096 tokens (SmolLM2, 2 cores), 32: 171, 128: 165, 256: 208


def attention_inner(x: Tensor, heads: Heads, packing: Packing, kept: Widths) -> Tensor:
    """See `secateur_kernels.attention_inner`; one width per entry of the input."""
    inner = [
        _inner(x_NH, heads, packing, min(max(count, 0), heads.num_groups))
        for count, x_NH in zip(kept.host(), x if x.dim() == 3 else [x], strict=True)
    ]
    return torch.stack(inner) if x.dim() == 3 else inner[0]


def _inner(x_NH: Tensor, heads: Heads, packing: Packing, groups: int) -> Tensor:
    D, R = heads.head_dim, heads.queries_per_group
    q, k = groups * R * D, groups * D
    positions = packing.positions.long()
    cos_ND, sin_ND = packing.cos_TD[positions], packing.sin_TD[positions]
    query_NAD = _heads(x_NH, heads.query_QH[:q], _cut(heads.query_bias_Q, q), D)
    key_NAD = _heads(x_NH, heads.key_KH[:k], _cut(heads.key_bias_K, k), D)
    value_NAD = _heads(x_NH, heads.value_KH[:k], _cut(heads.value_bias_K, k), D)
    query_NAD = _rotate(_norm(query_NAD, heads.query_norm_D, heads.norm_eps), cos_ND, sin_ND)
    key_NAD = _rotate(_norm(key_NAD, heads.key_norm_D, heads.norm_eps), cos_ND, sin_ND)
    parts = []
    start = 0
    for length, run in groupby(packing.lengths):
        count = len(list(run))
        rows = slice(start, start + count * length)
        start = rows.stop
        if length:
            query_BATD, key_BATD, value_BATD = (
                states[rows].unflatten(0, (count, length)).transpose(1, 2)
                for states in (query_NAD, key_NAD, value_NAD)
            )
            attended_BATD = _attend(query_BATD, key_BATD, value_BATD, R, heads.window, heads.scale)
            parts.append(attended_BATD.transpose(1, 2).flatten(2).flatten(0, 1))
    inner = torch.cat(parts) if parts else x_NH.new_zeros(len(x_NH), q)
    return functional.pad(inner, (0, len(heads.query_QH) - q))


def _attend(
    q_BATD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    repeat: int,
    window: int | None,
    scale: float | None = None,
) -> Tensor:
    """Causal attention; short bf16 sequences on a CPU by plain products, 2.5 times faster there."""
    T = q_BATD.shape[-2]
    mask_TT = None
    if window is not None and window < T:
        age_TT = torch.arange(T, device=q_BATD.device)[:, None] - torch.arange(T, device=q_BATD.device)
        mask_TT = (age_TT >= 0) & (age_TT < window)
    if q_BATD.dtype == torch.bfloat16 and q_BATD.device.type == "cpu" and T <= _SHORT:
        return _attend_in_bands(q_BATD, k_BGTD, v_BGTD, repeat, mask_TT, scale)
    k_BATD, v_BATD = (states.repeat_interleave(repeat, dim=1) for states in (k_BGTD, v_BGTD))
    return functional.scaled_dot_product_attention(
        q_BATD, k_BATD, v_BATD, attn_mask=mask_TT, is_causal=mask_TT is None, scale=scale
    )


def _attend_in_bands(
    q_BATD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    repeat: int,
    mask_TT: Tensor | None,
    scale: float | None = None,
) -> Tensor:
    """A band of queries against the keys up to its last, the heads of a group in one product."""
    B, A, T, D = q_BATD.shape
    G, scale = A // repeat, D**-0.5 if scale is None else scale
    q_GRTD = q_BATD.unflatten(1, (G, repeat)).flatten(0, 1)
    k_GDT, v_GTD = k_BGTD.flatten(0, 1).transpose(1, 2).contiguous(), v_BGTD.flatten(0, 1).contiguous()
    allowed_TT = torch.ones(T, T, dtype=torch.bool).tril_() if mask_TT is None else mask_TT
    bias_TT = torch.zeros(T, T, dtype=q_BATD.dtype).masked_fill_(~allowed_TT, float("-inf"))
    bands = []
    for start in range(0, T, _BAND):
        stop = min(start + _BAND, T)
        scaled_GQD = (q_GRTD[:, :, start:stop] * scale).flatten(1, 2)
        scores_GRQK = torch.bmm(scaled_GQD, k_GDT[..., :stop]).unflatten(1, (repeat, -1))
        first = start if mask_TT is None else 0  # before the band, plain causal attention masks nothing
        scores_GRQK[..., first:] += bias_TT[start:stop, first:stop]
        shares_GQK = torch.softmax(scores_GRQK, dim=-1).flatten(1, 2)
        bands.append(torch.bmm(shares_GQK, v_GTD[:, :stop]).unflatten(1, (repeat, -1)))
    return torch.cat(bands, 2).unflatten(0, (B, G)).flatten(1, 2)


def _heads(x_NH: Tensor, weight: Tensor, bias: Tensor | None, head_dim: int) -> Tensor:
    return functional.linear(x_NH, weight, bias).unflatten(1, (-1, head_dim))


def _cut(bias: Tensor | None, rows: int) -> Tensor | None:
    return None if bias is None else bias[:rows]


def _norm(x_NAD: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
    if weight_D is None:
        return x_NAD
    x32 = x_NAD.float()
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (x32 * scale).to(x_NAD.dtype) * weight_D


def _rotate(x_NAD: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
    half = x_NAD.shape[-1] // 2
    turned = torch.cat((-x_NAD[..., half:], x_NAD[..., :half]), dim=-1)
    return x_NAD * cos_ND[:, None] + turned * sin_ND[:, None]
