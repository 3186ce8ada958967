"""Cutting a model to an architecture: sub-blocks out of the library, everything else as it was.

Shape suffixes: B windows, T tokens, H hidden, K kept inner channels, P whatever is fitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.least_squares import damped
from secateur.calibrate.statistics import CHUNK_WINDOWS, accumulate
from secateur.model.architecture import KINDS, Architecture
from secateur.model.decoder import (
    AttentionWeights,
    Block,
    DecoderLayer,
    DecoderModel,
    FfnWeights,
    SubBlock,
    map_block,
    tensors_of,
)
from secateur.model.forward import (
    ForwardContext,
    add_inner,
    apply_block,
    embed,
    forward_context,
    project_output,
    sub_block_inner,
)
from secateur.model.units import last_projection, with_projection

INPUT_PROJECTIONS = {AttentionWeights: ("query_QH", "key_KH", "value_KH"), FfnWeights: ("gate_CH", "up_CH")}


@dataclass(frozen=True)
class Damping:
    """Damping of the fits in sequence, as fractions of the mean diagonal of X^T X.

    Attributes:
        inputs: of the projections that read the normed residual stream; infinity leaves them alone.
        last: of those that read the inner activations.
    """

    inputs: float
    last: float


SEQUENCE_DAMPING = Damping(inputs=0.3, last=0.1)  # what was compared: docs/repair.md


def slim_layers(library: BlockLibrary, architecture: Architecture) -> Iterator[DecoderLayer]:
    """The layers of the slim model one by one, as `build_slim_model` has them."""
    for index in range(architecture.num_layers):
        yield DecoderLayer(
            library.master_block(index, "attention", architecture.groups[index]),  # type: ignore[arg-type]
            library.master_block(index, "ffn", architecture.channels[index]),  # type: ignore[arg-type]
        )


def build_slim_model(library: BlockLibrary, architecture: Architecture) -> DecoderModel:
    """The slim model, in the dtype of the stored model, each sub-block repaired on its own."""
    return replace(library.master, layers=tuple(slim_layers(library, architecture)))


def repair_in_sequence(
    library: BlockLibrary,
    architectures: Sequence[Architecture],
    windows_BT: Tensor,
    *,
    shrinkage: Damping = SEQUENCE_DAMPING,
    keep: Callable[[SubBlock], SubBlock] = lambda block: block,
    advance: Callable[[], None] = lambda: None,
) -> list[DecoderModel]:
    """Slim models with the projections of every sub-block fitted again, in order of depth, to undo drift.

    What a sub-block reads is brought back to what the dense one reads as far as a linear map can, and the
    map goes into its input projections. Its last projection is then fitted to the *dense* residual stream
    after it minus the pruned stream before it, so that errors of earlier cuts are corrected and not handed
    on. Both fits are ridges around what is there. The dense model goes through the windows once, however
    many slim ones there are.

    Args:
        windows_BT: calibration windows; with few (24k tokens on a 135M model) this fits noise.
        keep: what becomes of a sub-block that is fitted, such as `on_disk`.
        advance: called after each sub-block of the dense model.
    """
    dense = library.model
    context = forward_context(dense, windows_BT.shape[1])
    dense_states = [embed(dense, chunk) for chunk in windows_BT.split(CHUNK_WINDOWS)]
    states_of = [list(dense_states) for _ in architectures]
    layers_of = [[DecoderLayer(None, None)] * dense.num_layers for _ in architectures]
    for index, teacher_layer in enumerate(dense.layers):
        for kind in KINDS:
            teacher, before = teacher_layer.sub_block(kind), dense_states
            dense_states = [apply_block(state, teacher, context, index) for state in before]
            for number, (architecture, layers) in enumerate(zip(architectures, layers_of, strict=True)):
                block = library.master_block(index, kind, architecture.width(index, kind))
                if block is not None:
                    drift = _Drift(states_of[number], before, dense_states)
                    aimed = _refit_inputs(block, drift, context, shrinkage.inputs)
                    fitted, states_of[number] = _refit_last(aimed, drift, context, index, shrinkage.last)
                    layers[index] = replace(layers[index], **{kind: keep(fitted)})  # type: ignore[arg-type]
            advance()
    return [replace(library.master, layers=tuple(layers)) for layers in layers_of]


def interpolate(
    ones: Iterable[DecoderLayer], others: Iterable[DecoderLayer], share: float
) -> Iterator[DecoderLayer]:
    """Layers between those of two models of one architecture: weights `share` of the way to the others."""

    def between(block: Block | None, goal: Block | None) -> Block | None:
        if block is None or goal is None:
            return None
        goals = tensors_of(goal)
        changed: dict[str, Any] = {
            name: torch.lerp(tensor.float(), goals[name].to(tensor.device).float(), share).to(tensor.dtype)
            for name, tensor in tensors_of(block).items()
        }
        return replace(block, **changed)

    for layer, goal in zip(ones, others, strict=True):
        yield DecoderLayer(between(layer.attention, goal.attention), between(layer.ffn, goal.ffn))


@dataclass(frozen=True)
class _Drift:
    """Residual streams around a sub-block, [B, T, H] in chunks: where the slim model is, and should be."""

    slim_before: list[Tensor]
    dense_before: list[Tensor]
    dense_after: list[Tensor]


def _refit_inputs(block: Block, drift: _Drift, context: ForwardContext, shrinkage: float) -> Block:
    """The sub-block with input projections W + W A, x + A x being the best guess at the dense normed stream.

    A^T = (X^T X + damping I)^-1 X^T (D - X) of the normed streams, slim X and dense D: one map for all input
    projections, which is what fitting each to its dense outputs comes to.
    """
    if math.isinf(shrinkage):
        return block
    dtype = drift.slim_before[0].dtype
    norm_H = block.norm_H.to(dtype)
    gram_HH: Tensor | None = None
    cross_HH: Tensor | None = None
    for slim_BTH, dense_BTH in zip(drift.slim_before, drift.dense_before, strict=True):
        x_BTH, wanted_BTH = (context.norm(state, norm_H) for state in (slim_BTH, dense_BTH))
        gram_HH = accumulate(gram_HH, x_BTH)
        cross_HH = accumulate(cross_HH, x_BTH, (wanted_BTH.float() - x_BTH.float()).to(dtype))
    map_HH = _ridge(gram_HH, cross_HH, shrinkage)
    changed = {}
    for name in INPUT_PROJECTIONS[type(block)]:
        weight = getattr(block, name)
        changed[name] = (weight.double() + weight.double() @ map_HH.T).to(weight.dtype).contiguous()
    return replace(block, **changed)


def _refit_last(
    block: SubBlock, drift: _Drift, context: ForwardContext, layer: int, shrinkage: float
) -> tuple[SubBlock, list[Tensor]]:
    """The sub-block with its last projection fitted again, and the slim residual streams after it.

    W' = W + R^T X (X^T X + damping I)^-1 with R what W leaves over. A projection with a norm behind it
    stays: no linear map undoes the norm (asked for the direction alone, a tiny random Gemma came out worse).
    """
    dtype = drift.slim_before[0].dtype
    fast = map_block(block, lambda tensor: tensor.to(dtype))
    if block.post_norm_H is not None:
        return block, [apply_block(state, fast, context, layer) for state in drift.slim_before]
    gram_KK: Tensor | None = None
    cross_KH: Tensor | None = None
    inners = []  # kept: computing them twice would cost more than the fit
    for slim_BTH, dense_BTH in zip(drift.slim_before, drift.dense_after, strict=True):
        inner_BTK = sub_block_inner(slim_BTH, fast, context, layer)
        wanted_BTH = (dense_BTH.float() - slim_BTH).div_(context.multipliers.residual)
        left_BTH = wanted_BTH.sub_(project_output(inner_BTK, fast))
        gram_KK = accumulate(gram_KK, inner_BTK)
        cross_KH = accumulate(cross_KH, inner_BTK, left_BTH.to(dtype))
        inners.append(inner_BTK)
    update_KH = _ridge(gram_KK, cross_KH, shrinkage)
    weight_HK = last_projection(block)
    fitted_HK = (weight_HK.double() + update_KH.T).to(weight_HK.dtype).contiguous()
    fast = with_projection(fast, fitted_HK.to(dtype))
    after = [
        add_inner(state, part, fast, context) for state, part in zip(drift.slim_before, inners, strict=True)
    ]
    return with_projection(block, fitted_HK), after


def _ridge(gram_KK: Tensor | None, cross_KP: Tensor | None, shrinkage: float) -> Tensor:
    """(gram + damping I)^-1 cross, fp64."""
    assert gram_KK is not None and cross_KP is not None  # there is at least one chunk
    factor_KK = torch.linalg.cholesky(damped(gram_KK, shrinkage))
    return torch.cholesky_solve(cross_KP.double(), factor_KK)
