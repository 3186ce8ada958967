"""What a call must do at least: floating point operations and bytes. Shared by kernels and benchmarks.

Only what is kept counts: a masked zero earns nothing. Bytes are compulsory traffic: every input read
once, every output written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """The least that a call can cost.

    Attributes:
        flops: floating point operations of its products (a multiply-add is two).
        bytes: read and written.
    """

    flops: int
    bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def floor_seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """The time below which no implementation can go on a machine with those ceilings."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def linear_loss_work(
    tokens: int, hidden: int, vocabulary: int, itemsize: int, *, teacher_hidden: bool = False, top_k: int = 0
) -> Work:
    """`linear_loss`: one product with the head, a second one where the teacher's logits are recomputed."""
    products = 2 if teacher_hidden else 1
    read = itemsize * hidden * (products * tokens + vocabulary) + 8 * tokens + 8 * tokens * top_k
    return Work(2 * products * tokens * hidden * vocabulary, read + 4 * tokens)


def projection_work(tokens: int, outputs: int, kept: Sequence[int], itemsize: int) -> Work:
    """`masked_projection` for candidates that keep so many inputs each, every one with weights of its own."""
    return Work(
        2 * tokens * outputs * sum(kept),
        itemsize * sum(tokens * width + outputs * width + tokens * outputs for width in kept),
    )


def nested_projection_work(tokens: int, outputs: int, kept: Sequence[int], itemsize: int) -> Work:
    """`nested_projection`: the widest for all, one output each."""
    widest = max(kept, default=0)
    moved = widest * (tokens + outputs) + len(kept) * tokens * outputs
    return Work(2 * tokens * outputs * widest, itemsize * moved)


def mlp_work(
    tokens: int, hidden: int, kept: Sequence[int], itemsize: int, *, shared_input: bool = False
) -> Work:
    """`masked_mlp`. With one input for all candidates gate and up are needed once, at the widest.

    Weights of gate and up count once (they are prefixes of each other), the down projections one each.
    """
    widest = max(kept, default=0)
    inner = widest if shared_input else sum(kept)
    inputs = 1 if shared_input else len(kept)
    moved = (
        inputs * tokens * hidden
        + 2 * widest * hidden
        + sum(hidden * width for width in kept)
        + len(kept) * tokens * hidden
    )
    return Work(4 * tokens * hidden * inner + 2 * tokens * hidden * sum(kept), itemsize * moved)


def attention_work(
    lengths: Sequence[int],
    hidden: int,
    head_dim: int,
    queries_per_group: int,
    kept: Sequence[int],
    itemsize: int,
    *,
    shared_input: bool = False,
) -> Work:
    """`masked_attention` over causal sequences of those lengths, for candidates keeping so many KV groups."""
    tokens = sum(lengths)
    scores = sum(length * (length + 1) // 2 for length in lengths)
    widest = max(kept, default=0)
    groups = widest if shared_input else sum(kept)
    inputs = 1 if shared_input else len(kept)
    project = 2 * tokens * hidden * head_dim * (queries_per_group + 2) * groups
    attend = 4 * scores * head_dim * queries_per_group * groups
    output = 2 * tokens * hidden * head_dim * queries_per_group * sum(kept)
    moved = (
        inputs * tokens * hidden
        + widest * head_dim * (queries_per_group + 2) * hidden
        + sum(kept) * head_dim * queries_per_group * hidden
        + len(kept) * tokens * hidden
    )
    return Work(project + attend + output, itemsize * moved)
