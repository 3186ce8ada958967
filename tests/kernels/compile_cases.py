"""Calls of the public functions that between them launch every kernel in every configuration.

Shapes are small: only their divisibility reaches the compiler. A case whose name ends in bf16 must
multiply on bf16 tensor cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur_kernels import (
    Heads,
    Packing,
    ProjectionTable,
    TeacherStates,
    TeacherTopK,
    gated_inner,
    linear_loss,
    masked_attention,
    masked_mlp,
    masked_projection,
    nested_mlp,
    nested_projection,
)
from secateur_kernels.arguments import Widths

CASES: dict[str, Callable[[], object]] = {}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def case(function: Callable[[torch.dtype], object]) -> Callable[[torch.dtype], object]:
    """Register a call once per dtype, as ``name-dtype``."""
    for name, dtype in DTYPES.items():
        CASES[f"{function.__name__}-{name}"] = lambda dtype=dtype: function(dtype)
    return function


def blank(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


@case
def projection(dtype: torch.dtype) -> None:
    masked_projection(blank(64, 128, dtype=dtype), blank(64, 128, dtype=dtype), 64, backend="triton")


@case
def projection_bias_odd(dtype: torch.dtype) -> None:
    """Nothing is a multiple of 16."""
    inner, weight = blank(3, 33, 75, dtype=dtype), blank(21, 75, dtype=dtype)
    masked_projection(inner, weight, [5, 10, 15], span=5, bias_H=blank(21, dtype=dtype), backend="triton")


@case
def projection_table(dtype: torch.dtype) -> None:
    table = ProjectionTable((blank(64, 64, dtype=dtype), blank(64, 128, dtype=dtype)))
    masked_projection(blank(2, 64, 128, dtype=dtype), table, [64, 128], backend="triton")


@case
def projection_table_unaligned(dtype: torch.dtype) -> None:
    table = ProjectionTable((blank(64, 63, dtype=dtype), blank(64, 128, dtype=dtype)))
    masked_projection(blank(2, 64, 128, dtype=dtype), table, [63, 128], backend="triton")


@case
def projection_nested(dtype: torch.dtype) -> None:
    inner, weight = blank(64, 128, dtype=dtype), blank(64, 128, dtype=dtype)
    nested_projection(inner, weight, [0, 64, 128], backend="triton")


@case
def projection_nested_odd(dtype: torch.dtype) -> None:
    """Boundaries that are not multiples of 8."""
    inner, weight = blank(64, 128, dtype=dtype), blank(64, 128, dtype=dtype)
    nested_projection(inner, weight, [5, 64, 127], backend="triton")


@case
def mlp(dtype: torch.dtype) -> None:
    gate, up, down = (blank(64, 64, dtype=dtype) for _ in range(3))
    masked_mlp(blank(64, 64, dtype=dtype), gate, up, down, [32, 64], backend="triton")


@case
def mlp_bias_odd(dtype: torch.dtype) -> None:
    """Every candidate with an input of its own; nothing is a multiple of 16."""
    x, gate, up = blank(3, 33, 75, dtype=dtype), blank(51, 75, dtype=dtype), blank(51, 75, dtype=dtype)
    bias = blank(51, dtype=dtype)
    gated_inner(x, gate, up, [5, 10, 51], gate_bias_C=bias, up_bias_C=bias, backend="triton")


@case
def mlp_index(dtype: torch.dtype) -> None:
    gate, up, down = (blank(64, 64, dtype=dtype) for _ in range(3))
    index = torch.arange(48, dtype=torch.int32)
    masked_mlp(blank(64, 64, dtype=dtype), gate, up, down, 40, index_C=index, backend="triton")


@case
def mlp_index_bias(dtype: torch.dtype) -> None:
    """All that is optional at once, widths on the device and separate down projections."""
    gate, up, bias = blank(64, 64, dtype=dtype), blank(64, 64, dtype=dtype), blank(64, dtype=dtype)
    masked_mlp(
        blank(2, 64, 64, dtype=dtype),
        gate,
        up,
        [blank(64, 32, dtype=dtype), blank(64, 48, dtype=dtype)],
        torch.tensor([32, 48], dtype=torch.int32),
        index_C=torch.arange(48, dtype=torch.int32),
        gate_bias_C=bias,
        up_bias_C=bias,
        down_bias_H=bias,
        backend="triton",
    )


@case
def mlp_nested(dtype: torch.dtype) -> None:
    gate, up, down = (blank(64, 64, dtype=dtype) for _ in range(3))
    nested_mlp(blank(64, 64, dtype=dtype), gate, up, down, [32, 64], backend="triton")


@case
def loss(dtype: torch.dtype) -> None:
    target = torch.zeros(64, dtype=torch.int64)
    linear_loss(blank(64, 128, dtype=dtype), blank(512, 128, dtype=dtype), target, backend="triton")


@case
def loss_odd(dtype: torch.dtype) -> None:
    target = torch.zeros(33, dtype=torch.int64)
    linear_loss(blank(33, 75, dtype=dtype), blank(301, 75, dtype=dtype), target, backend="triton")


@case
def loss_against_a_teacher(dtype: torch.dtype) -> None:
    hidden, target = blank(64, 128, dtype=dtype), torch.zeros(64, dtype=torch.int64)
    teacher = TeacherStates(hidden, torch.zeros(64))
    linear_loss(hidden, blank(512, 128, dtype=dtype), target, teacher=teacher, backend="triton")


@case
def loss_plain(dtype: torch.dtype) -> None:
    """The other tiling."""
    from secateur_kernels.triton_backend.linear_loss import losses
    from secateur_kernels.triton_backend.tile import tile_for

    tile = tile_for("linear_loss", dtype, torch.device("cpu"), "plain")
    target = torch.zeros(64, dtype=torch.int64)
    losses(blank(64, 128, dtype=dtype), blank(512, 128, dtype=dtype), target, tile=tile)


@case
def loss_plain_against_a_teacher(dtype: torch.dtype) -> None:
    from secateur_kernels.triton_backend.linear_loss import losses
    from secateur_kernels.triton_backend.tile import tile_for

    hidden, target = blank(64, 128, dtype=dtype), torch.zeros(64, dtype=torch.int64)
    losses(
        hidden,
        blank(512, 128, dtype=dtype),
        target,
        teacher_NH=hidden,
        teacher_lse_N=torch.zeros(64),
        tile=tile_for("linear_kl", dtype, torch.device("cpu"), "plain"),
    )


@case
def mlp_plain(dtype: torch.dtype) -> None:
    from secateur_kernels.triton_backend.mlp import gated_inner as triton_gated_inner
    from secateur_kernels.triton_backend.tile import tile_for

    tile = tile_for("gated_inner", dtype, torch.device("cpu"), "plain")
    x, gate, up = (blank(64, 64, dtype=dtype) for _ in range(3))
    triton_gated_inner(x, gate, up, Widths((64,), None, True), None, None, None, tile=tile)


def attend(
    dtype: torch.dtype,
    head_dim: int,
    hidden: int = 128,
    candidates: int = 1,
    lengths: Sequence[int] = (96,),
    **more: Any,
) -> None:
    """Two groups of three query heads."""
    heads = Heads(
        blank(6 * head_dim, hidden, dtype=dtype),
        blank(2 * head_dim, hidden, dtype=dtype),
        blank(2 * head_dim, hidden, dtype=dtype),
        head_dim,
        **more,
    )
    table = blank(max(lengths), head_dim, dtype=dtype)
    masked_attention(
        blank(candidates, sum(lengths), hidden, dtype=dtype),
        heads,
        blank(64, 6 * head_dim, dtype=dtype),
        Packing.of(lengths, table, table),
        [2] * candidates,
        backend="triton",
    )


@case
def attention_64(dtype: torch.dtype) -> None:
    attend(dtype, 64)


@case
def attention_128(dtype: torch.dtype) -> None:
    attend(dtype, 128)


@case
def attention_32_odd(dtype: torch.dtype) -> None:
    """The smallest head; rows of the input are no multiple of 16."""
    attend(dtype, 32, hidden=75, candidates=2, lengths=[33, 0, 63])


@case
def attention_256(dtype: torch.dtype) -> None:
    """The largest head."""
    attend(dtype, 256)


@case
def attention_everything(dtype: torch.dtype) -> None:
    """Biases, norms, a window."""
    attend(
        dtype,
        128,
        window=32,
        query_bias_Q=blank(768, dtype=dtype),
        key_bias_K=blank(256, dtype=dtype),
        value_bias_K=blank(256, dtype=dtype),
        query_norm_D=blank(128, dtype=dtype),
        key_norm_D=blank(128, dtype=dtype),
    )


@case
def loss_entropy(dtype: torch.dtype) -> None:
    target = torch.zeros(64, dtype=torch.int64)
    head = blank(512, 128, dtype=dtype)
    linear_loss(blank(64, 128, dtype=dtype), head, target, entropy=True, backend="triton")


@case
def loss_entropy_against_a_teacher_odd(dtype: torch.dtype) -> None:
    """Nothing is a multiple of 16."""
    hidden, target = blank(33, 75, dtype=dtype), torch.zeros(33, dtype=torch.int64)
    teacher = TeacherStates(hidden, torch.zeros(33))
    head = blank(301, 75, dtype=dtype)
    linear_loss(hidden, head, target, entropy=True, teacher=teacher, backend="triton")


def loss_at_ids(dtype: torch.dtype, tokens: int, hidden: int, vocabulary: int, ids: int) -> None:
    teacher = TeacherTopK(torch.zeros(tokens, ids, dtype=torch.int32), torch.zeros(tokens, ids))
    x, head = blank(tokens, hidden, dtype=dtype), blank(vocabulary, hidden, dtype=dtype)
    target = torch.zeros(tokens, dtype=torch.int64)
    linear_loss(x, head, target, entropy=ids > 1, teacher=teacher, backend="triton")


@case
def loss_top_k(dtype: torch.dtype) -> None:
    loss_at_ids(dtype, 64, 128, 512, 64)


@case
def loss_top_k_odd(dtype: torch.dtype) -> None:
    loss_at_ids(dtype, 33, 75, 301, 5)


@case
def loss_top_1(dtype: torch.dtype) -> None:
    loss_at_ids(dtype, 64, 128, 512, 1)
