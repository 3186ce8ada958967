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


def projection_work(
    tokens: int,
    outputs: int,
    kept: Sequence[int],
    itemsize: int,
    *,
    shared_input: bool = False,
    shared_weight: bool = False,
) -> Work:
    """`masked_projection` for candidates that keep so many inputs each.

    What is shared is read once, at the widest; else every candidate has an input or weight of its own.
    """
    total, widest = sum(kept), max(kept, default=0)
    read = tokens * (widest if shared_input else total) + outputs * (widest if shared_weight else total)
    return Work(2 * tokens * outputs * total, itemsize * (read + len(kept) * tokens * outputs))


def nested_projection_work(tokens: int, outputs: int, kept: Sequence[int], itemsize: int) -> Work:
    """`nested_projection`: the widest for all, one output each."""
    widest = max(kept, default=0)
    moved = widest * (tokens + outputs) + len(kept) * tokens * outputs
    return Work(2 * tokens * outputs * widest, itemsize * moved)


def rows_work(tokens: int, hidden: int, kept: Sequence[int], itemsize: int, *, matrices: int = 1) -> Work:
    """The first so many outputs of projections, by input: heads, or gated inner channels (two matrices).

    Weights count once: what an input keeps is a prefix of what another does.
    """
    total, widest = sum(kept), max(kept, default=0)
    moved = len(kept) * tokens * hidden + matrices * widest * hidden + tokens * total
    return Work(2 * matrices * tokens * hidden * total, itemsize * moved)


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


def attend_work(
    lengths: Sequence[int],
    head_dim: int,
    queries_per_group: int,
    kept: Sequence[int],
    itemsize: int,
    *,
    window: int | None = None,
) -> Work:
    """Causal attention of heads that are there, by input: two products over the keys that each query sees."""
    groups = sum(kept)
    heads_moved = (2 * queries_per_group + 2) * groups
    return Work(
        4 * sum(_seen(length, window) for length in lengths) * head_dim * queries_per_group * groups,
        itemsize * sum(lengths) * head_dim * heads_moved,
    )


def attention_work(
    lengths: Sequence[int],
    hidden: int,
    head_dim: int,
    queries_per_group: int,
    kept: Sequence[int],
    itemsize: int,
    *,
    shared_input: bool = False,
    window: int | None = None,
) -> Work:
    """`masked_attention` over causal sequences of those lengths, for candidates keeping so many KV groups."""
    tokens = sum(lengths)
    widest = max(kept, default=0)
    by_input = [widest] if shared_input else kept
    project = 2 * tokens * hidden * head_dim * (queries_per_group + 2) * sum(by_input)
    attend = attend_work(lengths, head_dim, queries_per_group, by_input, itemsize, window=window).flops
    output = 2 * tokens * hidden * head_dim * queries_per_group * sum(kept)
    moved = (
        len(by_input) * tokens * hidden
        + widest * head_dim * (queries_per_group + 2) * hidden
        + sum(kept) * head_dim * queries_per_group * hidden
        + len(kept) * tokens * hidden
    )
    return Work(project + attend + output, itemsize * moved)


def _seen(length: int, window: int | None) -> int:
    """Keys that the queries of a sequence see between them."""
    whole = length if window is None else min(length, window)
    return whole * (whole + 1) // 2 + (length - whole) * whole
