"""The gated MLP up to its projection: gate, up and activation in one program, bounded on the device.

Shape suffixes: M candidates, N tokens, H hidden, C inner channels, K channels listed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from secateur_kernels.arguments import Widths
from secateur_kernels.triton_backend.descriptor import describable, described
from secateur_kernels.triton_backend.metadata import Arguments, metadata, read
from secateur_kernels.triton_backend.product import dot, grouped, narrow, rows_dot_two_right
from secateur_kernels.triton_backend.tile import GROUP, Tile, tile_for
from secateur_kernels.work import Work, rows_work


def _work(arguments: Arguments, itemsize: int) -> Work:
    return rows_work(
        arguments["N"], arguments["H"], read(arguments["keep"], arguments["K"]), itemsize, matrices=2
    )


@triton.jit
def activated(gate, up, GELU: tl.constexpr):
    """SwiGLU's product, or GeGLU's with the tanh approximation, (1 + tanh(y)) / 2 = sigmoid(2y); fp32."""
    power = gate
    if GELU:
        power = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    return gate * tl.sigmoid(power) * up


@triton.jit(do_not_specialize=["N"], launch_metadata=metadata("gated_inner", _work, "gate"))
def _gated_inner(
    x,  # [N, H], or [M, N, H]
    x_per_candidate,
    x_per_token,
    gate,  # [C, H]
    gate_per_row,
    up,  # [C, H]
    up_per_row,
    gate_bias,  # [C] or None
    up_bias,  # [C] or None
    index,  # int32 [K] or None
    keep,  # int32 [M]
    out,  # [M, N, K]
    N,
    K,
    H,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    GELU: tl.constexpr,
):
    m = tl.program_id(1).to(tl.int64)
    row_tiles = tl.cdiv(N, ROWS)
    tile = tl.program_id(0)
    first = (tile // row_tiles).to(tl.int64) * COLUMNS
    width = tl.minimum(tl.maximum(tl.load(keep + m), 0), K)
    if first >= width:
        return
    n = (tile % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    k = first + tl.arange(0, COLUMNS)[:, None]
    in_width = k < width
    c = k
    if index is not None:
        c = tl.load(index + k, mask=in_width, other=0).to(tl.int64)
    x_ptrs = x + m * x_per_candidate + n * x_per_token
    gate_total = tl.zeros((ROWS, COLUMNS), tl.float32)
    up_total = tl.zeros((ROWS, COLUMNS), tl.float32)
    gate_total, up_total = rows_dot_two_right(
        gate_total, up_total, x_ptrs, n < N, gate + c * gate_per_row, up + c * up_per_row, in_width, H, STEP
    )
    if gate_bias is not None:
        gate_total += tl.load(gate_bias + c, mask=in_width, other=0.0).to(tl.float32).T
    if up_bias is not None:
        up_total += tl.load(up_bias + c, mask=in_width, other=0.0).to(tl.float32).T
    inner = activated(gate_total, up_total, GELU)
    target = out + (m * N + n) * K + k.T
    tl.store(target, narrow(inner, out.dtype.element_ty), mask=(n < N) & in_width.T)


@triton.jit(do_not_specialize=["N"], launch_metadata=metadata("gated_inner", _work, "gate"))
def _gated_inner_walked(
    x,  # described: [N, H], or [M * N, H]
    gate,  # described: [C, H]
    up,  # described: [C, H]
    gate_bias,  # [C] or None
    up_bias,  # [C] or None
    keep,  # int32 [M]
    out,  # [M, N, K]
    N,
    K,
    H,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    GELU: tl.constexpr,
    GROUP: tl.constexpr,
):
    """As many programs as the GPU holds walk the tiles of a candidate, loading ahead past a tile's end.

    A last tile also reads what is beyond the width or belongs to another candidate; none of it is stored.
    """
    m = tl.program_id(1)
    width = tl.minimum(tl.maximum(tl.load(keep + m), 0), K)
    row_tiles = tl.cdiv(N, ROWS)
    column_tiles = tl.cdiv(width, COLUMNS)
    program = tl.program_id(0)
    mine = tl.cdiv(row_tiles * column_tiles - program, tl.num_programs(0))
    steps = tl.cdiv(H, STEP)
    step = steps - 1
    unit = -1
    row, column = 0, 0
    gate_total = tl.zeros((ROWS, COLUMNS), tl.float32)
    up_total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for _ in range(0, mine * steps):
        step = tl.where(step == steps - 1, 0, step + 1)
        if step == 0:
            unit += 1
            row, column = grouped(program + unit * tl.num_programs(0), row_tiles, column_tiles, GROUP)
        a = x.load([m * N + row * ROWS, step * STEP])
        gate_total = dot(a, gate.load([column * COLUMNS, step * STEP]).T, gate_total)
        up_total = dot(a, up.load([column * COLUMNS, step * STEP]).T, up_total)
        if step == steps - 1:
            k = column * COLUMNS + tl.arange(0, COLUMNS)
            if gate_bias is not None:
                gate_total += tl.load(gate_bias + k, mask=k < width, other=0.0).to(tl.float32)[None, :]
            if up_bias is not None:
                up_total += tl.load(up_bias + k, mask=k < width, other=0.0).to(tl.float32)[None, :]
            inner = activated(gate_total, up_total, GELU)
            n = row * ROWS + tl.arange(0, ROWS)
            target = out + (m.to(tl.int64) * N + n)[:, None] * K + k[None, :]
            there = (n < N)[:, None] & (k < width)[None, :]
            tl.store(target, narrow(inner, out.dtype.element_ty), mask=there)
            gate_total = tl.zeros((ROWS, COLUMNS), tl.float32)
            up_total = tl.zeros((ROWS, COLUMNS), tl.float32)


def gated_inner(
    x: Tensor,
    gate_CH: Tensor,
    up_CH: Tensor,
    kept: Widths,
    index_C: Tensor | None,
    gate_bias_C: Tensor | None,
    up_bias_C: Tensor | None,
    activation: str = "silu",
    tile: Tile | None = None,
) -> Tensor:
    """See `secateur_kernels.gated_inner`; one width per entry of the input."""
    tile = tile or tile_for("gated_inner", x.dtype, x.device)
    tokens, hidden = x.shape[-2:]
    listed = len(gate_CH) if index_C is None else len(index_C)
    out = torch.empty(*x.shape[:-1], listed, dtype=x.dtype, device=x.device)
    tiles = triton.cdiv(tokens, tile.rows) * triton.cdiv(listed, tile.columns)
    options = {
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "STEP": tile.inner,
        "GELU": activation == "gelu_tanh",
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
    flat = x.dim() == 2 or x.stride(0) == tokens * x.stride(1)
    if tiles and tile.blocks and index_C is None and flat and describable(x.flatten(0, -2), gate_CH, up_CH):
        _gated_inner_walked[(tile.programs(tiles, x.device), len(kept))](
            described(x.flatten(0, -2), tile.rows, tile.inner),
            described(gate_CH, tile.columns, tile.inner),
            described(up_CH, tile.columns, tile.inner),
            gate_bias_C,
            up_bias_C,
            kept.device(x.device),
            out,
            tokens,
            listed,
            hidden,
            GROUP=GROUP,
            **options,
        )
    elif tiles:
        _gated_inner[(tiles, len(kept))](
            x,
            x.stride(0) if x.dim() == 3 else 0,
            x.stride(-2),
            gate_CH,
            gate_CH.stride(0),
            up_CH,
            up_CH.stride(0),
            gate_bias_C,
            up_bias_C,
            index_C,
            kept.device(x.device),
            out,
            tokens,
            listed,
            hidden,
            **options,
        )
    return out
