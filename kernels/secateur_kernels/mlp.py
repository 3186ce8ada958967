"""The gated MLP, bounded by the channels that each candidate keeps.

Shape suffixes: M candidates, N tokens, H hidden, C inner channels, K channels listed by an index (all C
without one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from secateur_kernels.arguments import (
    Keep,
    KernelArgumentError,
    Widths,
    require_alike,
    require_ascending,
    require_index,
    require_input,
    require_matrix,
    require_vector,
    widths,
)
from secateur_kernels.backend import Backend, form_of, implementation, with_gradients
from secateur_kernels.projection import Projection, ProjectionTable, require_table_holds

Activation = Literal["silu", "gelu_tanh"]


def gated_inner(
    x: Tensor,
    gate_CH: Tensor,
    up_CH: Tensor,
    keep: Keep = None,
    *,
    index_C: Tensor | None = None,
    gate_bias_C: Tensor | None = None,
    up_bias_C: Tensor | None = None,
    activation: Activation = "silu",
    backend: Backend = "auto",
) -> Tensor:
    """``act(x @ gate[kept].T + gate_bias[kept]) * (x @ up[kept].T + up_bias[kept])`` by candidate.

    ``kept`` is ``slice(0, keep)``, or ``index_C[:keep]`` where a list is given. 4NHk FLOPs for k channels
    kept; an input shared by several candidates is worked on once, at the widest.

    Args:
        x: the input after its norm: [N, H], shared by all candidates, or [M, N, H].
        gate_CH: weight of the gate.
        up_CH: weight of the other factor.
        keep: channels kept: an int, a sequence of M, or an int32 tensor [M] on the device (read there: no
            synchronisation in Triton, and one CUDA graph serves every width). None keeps all.
        index_C: channels in the order in which they are kept, int32 [K]; the result's columns are packed in
            that order. Entries are not checked.
        gate_bias_C: added to the gate.
        up_bias_C: added to the other factor.
        activation: ``act``: ``silu``, or ``gelu_tanh``, the tanh approximation of GELU.
        backend: ``auto``, ``triton`` or ``torch``; only ``torch`` has gradients, and ``auto`` takes it
            where one is asked for.

    Returns:
        [N, K], or [M, N, K] where `x` has candidates, in its dtype. Columns beyond a candidate's width
        (with a shared input: beyond the widest) hold anything, NaN included.

    Raises:
        KernelArgumentError: shapes, dtypes, devices or widths that do not fit.
        KernelBackendUnavailable: Triton was asked for and cannot run, or gradients were asked of it.
    """
    kept = _check_inner(x, gate_CH, up_CH, keep, index_C, gate_bias_C, up_bias_C, activation)
    backend = with_gradients(backend, x, gate_CH, up_CH, gate_bias_C, up_bias_C)
    run = implementation("mlp", backend, x, form_of(kept, x.shape[-1]))
    inner: Tensor = run.gated_inner(
        x, gate_CH, up_CH, kept.per_input(x), index_C, gate_bias_C, up_bias_C, activation
    )
    return inner


def masked_mlp(
    x: Tensor,
    gate_CH: Tensor,
    up_CH: Tensor,
    down: Projection | Sequence[Tensor],
    keep: Keep = None,
    *,
    index_C: Tensor | None = None,
    gate_bias_C: Tensor | None = None,
    up_bias_C: Tensor | None = None,
    down_bias_H: Tensor | None = None,
    activation: Activation = "silu",
    backend: Backend = "auto",
) -> Tensor:
    """``linear(gated_inner(x, ...)[..., :keep], down[:, kept], down_bias)``, for one candidate or several.

    ``kept`` is ``slice(0, keep)``, or ``index_C[:keep]`` where a list is given. Work: `work.mlp_work`; an
    input shared by all candidates goes through gate and up once, at the widest.

    Args:
        x: the input after its norm: [N, H], shared by all candidates, or [M, N, H].
        gate_CH: weight of the gate.
        up_CH: weight of the other factor.
        down: [H, C] for all candidates, or a table of one [H, C_m] each, whose columns are packed (the
            j-th belongs to the j-th channel kept).
        keep: channels kept; see `gated_inner`.
        index_C: channels in the order in which they are kept, int32 [K]. Columns of a `down` [H, C] are
            gathered by it in one copy before the product, all K: list no more than the widest needs, or
            gather once yourself and pass a table.
        gate_bias_C: added to the gate.
        up_bias_C: added to the other factor.
        down_bias_H: added to every row; also what a candidate that keeps nothing gives.
        activation: see `gated_inner`.
        backend: see `gated_inner`.

    Returns:
        [M, N, H] in the dtype of `x`; [N, H] for one candidate given as an int or None.

    Raises:
        KernelArgumentError: shapes, dtypes, devices or widths that do not fit.
        KernelBackendUnavailable: Triton was asked for and cannot run, or gradients were asked of it.
    """
    kept = _check_inner(x, gate_CH, up_CH, keep, index_C, gate_bias_C, up_bias_C, activation)
    if not isinstance(down, Tensor | ProjectionTable):
        down = ProjectionTable(tuple(down))
    weights = (down,) if isinstance(down, Tensor) else down.weights
    if isinstance(down, Tensor):
        require_matrix("down", down, None, len(gate_CH), x)
    else:
        require_alike("down", down.weights[0], x)
        require_table_holds("down", down, kept, 1)
    require_vector("down_bias_H", down_bias_H, weights[0].shape[0], x)
    backend = with_gradients(backend, x, gate_CH, up_CH, gate_bias_C, up_bias_C, down_bias_H, *weights)
    form = form_of(kept, x.shape[-1])
    run = implementation("mlp", backend, x, form)
    inner = run.gated_inner(x, gate_CH, up_CH, kept.per_input(x), index_C, gate_bias_C, up_bias_C, activation)
    project = implementation("projection", backend, x, form).project
    result: Tensor = project(inner, _columns(down, index_C), kept, 1, down_bias_H)
    return result


def nested_mlp(
    x_NH: Tensor,
    gate_CH: Tensor,
    up_CH: Tensor,
    down_HC: Tensor,
    kept: Sequence[int],
    *,
    index_C: Tensor | None = None,
    gate_bias_C: Tensor | None = None,
    up_bias_C: Tensor | None = None,
    activation: Activation = "silu",
    backend: Backend = "auto",
) -> Tensor:
    """``stack([masked_mlp(x, gate, up, down, k) for k in kept])``, [M, N, H], at the widest's price.

    `gated_inner` at the widest, then `nested_projection`: 6NHk FLOPs for the widest k, and a write of
    each result.

    Args:
        x_NH: the input after its norm.
        gate_CH: weight of the gate.
        up_CH: weight of the other factor.
        down_HC: one weight for all widths.
        kept: channels kept, ascending (equal ones allowed).
        index_C: see `masked_mlp`.
        gate_bias_C: added to the gate.
        up_bias_C: added to the other factor.
        activation: see `gated_inner`.
        backend: see `gated_inner`.

    Raises:
        KernelArgumentError: shapes, dtypes, devices or widths that do not fit, or widths that descend.
        KernelBackendUnavailable: Triton was asked for and cannot run, or gradients were asked of it.
    """
    if x_NH.dim() != 2:
        raise KernelArgumentError("x_NH", f"shape {list(x_NH.shape)}", "it must be [N, H]")
    bounds = _check_inner(
        x_NH, gate_CH, up_CH, kept, index_C, gate_bias_C, up_bias_C, activation, names=("x_NH", "kept")
    )
    require_matrix("down_HC", down_HC, None, len(gate_CH), x_NH)
    require_ascending("kept", bounds)
    backend = with_gradients(backend, x_NH, gate_CH, up_CH, gate_bias_C, up_bias_C, down_HC)
    form = form_of(bounds, x_NH.shape[-1])
    run = implementation("mlp", backend, x_NH, form)
    inner_NK = run.gated_inner(
        x_NH, gate_CH, up_CH, bounds.per_input(x_NH), index_C, gate_bias_C, up_bias_C, activation
    )
    project_nested = implementation("projection", backend, x_NH, form).project_nested
    result: Tensor = project_nested(inner_NK, _columns(down_HC, index_C), bounds, 1)
    return result


def _check_inner(
    x: Tensor,
    gate_CH: Tensor,
    up_CH: Tensor,
    keep: Keep,
    index_C: Tensor | None,
    gate_bias_C: Tensor | None,
    up_bias_C: Tensor | None,
    activation: str,
    *,
    names: tuple[str, str] = ("x", "keep"),
) -> Widths:
    x_name, keep_name = names
    if activation not in get_args(Activation):
        allowed = ", ".join(get_args(Activation))
        raise KernelArgumentError("activation", repr(activation), f"allowed are {allowed}")
    require_input(x_name, x)
    require_matrix("gate_CH", gate_CH, None, x.shape[-1], x)
    channels = len(gate_CH)
    require_matrix("up_CH", up_CH, channels, x.shape[-1], x)
    require_vector("gate_bias_C", gate_bias_C, channels, x)
    require_vector("up_bias_C", up_bias_C, channels, x)
    require_index("index_C", index_C, channels, x.device)
    listed = channels if index_C is None else len(index_C)
    kept = widths(keep, listed, "channels", x.device, keep_name)
    require_input(x_name, x, candidates=len(kept))
    return kept


def _columns(down: Projection, index_C: Tensor | None) -> Projection:
    """The projection of the channels listed; a table's columns are packed already."""
    if index_C is None or isinstance(down, ProjectionTable):
        return down
    return torch.index_select(down, 1, index_C)
