"""Evaluating several candidates per launch: what keeps a GPU busy when candidates are small.

Candidates that follow each other in lexicographic order form a group, which goes through the model level by
level: what any of them share runs once, and every sub-block is one call for all that differ there: the same
sorted weights, each its own width and its own repaired projection (`secateur_kernels.ProjectionTable`).

Shape suffixes: M candidates, B windows, T tokens, N tokens of all windows, H hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.model.architecture import Architecture, Kind
from secateur.model.decoder import AttentionWeights, FfnWeights
from secateur.model.forward import embed, final_hidden, rms_norm
from secateur.model.units import last_projection
from secateur_kernels import Backend, ProjectionTable, masked_attention, masked_mlp

DEFAULT_GROUP = 8
Path = tuple[int, ...]


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
    def _group_losses(self, group: Sequence[Architecture], chunk: int) -> list[Tensor]:
        teacher = self._teacher(chunk)
        hidden_MNH = self._together([item.path for item in group], chunk)
        return [self._compare(hidden_NH, teacher, chunk) for hidden_NH in hidden_MNH]

    def _hidden(self, path: Path, chunk: int) -> Tensor:
        """The dense model goes the way of the candidates, or it would round differently."""
        return self._together([path], chunk)[0]

    def _together(self, paths: Sequence[Path], chunk: int) -> Tensor:
        """Final hidden states [M, N, H] of several paths on a chunk of windows.

        Level by level through the trie of the paths, so that what any of them share runs once; each from the
        deepest state that is kept.
        """
        windows, length = self._chunks[chunk].shape
        kept = {path: self._prefixes.longest(chunk, path[:-1]) for path in paths}
        states: dict[Path, Tensor] = {}
        for path, (depth, state_NH) in kept.items():
            if depth == 0 and () not in states:
                states[()] = embed(self._model, self._chunks[chunk]).flatten(0, 1)
            elif state_NH is not None:
                states[path[:depth]] = state_NH
        for index, (layer, kind) in enumerate(self._slots):
            prefixes = dict.fromkeys(path[: index + 1] for path in paths if kept[path][0] <= index)
            advanced = self._advance(states, list(prefixes), layer, kind, windows)
            later = [path[:depth] for path, (depth, _) in kept.items() if depth > index]
            states = {prefix: states[prefix] for prefix in later} | advanced
            if index + 1 < len(self._slots):
                for prefix, state_NH in advanced.items():
                    self._prefixes.put(chunk, prefix, state_NH)
        for path in paths:
            self._prefixes.touch(chunk, path[:-1])
        states_MBTH = torch.stack([states[path] for path in paths]).unflatten(1, (windows, length))
        return final_hidden(self._model, states_MBTH)[:, :, :-1].flatten(1, 2)

    def _advance(
        self, states: Mapping[Path, Tensor], prefixes: Sequence[Path], layer: int, kind: Kind, windows: int
    ) -> dict[Path, Tensor]:
        """The residual stream [N, H] after each prefix, from those after what it goes on from."""
        full = self._model.layers[layer].sub_block(kind)
        running = [prefix for prefix in prefixes if full is not None and prefix[-1]]
        advanced = {prefix: states[prefix[:-1]] for prefix in prefixes}
        if full is None or not running:
            return advanced
        self.sub_blocks_run += len(running)
        widths = [prefix[-1] for prefix in running]
        state_MNH = torch.stack([advanced[prefix] for prefix in running])
        table = ProjectionTable(tuple(self._projection(layer, kind, width) for width in widths))
        normed_MNH = rms_norm(state_MNH, full.norm_H, self._context.norm_eps).contiguous()
        if isinstance(full, AttentionWeights):
            out_MNH = self._attention(normed_MNH, full, table, layer, widths, windows)
        else:
            out_MNH = self._mlp(normed_MNH, full, table, widths)
        # Each of its own memory: a state that is kept must not keep those of other candidates.
        return advanced | {
            prefix: state_NH + out_NH
            for prefix, state_NH, out_NH in zip(running, state_MNH, out_MNH, strict=True)
        }

    def _projection(self, layer: int, kind: Kind, width: int) -> Tensor:
        sub_block = self._library.block(layer, kind, width)
        assert sub_block is not None  # its width is not 0
        return last_projection(sub_block)

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
