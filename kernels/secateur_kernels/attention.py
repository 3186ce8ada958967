"""Masked attention: only the KV groups that a candidate keeps are projected, attended and summed.

Sequences of any lengths lie one after the other (no padding). Heads are stored group by group, groups
sorted, so that what a candidate keeps is a prefix.

Shape suffixes: M candidates, N tokens of all sequences, H hidden, D head_dim, Q query channels (query
heads x D), K key/value channels (KV groups x D), B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from secateur_kernels.arguments import (
    Keep,
    KernelArgumentError,
    Widths,
    require_alike,
    require_input,
    require_matrix,
    require_vector,
    widths,
)
from secateur_kernels.backend import Backend, form_of, implementation, with_gradients
from secateur_kernels.projection import Projection, ProjectionTable, require_table_holds
from secateur_kernels.transfer import to_device


@dataclass(frozen=True)
class Heads:
    """The weights of an attention sub-block up to its output projection, and how its heads are read.

    Attributes:
        query_QH, key_KH, value_KH: projections, heads group by group.
        head_dim: channels per head; a power of two from 32 to 256 for Triton.
        query_bias_Q, key_bias_K, value_bias_K: biases, or None.
        query_norm_D, key_norm_D: weights of RMS norms over each head (Qwen3), or None.
        norm_eps: epsilon of these norms.
        window: how many keys back a query sees, itself included; None for all.
        scale: what scores are multiplied by; None for ``head_dim**-0.5``.
    """

    query_QH: Tensor
    key_KH: Tensor
    value_KH: Tensor
    head_dim: int
    query_bias_Q: Tensor | None = None
    key_bias_K: Tensor | None = None
    value_bias_K: Tensor | None = None
    query_norm_D: Tensor | None = None
    key_norm_D: Tensor | None = None
    norm_eps: float = 1e-6
    window: int | None = None
    scale: float | None = None

    @property
    def scaling(self) -> float:
        """What scores are multiplied by."""
        return self.head_dim**-0.5 if self.scale is None else self.scale

    @property
    def num_groups(self) -> int:
        """KV groups."""
        return len(self.key_KH) // self.head_dim

    @property
    def queries_per_group(self) -> int:
        """Query heads that share one key/value head."""
        return len(self.query_QH) // max(1, len(self.key_KH))

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All that a gradient may be wanted of."""
        return (
            self.query_QH,
            self.key_KH,
            self.value_KH,
            self.query_bias_Q,
            self.key_bias_K,
            self.value_bias_K,
            self.query_norm_D,
            self.key_norm_D,
        )


@dataclass(frozen=True)
class Packing:
    """Where sequences lie among the tokens, and the rotary tables of their positions.

    Attributes:
        lengths: of each sequence, in order.
        cos_TD, sin_TD: rotary tables for positions 0 to at least the longest length.
        starts: int32 [B + 1] on the device: first token of each sequence, then N.
        positions: int32 [N] on the device: of each token within its sequence.
    """

    lengths: tuple[int, ...]
    cos_TD: Tensor
    sin_TD: Tensor
    starts: Tensor
    positions: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], cos_TD: Tensor, sin_TD: Tensor) -> Packing:
        """Lay sequences of those lengths one after the other.

        Raises:
            KernelArgumentError: a negative length, or tables that are too short, not alike or not contiguous.
        """
        if any(length < 0 for length in lengths):
            raise KernelArgumentError("lengths", min(lengths), "lengths cannot be negative")
        longest = max(lengths, default=0)
        for name, table in (("cos_TD", cos_TD), ("sin_TD", sin_TD)):
            if table.dim() != 2 or len(table) < longest or table.shape != cos_TD.shape:
                raise KernelArgumentError(
                    name, f"shape {list(table.shape)}", f"[T, D] with T >= {longest} is allowed"
                )
            if not table.is_contiguous():
                raise KernelArgumentError(name, f"strides {table.stride()}", "it must be contiguous")
        starts = to_device(list(accumulate(lengths, initial=0)), torch.int32, cos_TD.device)
        positions = to_device([at for n in lengths for at in range(n)], torch.int32, cos_TD.device)
        return cls(tuple(lengths), cos_TD, sin_TD, starts, positions)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(self.lengths)


def attention_inner(
    x: Tensor, heads: Heads, packing: Packing, keep: Keep = None, *, backend: Backend = "auto"
) -> Tensor:
    """What the output projection reads: the attended values of the query heads of the groups kept.

    Per sequence, with q, k, v the first ``keep`` groups' heads of ``x @ query.T + bias`` and so on, normed
    and rotated by position: ``softmax(q @ k.T * heads.scaling + causal) @ v``.

    Args:
        x: the input after its norm: [N, H], shared by all candidates (worked on once, at the widest), or
            [M, N, H].
        heads: the weights.
        packing: the sequences.
        keep: KV groups kept: an int, a sequence of M, or an int32 tensor [M] on the device (read there). None
            keeps all.
        backend: ``auto``, ``triton`` or ``torch``; only ``torch`` has gradients.

    Returns:
        [N, Q], or [M, N, Q] where `x` has candidates. Columns beyond a candidate's width hold anything.

    Raises:
        KernelArgumentError: shapes, dtypes, devices or widths that do not fit.
        KernelBackendUnavailable: Triton was asked for and cannot run, or gradients were asked of it.
    """
    kept = _check(x, heads, packing, keep)
    backend = with_gradients(backend, x, *heads.tensors)
    run = implementation("attention", backend, x, form_of(kept, x.shape[-1]))
    inner: Tensor = run.attention_inner(x, heads, packing, kept.per_input(x))
    return inner


def masked_attention(
    x: Tensor,
    heads: Heads,
    output: Projection | Sequence[Tensor],
    packing: Packing,
    keep: Keep = None,
    *,
    output_bias_H: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """``linear(attention_inner(x, ...)[..., :keep * R * D], output[:, :keep * R * D], bias)`` by candidate.

    R is the number of query heads per group. A pruned group costs nothing: work as `work.attention_work`.

    Args:
        x: see `attention_inner`.
        heads: the weights up to the output projection.
        output: [H, Q] for all candidates, or a table of one [H, Q_m] each.
        packing: the sequences.
        keep: KV groups kept; see `attention_inner`.
        output_bias_H: added to every row; also what a candidate that keeps nothing gives.
        backend: see `attention_inner`.

    Returns:
        [M, N, H] in the dtype of `x`; [N, H] for one candidate given as an int or None.

    Raises:
        KernelArgumentError: shapes, dtypes, devices or widths that do not fit.
        KernelBackendUnavailable: Triton was asked for and cannot run, or gradients were asked of it.
    """
    kept = _check(x, heads, packing, keep)
    span = heads.queries_per_group * heads.head_dim
    if not isinstance(output, Tensor | ProjectionTable):
        output = ProjectionTable(tuple(output))
    weights = (output,) if isinstance(output, Tensor) else output.weights
    if isinstance(output, Tensor):
        require_matrix("output", output, None, len(heads.query_QH), x)
    else:
        require_alike("output", output.weights[0], x)
        require_table_holds("output", output, kept, span)
    require_vector("output_bias_H", output_bias_H, weights[0].shape[0], x)
    backend = with_gradients(backend, x, *heads.tensors, output_bias_H, *weights)
    form = form_of(kept, x.shape[-1])
    run = implementation("attention", backend, x, form)
    inner = run.attention_inner(x, heads, packing, kept.per_input(x))
    project = implementation("projection", backend, x, form).project
    result: Tensor = project(inner, output, kept, span, output_bias_H)
    return result


def _check(x: Tensor, heads: Heads, packing: Packing, keep: Keep) -> Widths:
    require_input("x", x)
    hidden, D = x.shape[-1], heads.head_dim
    if D < 2 or D % 2:
        raise KernelArgumentError("head_dim", D, "it must be even and positive")
    require_matrix("query_QH", heads.query_QH, None, hidden, x)
    require_matrix("key_KH", heads.key_KH, None, hidden, x)
    channels = len(heads.key_KH)
    if not channels or channels % D:
        raise KernelArgumentError(
            "key_KH", f"{channels} rows", f"a positive multiple of head_dim {D} is allowed"
        )
    if not len(heads.query_QH) or len(heads.query_QH) % channels:
        raise KernelArgumentError(
            "query_QH", f"{len(heads.query_QH)} rows", f"a multiple of {channels} is allowed"
        )
    require_matrix("value_KH", heads.value_KH, channels, hidden, x)
    require_vector("query_bias_Q", heads.query_bias_Q, len(heads.query_QH), x)
    require_vector("key_bias_K", heads.key_bias_K, channels, x)
    require_vector("value_bias_K", heads.value_bias_K, channels, x)
    require_vector("query_norm_D", heads.query_norm_D, D, x)
    require_vector("key_norm_D", heads.key_norm_D, D, x)
    if heads.window is not None and heads.window < 1:
        raise KernelArgumentError("window", heads.window, "at least 1 is needed")
    if packing.cos_TD.shape[1] != D:
        raise KernelArgumentError(
            "packing", f"tables of {packing.cos_TD.shape[1]} columns", f"head_dim is {D}"
        )
    require_alike("packing", packing.cos_TD, x)
    if packing.num_tokens != x.shape[-2]:
        raise KernelArgumentError("packing", f"{packing.num_tokens} tokens", f"x has {x.shape[-2]}")
    kept = widths(keep, heads.num_groups, "KV groups", x.device)
    require_input("x", x, candidates=len(kept))
    return kept
