"""Masked attention: programs of pruned KV groups return at once, by a width read on the device.

One kernel makes heads (projection, bias, norm over the head and rotary embedding in one program), one
attends (flash-style: online softmax over tiles of keys). A tile belongs to one sequence, so a value
does not depend on what its sequence was packed with.

Shape suffixes: M candidates, N tokens, H hidden, D head_dim, A heads.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from secateur_kernels.arguments import KernelArgumentError, Widths
from secateur_kernels.attention import Heads, Packing
from secateur_kernels.triton_backend.metadata import Arguments, metadata, read
from secateur_kernels.triton_backend.product import LOG2_E, dot, narrow, rows_dot_two_right
from secateur_kernels.triton_backend.tile import Tile, tile_for
from secateur_kernels.work import Work, attend_work, rows_work


def _heads_work(arguments: Arguments, itemsize: int) -> Work:
    span = arguments["PER_GROUP"] * 2 * arguments["HALF"]
    groups = read(arguments["keep"], arguments["A"] // arguments["PER_GROUP"])
    return rows_work(arguments["N"], arguments["H"], [count * span for count in groups], itemsize)


def _attend_work(arguments: Arguments, itemsize: int) -> Work:
    starts = read(arguments["starts"], arguments["N"])
    lengths = [end - start for start, end in pairwise(starts)]
    if sum(lengths) < arguments["N"]:  # not read, while a graph is captured
        lengths = [arguments["N"]]
    return attend_work(
        lengths,
        arguments["D"],
        arguments["PER_GROUP"],
        read(arguments["keep"], arguments["groups"]),
        itemsize,
        window=arguments["window"] if arguments["WINDOWED"] else None,
    )


@triton.jit(do_not_specialize=["N"], launch_metadata=metadata("heads", _heads_work, "x"))
def _project_heads(
    x,  # [N, H], or [M, N, H]
    x_per_candidate,
    x_per_token,
    weight,  # [A * D, H]
    weight_per_row,
    bias,  # [A * D] or None
    norm,  # [D] or None
    cos,  # [T, D]
    sin,  # [T, D]
    position,  # int32 [N]
    keep,  # int32 [M], in groups
    out,  # [M, N, A * D]
    N,
    H,
    A,
    eps,
    PER_GROUP: tl.constexpr,
    ROTATED: tl.constexpr,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    row_tiles = tl.cdiv(N, ROWS)
    program = tl.program_id(0)
    head = (program // row_tiles).to(tl.int64)
    if head // PER_GROUP >= tl.load(keep + m):
        return
    n = (program % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    in_rows = n < N
    d = tl.arange(0, HALF)
    first = head * 2 * HALF + d
    low = tl.zeros((ROWS, HALF), tl.float32)
    high = tl.zeros((ROWS, HALF), tl.float32)
    rows = weight + first[:, None] * weight_per_row
    low, high = rows_dot_two_right(
        low,
        high,
        x + m * x_per_candidate + n * x_per_token,
        in_rows,
        rows,
        rows + HALF * weight_per_row,
        d[:, None] < HALF,
        H,
        STEP,
    )
    if bias is not None:
        low += tl.load(bias + first).to(tl.float32)[None, :]
        high += tl.load(bias + first + HALF).to(tl.float32)[None, :]
    if norm is not None:
        square = tl.sum(low * low, 1) + tl.sum(high * high, 1)
        scale = tl.rsqrt(square / (2 * HALF) + eps)[:, None]
        low = low * scale * tl.load(norm + d).to(tl.float32)[None, :]
        high = high * scale * tl.load(norm + HALF + d).to(tl.float32)[None, :]
    if ROTATED:
        at = tl.load(position + n, mask=in_rows, other=0).to(tl.int64) * (2 * HALF) + d[None, :]
        turned = low * tl.load(cos + at).to(tl.float32) - high * tl.load(sin + at).to(tl.float32)
        high = high * tl.load(cos + at + HALF).to(tl.float32) + low * tl.load(sin + at + HALF).to(tl.float32)
        low = turned
    target = out + ((m * N + n) * A + head) * (2 * HALF) + d[None, :]
    tl.store(target, narrow(low, out.dtype.element_ty), mask=in_rows)
    tl.store(target + HALF, narrow(high, out.dtype.element_ty), mask=in_rows)


@triton.jit
def _see(
    sums,
    q,  # [ROWS, D]
    keys,
    values,
    per_key,
    begin,
    end,
    row,
    length,
    window,
    power,
    MASKED: tl.constexpr,
    WINDOWED: tl.constexpr,
    D: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The sums with keys `begin` to `end`; a mask only where some row may not see some key."""
    top, total, summed = sums
    d = tl.arange(0, D)[None, :]
    for first in range(begin, end, COLUMNS):
        column = first + tl.arange(0, COLUMNS)[:, None]
        at = column.to(tl.int64) * per_key + d
        if MASKED:
            k = tl.load(keys + at, mask=column < length, other=0.0)
            v = tl.load(values + at, mask=column < length, other=0.0)
        else:
            k = tl.load(keys + at)
            v = tl.load(values + at)
        scores = dot(q, k.T, tl.zeros((q.shape[0], COLUMNS), tl.float32))
        if MASKED:
            allowed = (row >= column.T) & (column < length).T
            if WINDOWED:
                allowed = allowed & (row - column.T < window)
            scores = tl.where(allowed, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1) * power)
        # A row that has seen no key yet would be -inf - -inf.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(scores * power - base[:, None])
        shrink = tl.exp2(top - base)
        total = total * shrink + tl.sum(p, 1)
        summed = dot(narrow(p, v.dtype), v, summed * shrink[:, None])
        top = higher
    return top, total, summed


@triton.jit(
    do_not_specialize=["N", "tiles", "window"], launch_metadata=metadata("attend", _attend_work, "query")
)
def _attend(
    query,  # [M, N, groups * PER_GROUP, D]
    key,  # [M, N, groups, D]
    value,  # [M, N, groups, D]
    starts,  # int32 [B + 1]
    keep,  # int32 [M], in groups
    out,  # [M, N, groups * PER_GROUP, D]
    N,
    groups,
    tiles,
    window,
    scale,
    PER_GROUP: tl.constexpr,
    WINDOWED: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    program = tl.program_id(0)
    tile = program % tiles
    head = (program // tiles % (groups * PER_GROUP)).to(tl.int64)
    sequence = program // tiles // (groups * PER_GROUP)
    start = tl.load(starts + sequence)
    length = tl.load(starts + sequence + 1) - start
    group = head // PER_GROUP
    begin = tile * ROWS
    if begin >= length or group >= tl.load(keep + m):
        return
    d = tl.arange(0, D)[None, :]
    row = begin + tl.arange(0, ROWS)[:, None]
    token = m * N + start
    heads = groups * PER_GROUP
    offsets = ((token + row) * heads + head) * D + d
    q = tl.load(query + offsets, mask=row < length, other=0.0)
    sums = (
        tl.full((ROWS,), float("-inf"), tl.float32),
        tl.zeros((ROWS,), tl.float32),
        tl.zeros((ROWS, D), tl.float32),
    )
    keys, values = key + (token * groups + group) * D, value + (token * groups + group) * D
    per_key = groups * D
    power = scale * LOG2_E
    whole = 0  # from here to the diagonal, every row sees every key
    diagonal = begin // COLUMNS * COLUMNS
    if WINDOWED:
        oldest = tl.maximum(begin - window + 1, 0) // COLUMNS * COLUMNS
        whole = tl.minimum(tl.cdiv(tl.maximum(begin + ROWS - window, 0), COLUMNS) * COLUMNS, diagonal)
        sums = _see(
            sums, q, keys, values, per_key, oldest, whole, row, length, window, power, True, True, D, COLUMNS
        )
    sums = _see(
        sums, q, keys, values, per_key, whole, diagonal, row, length, window, power, False, False, D, COLUMNS
    )
    end = tl.minimum(begin + ROWS, length)
    _, total, summed = _see(
        sums, q, keys, values, per_key, diagonal, end, row, length, window, power, True, WINDOWED, D, COLUMNS
    )
    total = tl.where(total == 0.0, 1.0, total)
    result = summed / total[:, None]
    tl.store(out + offsets, narrow(result, out.dtype.element_ty), mask=row < length)


def attention_inner(
    x: Tensor,
    heads: Heads,
    packing: Packing,
    kept: Widths,
    project_tile: Tile | None = None,
    attend_tile: Tile | None = None,
) -> Tensor:
    """See `secateur_kernels.attention_inner`; one width per entry of the input."""
    D, R, groups = heads.head_dim, heads.queries_per_group, heads.num_groups
    if D & (D - 1) or not 32 <= D <= 256:
        raise KernelArgumentError("head_dim", D, "a power of two from 32 to 256 is allowed for triton")
    project_tile = project_tile or tile_for("project_heads", x.dtype, x.device)
    attend_tile = attend_tile or tile_for("attend", x.dtype, x.device)
    keep = kept.device(x.device)
    out = torch.empty(*x.shape[:-1], groups * R * D, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    query, key, value = (
        _heads(x, packing, keep, per_group, groups, rotated, weight, bias, norm, heads, project_tile)
        for per_group, rotated, weight, bias, norm in (
            (R, True, heads.query_QH, heads.query_bias_Q, heads.query_norm_D),
            (1, True, heads.key_KH, heads.key_bias_K, heads.key_norm_D),
            (1, False, heads.value_KH, heads.value_bias_K, None),
        )
    )
    tiles = triton.cdiv(max(packing.lengths), attend_tile.rows)
    _attend[(len(packing.lengths) * groups * R * tiles, len(keep))](
        query,
        key,
        value,
        packing.starts,
        keep,
        out,
        x.shape[-2],
        groups,
        tiles,
        heads.window or 0,
        heads.scaling,
        PER_GROUP=R,
        WINDOWED=heads.window is not None,
        D=D,
        ROWS=attend_tile.rows,
        COLUMNS=attend_tile.columns,
        num_warps=attend_tile.warps,
        num_stages=attend_tile.stages,
    )
    return out


def _heads(
    x: Tensor,
    packing: Packing,
    keep: Tensor,
    per_group: int,
    groups: int,
    rotated: bool,
    weight: Tensor,
    bias: Tensor | None,
    norm_D: Tensor | None,
    heads: Heads,
    tile: Tile,
) -> Tensor:
    """Heads of one kind, [M, N, A * D]."""
    tokens, hidden = x.shape[-2:]
    out = torch.empty(len(keep), tokens, len(weight), dtype=x.dtype, device=x.device)
    _project_heads[(triton.cdiv(tokens, tile.rows) * groups * per_group, len(keep))](
        x,
        x.stride(0) if x.dim() == 3 else 0,
        x.stride(-2),
        weight,
        weight.stride(0),
        bias,
        norm_D,
        packing.cos_TD,
        packing.sin_TD,
        packing.positions,
        keep,
        out,
        tokens,
        hidden,
        groups * per_group,
        heads.norm_eps,
        PER_GROUP=per_group,
        ROTATED=rotated,
        HALF=heads.head_dim // 2,
        ROWS=tile.rows,
        STEP=tile.inner,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out
