"""Products that every kernel is made of, and the two places where the interpreter differs from a GPU.

The interpreter multiplies bf16 as if it were integers and truncates when it stores bf16, silently. `dot`
and `narrow` are the only places that know; nothing else in this package may call ``tl.dot`` or cast
to a narrower dtype. On a GPU neither adds an operation: an upcast before ``tl.dot`` would turn bf16
tensor-core instructions into tf32 ones at half the speed (the compile gate checks that it does not).

Rows are contiguous. Pointers to rows are columns of pointers [R, 1] to each row's first element.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from triton import knobs

LOG2_E: tl.constexpr = tl.constexpr(math.log2(math.e))  # powers of two are what the GPU has
INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))


@triton.jit
def dot(left, right, total):
    """Total + left @ right in fp32: tensor cores for 16-bit operands, exact fp32 (no tf32) for fp32 ones."""
    if INTERPRETED:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """fp32 `x` in `dtype`, rounded to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = bits + 0x7FFF + ((bits >> 16) & 1)
        x = (bits & -65536).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def grouped(item, rows, columns, GROUP: tl.constexpr):
    """Row and column of an item among rows x columns, so that programs that run together share operands.

    GROUP rows at a time, column by column: what they multiply stays in the L2 cache.
    """
    first = item // (GROUP * columns) * GROUP
    height = tl.minimum(rows - first, GROUP)
    within = item % (GROUP * columns)
    return first + within % height, within // height


@triton.jit
def row_dots(left, right, there, length, ROWS: tl.constexpr, STEP: tl.constexpr):
    """Row by row left . right in fp32, [ROWS], for rows at pointers [ROWS, 1]; absent ones give 0."""
    total = tl.zeros((ROWS, STEP), tl.float32)
    for start in range(0, length, STEP):
        along = start + tl.arange(0, STEP)[None, :]
        a = tl.load(left + along, mask=there & (along < length), other=0.0).to(tl.float32)
        b = tl.load(right + along, mask=there & (along < length), other=0.0).to(tl.float32)
        total += a * b
    return tl.sum(total, 1)


@triton.jit
def rows_dot(total, left, left_there, right, right_there, length, STEP: tl.constexpr):
    """Total + left[:, :length] @ right[:, :length].T for rows at pointers [R, 1]; absent rows count as 0.

    Whole steps are loaded without a mask along the row: a mask of unknown alignment would split
    every load into single elements.
    """
    along = tl.arange(0, STEP)[None, :]
    whole = length // STEP * STEP
    for start in range(0, whole, STEP):
        a = tl.load(left + start + along, mask=left_there, other=0.0)
        b = tl.load(right + start + along, mask=right_there, other=0.0)
        total = dot(a, b.T, total)
    if whole < length:
        inside = whole + along < length
        a = tl.load(left + whole + along, mask=left_there & inside, other=0.0)
        b = tl.load(right + whole + along, mask=right_there & inside, other=0.0)
        total = dot(a, b.T, total)
    return total


@triton.jit
def rows_dot_two_right(
    total1, total2, left, left_there, right1, right2, right_there, length, STEP: tl.constexpr
):
    """`rows_dot` of the same left rows with two sets of right rows, loading the left ones once."""
    along = tl.arange(0, STEP)[None, :]
    whole = length // STEP * STEP
    for start in range(0, whole, STEP):
        a = tl.load(left + start + along, mask=left_there, other=0.0)
        b1 = tl.load(right1 + start + along, mask=right_there, other=0.0)
        b2 = tl.load(right2 + start + along, mask=right_there, other=0.0)
        total1 = dot(a, b1.T, total1)
        total2 = dot(a, b2.T, total2)
    if whole < length:
        inside = whole + along < length
        a = tl.load(left + whole + along, mask=left_there & inside, other=0.0)
        b1 = tl.load(right1 + whole + along, mask=right_there & inside, other=0.0)
        b2 = tl.load(right2 + whole + along, mask=right_there & inside, other=0.0)
        total1 = dot(a, b1.T, total1)
        total2 = dot(a, b2.T, total2)
    return total1, total2


@triton.jit
def rows_dot_two_left(
    total1, total2, left1, left2, left_there, right, right_there, length, STEP: tl.constexpr
):
    """`rows_dot` of two sets of left rows with the same right rows, loading the right ones once."""
    along = tl.arange(0, STEP)[None, :]
    whole = length // STEP * STEP
    for start in range(0, whole, STEP):
        b = tl.load(right + start + along, mask=right_there, other=0.0)
        a1 = tl.load(left1 + start + along, mask=left_there, other=0.0)
        a2 = tl.load(left2 + start + along, mask=left_there, other=0.0)
        total1 = dot(a1, b.T, total1)
        total2 = dot(a2, b.T, total2)
    if whole < length:
        inside = whole + along < length
        b = tl.load(right + whole + along, mask=right_there & inside, other=0.0)
        a1 = tl.load(left1 + whole + along, mask=left_there & inside, other=0.0)
        a2 = tl.load(left2 + whole + along, mask=left_there & inside, other=0.0)
        total1 = dot(a1, b.T, total1)
        total2 = dot(a2, b.T, total2)
    return total1, total2
