"""Evaluating several candidates per launch: what keeps a GPU busy when candidates are small.

Candidates that follow each other in lexicographic order form a group. What all of a group share runs
once; from where they part, every sub-block is one call for the whole group: the same sorted weights,
each candidate's own width and its own repaired projection (`secateur_kernels.ProjectionTable`).

Shape suffixes: M candidates, B windows, T tokens, N tokens of all windows, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.evaluation.measurement import Losses
from secateur.model.architecture import Architecture, Kind
from secateur.model.decoder import AttentionWeights, FfnWeights, SubBlock
from secateur.model.forward import embed, final_hidden, rms_norm
from secateur.model.units import last_projection
from secateur_kernels import Backend, ProjectionTable, masked_attention, masked_mlp

DEFAULT_GROUP = 8


class BatchEvaluator(PrefixEvaluator):
    """The evaluator for a device that one candidate leaves idle.

    Args:
        library: sub-blocks at every width.
        windows_BT: the windows all candidates are measured on.
        group: candidates per launch.
        backend: of the kernels: ``auto``, ``triton`` or ``torch``.
        options: further ones of `PrefixEvaluator`.
    """

    def __init__(
        self,
        library: BlockLibrary,
        windows_BT: Tensor,
        *,
        group: int = DEFAULT_GROUP,
        backend: Backend = "auto",
        **options: Any,
    ) -> None:
        if group < 1:
            raise ValueError(f"group: {group} given; at least 1 is needed")
        super().__init__(library, windows_BT, **options)
        self._group = group
        self._backend = backend

    @torch.inference_mode()
    def _group_losses(self, group: Sequence[Architecture], chunk: int) -> list[Losses]:
        teacher = self._teacher(chunk)
        hidden_MNH = self._together([item.path for item in group], chunk)
        return [self._compare(hidden_NH, teacher, chunk) for hidden_NH in hidden_MNH]

    def _hidden(self, path: tuple[int, ...], chunk: int) -> Tensor:
        """The dense model goes the way of the candidates, or it would round differently."""
        return self._together([path], chunk)[0]

    def _together(self, paths: Sequence[tuple[int, ...]], chunk: int) -> Tensor:
        """Final hidden states [M, N, H] of several paths on a chunk of windows."""
        windows, length = self._chunks[chunk].shape
        shared = _shared(paths) if len(paths) > 1 else 0
        depth, state = self._prefixes.longest(chunk, paths[0][:shared])
        if state is None:
            state = embed(self._model, self._chunks[chunk]).flatten(0, 1)
        state_MNH = state[None]
        for index in range(depth, len(self._slots)):
            if index == shared:
                state_MNH = state_MNH.expand(len(paths), -1, -1)
            layer, kind = self._slots[index]
            widths = [path[index] for path in paths[: len(state_MNH)]]
            state_MNH = self._advance(state_MNH, layer, kind, widths, windows)
            if index < shared:
                self._prefixes.put(chunk, paths[0][: index + 1], state_MNH[0])
        states_MBTH = state_MNH.unflatten(1, (windows, length))
        return final_hidden(self._model, states_MBTH)[:, :, :-1].flatten(1, 2)

    def _advance(
        self, state_MNH: Tensor, layer: int, kind: Kind, widths: Sequence[int], windows: int
    ) -> Tensor:
        """The residual streams after one sub-block of a width for each candidate."""
        full = self._model.layers[layer].sub_block(kind)
        if full is None or not any(widths):
            return state_MNH
        self.sub_blocks_run += sum(width > 0 for width in widths)
        table = ProjectionTable(tuple(self._projection(full, layer, kind, width) for width in widths))
        normed_MNH = rms_norm(state_MNH, full.norm_H, self._context.norm_eps).contiguous()
        if isinstance(full, AttentionWeights):
            out_MNH = self._attention(normed_MNH, full, table, layer, widths, windows)
        else:
            out_MNH = self._mlp(normed_MNH, full, table, widths)
        there_M = torch.tensor([width > 0 for width in widths], device=out_MNH.device)
        # A removed sub-block adds nothing, not even its bias.
        return state_MNH + out_MNH * there_M[:, None, None]

    def _projection(self, full: SubBlock, layer: int, kind: Kind, width: int) -> Tensor:
        sub_block = self._library.block(layer, kind, width)
        return last_projection(full)[:, :0] if sub_block is None else last_projection(sub_block)

    def _mlp(self, x_MNH: Tensor, full: FfnWeights, down: ProjectionTable, widths: Sequence[int]) -> Tensor:
        return masked_mlp(
            x_MNH,
            full.gate_CH,
            full.up_CH,
            down,
            widths,
            gate_bias_C=full.gate_bias_C,
            up_bias_C=full.up_bias_C,
            down_bias_H=full.down_bias_H,
            backend=self._backend,
        )

    def _attention(
        self,
        x_MNH: Tensor,
        full: AttentionWeights,
        output: ProjectionTable,
        layer: int,
        widths: Sequence[int],
        windows: int,
    ) -> Tensor:
        return masked_attention(
            x_MNH,
            self._context.heads(full, layer),
            output,
            self._context.packing(windows),
            widths,
            output_bias_H=full.output_bias_H,
            backend=self._backend,
        )


def _shared(paths: Sequence[tuple[int, ...]]) -> int:
    """Sub-blocks, from the first on, whose widths all paths have in common."""
    columns = zip(*paths, strict=True)
    return next((depth for depth, widths in enumerate(columns) if len(set(widths)) > 1), len(paths[0]))
