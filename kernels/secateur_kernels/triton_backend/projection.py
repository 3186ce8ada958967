"""Bounded projections: the sum over channels stops where the candidate's width, read on the device, says.

Shape suffixes: M candidates, N tokens, C inner channels, H outputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from secateur_kernels.arguments import Widths
from secateur_kernels.projection import Projection, ProjectionTable
from secateur_kernels.triton_backend.metadata import Arguments, metadata, read
from secateur_kernels.triton_backend.product import narrow, rows_dot
from secateur_kernels.triton_backend.tile import Tile, tile_for
from secateur_kernels.work import Work, nested_projection_work, projection_work


def _work(arguments: Arguments, itemsize: int) -> Work:
    channels, table = arguments["C"], arguments["TABLE"]
    widths = [units * arguments["SPAN"] for units in read(arguments["keep"], channels // arguments["SPAN"])]
    if table:
        widths = [min(pair) for pair in zip(widths, read(arguments["weight"][:, 2], channels), strict=True)]
    return projection_work(
        arguments["N"],
        arguments["H"],
        widths,
        itemsize,
        shared_input=arguments["inner"].dim() == 2,
        shared_weight=not table,
    )


def _nested_work(arguments: Arguments, itemsize: int) -> Work:
    widths = [
        units * arguments["SPAN"] for units in read(arguments["keep"], arguments["C"] // arguments["SPAN"])
    ]
    return nested_projection_work(arguments["N"], arguments["H"], widths, itemsize)


@triton.jit(do_not_specialize=["N"], launch_metadata=metadata("projection", _work, "inner"))
def _project(
    inner,  # [N, C], or [M, N, C]
    inner_per_candidate,
    inner_per_token,
    weight,  # [H, C]; with TABLE: int64 [M, 3], address, stride and width of each candidate's
    weight_per_row,
    keep,  # int32 [M]
    bias,  # [H] or None
    out,  # [M, N, H]
    N,
    C,
    H,
    SPAN: tl.constexpr,
    TABLE: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    row_tiles = tl.cdiv(N, ROWS)
    tile = tl.program_id(0)
    n = (tile % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    h = (tile // row_tiles).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    width = tl.minimum(tl.maximum(tl.load(keep + m), 0) * SPAN, C)
    if TABLE:
        first = tl.load(weight + 3 * m).to(tl.pointer_type(inner.dtype.element_ty))
        stride = tl.load(weight + 3 * m + 1)
        width = tl.minimum(width, tl.load(weight + 3 * m + 2).to(tl.int32))
        if ALIGNED:
            first = tl.multiple_of(first, 16)
            stride = tl.multiple_of(stride, 128 // inner.dtype.element_ty.primitive_bitwidth)
    else:
        first = weight
        stride = weight_per_row
    inner_ptrs = inner + m * inner_per_candidate + n * inner_per_token
    right = first + h * stride
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    total = rows_dot(total, inner_ptrs, n < N, right, h < H, width, STEP)
    column = h.T
    if bias is not None:
        total += tl.load(bias + column, mask=column < H, other=0.0).to(tl.float32)
    target = out + (m * N + n) * H + column
    tl.store(target, narrow(total, out.dtype.element_ty), mask=(n < N) & (column < H))


@triton.jit(
    do_not_specialize=["M", "N"], launch_metadata=metadata("nested_projection", _nested_work, "inner")
)
def _project_nested(
    inner,  # [N, C]
    inner_per_token,
    weight,  # [H, C]
    weight_per_row,
    keep,  # int32 [M], ascending
    out,  # [M, N, H]
    M,
    N,
    C,
    H,
    SPAN: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    row_tiles = tl.cdiv(N, ROWS)
    tile = tl.program_id(0)
    n = (tile % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    h = (tile // row_tiles).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    column = h.T
    inner_ptrs = inner + n * inner_per_token
    right = weight + h * weight_per_row
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    row = n  # of the output, candidate by candidate
    units_done = 0
    for m in range(0, M):
        # Counted in whole units, so that the compiler knows how rows are aligned from there on.
        done = units_done * UNIT
        units = tl.minimum(tl.maximum(tl.load(keep + m), 0) * SPAN, C) // UNIT
        width = units * UNIT
        total = rows_dot(total, inner_ptrs + done, n < N, right + done, h < H, width - done, STEP)
        target = out + row * H + column
        tl.store(target, narrow(total, out.dtype.element_ty), mask=(n < N) & (column < H))
        row += N
        units_done = units


def project(
    inner: Tensor,
    weight: Projection,
    kept: Widths,
    span: int,
    bias_H: Tensor | None,
    tile: Tile | None = None,
) -> Tensor:
    """See `secateur_kernels.masked_projection`."""
    tile = tile or tile_for("projection", inner.dtype, inner.device)
    candidates, (tokens, channels) = len(kept), inner.shape[-2:]
    table = isinstance(weight, ProjectionTable)
    outputs = weight.outputs if isinstance(weight, ProjectionTable) else weight.shape[0]
    out = torch.empty(candidates, tokens, outputs, dtype=inner.dtype, device=inner.device)
    tiles = triton.cdiv(tokens, tile.rows) * triton.cdiv(outputs, tile.columns)
    if tiles:
        _project[(tiles, candidates)](
            inner,
            inner.stride(0) if inner.dim() == 3 else 0,
            inner.stride(-2),
            weight.rows if isinstance(weight, ProjectionTable) else weight,
            0 if isinstance(weight, ProjectionTable) else weight.stride(0),
            kept.device(inner.device),
            bias_H,
            out,
            tokens,
            channels,
            outputs,
            SPAN=span,
            TABLE=table,
            ALIGNED=isinstance(weight, ProjectionTable) and weight.aligned,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            STEP=tile.inner,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return out[0] if kept.single and inner.dim() == 2 else out


def project_nested(
    inner_NC: Tensor, weight_HC: Tensor, kept: Widths, span: int, tile: Tile | None = None
) -> Tensor:
    """See `secateur_kernels.nested_projection`."""
    tile = tile or tile_for("projection", inner_NC.dtype, inner_NC.device)
    tokens, channels = inner_NC.shape
    outputs = len(weight_HC)
    out = torch.empty(len(kept), tokens, outputs, dtype=inner_NC.dtype, device=inner_NC.device)
    tiles = triton.cdiv(tokens, tile.rows) * triton.cdiv(outputs, tile.columns)
    if tiles:
        _project_nested[(tiles,)](
            inner_NC,
            inner_NC.stride(0),
            weight_HC,
            weight_HC.stride(0),
            kept.device(inner_NC.device),
            out,
            len(kept),
            tokens,
            channels,
            outputs,
            SPAN=span,
            UNIT=8 if all(count * span % 8 == 0 for count in kept.host()) else 1,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            STEP=tile.inner,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return out
