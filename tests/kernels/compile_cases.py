"""Calls of the public functions that between them launch every kernel in every configuration.

Shapes are small: only their divisibility reaches the compiler. A case whose name ends in bf16 must
multiply on bf16 tensor cores.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from secateur_kernels import ProjectionTable, masked_projection, nested_projection

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
