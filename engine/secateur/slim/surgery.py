"""Cutting a model to an architecture: sub-blocks out of the library, everything else as it was.

Shape suffixes: B windows, T tokens, H hidden, K kept inner channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from secateur.calibrate.library import BlockLibrary, last_projection, with_projection
from secateur.calibrate.repair import damped
from secateur.calibrate.statistics import CHUNK_WINDOWS, accumulate
from secateur.model.dense import KINDS, Layer, Model, SubBlock, map_block
from secateur.model.forward import Geometry, apply_block, embed, geometry, inner, project
from secateur.search.architecture import Architecture

SEQUENCE_SHRINKAGE = 0.1  # 0.03 and 0.3 were no better at any budget (docs/repair.md)


def cut(library: BlockLibrary, architecture: Architecture) -> Model:
    """The slim model, in the dtype of the stored model, each sub-block repaired on its own."""
    layers = tuple(
        Layer(
            library.master_block(index, "attention", architecture.groups[index]),  # type: ignore[arg-type]
            library.master_block(index, "ffn", architecture.channels[index]),  # type: ignore[arg-type]
        )
        for index in range(architecture.num_layers)
    )
    return replace(library.master, layers=layers)


def repair_in_sequence(
    library: BlockLibrary,
    slims: Sequence[Model],
    windows_BT: Tensor,
    *,
    shrinkage: float = SEQUENCE_SHRINKAGE,
    advance: Callable[[], None] = lambda: None,
) -> list[Model]:
    """Slim models with every last projection fitted again, in order of depth, to undo drift.

    Each sub-block is fitted to the *dense* residual stream after it minus the pruned stream before
    it, so that errors of earlier cuts are corrected and not handed on. The fit is a ridge around
    the projection that is there: W' = W + R^T X (X^T X + damping I)^-1 with R what W leaves over.
    The dense model goes through the windows once, however many slim ones there are.

    Args:
        slims: what `cut` returned for the same library.
        windows_BT: calibration windows; with few (24k tokens on a 135M model) this fits noise.
        shrinkage: damping as a fraction of the mean diagonal of X^T X.
        advance: called after each sub-block of the dense model.
    """
    dense = library.model
    geo = geometry(dense, windows_BT.shape[1])
    dense_states = [embed(dense, chunk) for chunk in windows_BT.split(CHUNK_WINDOWS)]
    states_of = [list(dense_states) for _ in slims]
    layers_of = [list(slim.layers) for slim in slims]
    for index, teacher_layer in enumerate(dense.layers):
        for kind in KINDS:
            teacher = teacher_layer.sub_block(kind)
            dense_states = [apply_block(state, teacher, geo, index) for state in dense_states]
            for number, layers in enumerate(layers_of):
                block = layers[index].sub_block(kind)
                if block is not None:
                    fitted, states_of[number] = _refit(
                        block, states_of[number], dense_states, geo, index, shrinkage
                    )
                    layers[index] = replace(layers[index], **{kind: fitted})  # type: ignore[arg-type]
            advance()
    return [replace(slim, layers=tuple(layers)) for slim, layers in zip(slims, layers_of, strict=True)]


def _refit(
    block: SubBlock,
    slim_states: list[Tensor],
    dense_states: list[Tensor],
    geo: Geometry,
    layer: int,
    shrinkage: float,
) -> tuple[SubBlock, list[Tensor]]:
    """The sub-block with its projection fitted again, and the slim residual streams after it."""
    dtype = slim_states[0].dtype
    fast = map_block(block, lambda tensor: tensor.to(dtype))
    gram_KK: Tensor | None = None
    cross_KH: Tensor | None = None
    inners = []  # kept: computing them twice would cost more than the fit
    for slim_BTH, dense_BTH in zip(slim_states, dense_states, strict=True):
        inner_BTK = inner(slim_BTH, fast, geo, layer)
        left_BTH = (dense_BTH.float() - slim_BTH).sub_(project(inner_BTK, fast))
        gram_KK = accumulate(gram_KK, inner_BTK)
        cross_KH = accumulate(cross_KH, inner_BTK, left_BTH.to(dtype))
        inners.append(inner_BTK)
    assert gram_KK is not None and cross_KH is not None  # there is at least one chunk
    factor_KK = torch.linalg.cholesky(damped(gram_KK, shrinkage))
    update_KH = torch.cholesky_solve(cross_KH.double(), factor_KK)
    weight_HK = last_projection(block)
    fitted_HK = (weight_HK.double() + update_KH.T).to(weight_HK.dtype).contiguous()
    fast = with_projection(fast, fitted_HK.to(dtype))
    after = [state + project(part, fast) for state, part in zip(slim_states, inners, strict=True)]
    return with_projection(block, fitted_HK), after
