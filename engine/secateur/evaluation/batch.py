"""Evaluating several candidates per launch: what keeps a GPU busy when candidates are small.

Candidates that follow each other in lexicographic order form a group, which goes through the model level by
level: what any of them share runs once, and every sub-block is one call for all that differ there: the same
sorted weights, each its own width and its own repaired projection (`secateur_kernels.ProjectionTable`). So a
layer that a device has no room to keep is asked for once by a group, whatever there is in it.

Shape suffixes: M candidates, B windows, T tokens, N tokens of all windows, H hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.evaluation.evaluator import DEFAULT_STATE_BYTES, Path, PrefixCache, PrefixEvaluator
from secateur.model.architecture import Architecture, Kind
from secateur.model.decoder import AttentionWeights, FfnWeights
from secateur.model.forward import contribution, embed, final_hidden
from secateur.model.units import last_projection
from secateur_kernels import Backend, ProjectionTable, masked_attention, masked_mlp

DEFAULT_GROUP = 8


@dataclass(frozen=True)
class _Walk:
    """Where each path begins on a chunk of windows: the depth and state [N, H] that are kept of it."""

    kept: Mapping[Path, tuple[int, Tensor | None]]

    @classmethod
    def begin(cls, prefixes: PrefixCache, chunk: int, paths: Sequence[Path]) -> _Walk:
        return cls({path: prefixes.longest(chunk, path[:-1]) for path in paths})

    def advancing(self, index: int) -> list[Path]:
        """The distinct prefixes that sub-block `index` makes."""
        begun = (path for path, (depth, _) in self.kept.items() if depth <= index)
        return list(dict.fromkeys(path[: index + 1] for path in begun))

    def waiting(self, index: int) -> list[Path]:
        """The prefixes that later sub-blocks go on from."""
        return [path[:depth] for path, (depth, _) in self.kept.items() if depth > index]


class BatchEvaluator(PrefixEvaluator):
    """The evaluator for a device that one candidate leaves idle.

    Args:
        library: sub-blocks at every width.
        windows_BT: the windows all candidates are measured on.
        group: candidates per launch; None: 8, and of a streamed model as many as memory for states allows.
        backend: of the kernels: ``auto``, ``triton`` or ``torch``.
        options: further ones of `PrefixEvaluator`.
    """

    def __init__(
        self,
        library: BlockLibrary,
        windows_BT: Tensor,
        *,
        group: int | None = None,
        backend: Backend = "auto",
        **options: Any,
    ) -> None:
        if group is None:
            group = DEFAULT_GROUP
            if library.streamed:  # every group costs the weights of all layers once more
                states = windows_BT.numel() * library.model.hidden_size * library.model.dtype.itemsize
                group = max(1, options.get("state_bytes", DEFAULT_STATE_BYTES) // (2 * states))
        if group < 1:
            raise ValueError(f"group: {group} given; at least 1 is needed")
        super().__init__(library, windows_BT, **options)
        self._group = group
        self._backend = backend

    @torch.inference_mode()
    def _group_losses(self, group: Sequence[Architecture], chunks: Sequence[int]) -> list[list[Tensor]]:
        teachers = self._teachers_of(chunks)
        hidden = self._hidden([item.path for item in group], chunks)
        return [
            [self._compare(hidden[chunk][number], teachers[chunk], chunk) for chunk in chunks]
            for number in range(len(group))
        ]

    def _hidden(self, paths: Sequence[Path], chunks: Sequence[int]) -> dict[int, Sequence[Tensor]]:
        """Final hidden states [N, H] of several paths, by chunk of windows.

        Level by level through the trie of the paths, so that what any of them share runs once; each from the
        deepest state that is kept. All chunks go through a sub-block before the next is asked for. The dense
        model goes the way of the candidates, or it would round differently.
        """
        walks = {chunk: _Walk.begin(self._prefixes, chunk, paths) for chunk in chunks}
        states = {chunk: self._first_states(walk, chunk) for chunk, walk in walks.items()}
        for index, (layer, kind) in enumerate(self._slots):
            for chunk, walk in walks.items():
                prefixes = walk.advancing(index)
                windows = len(self._chunks[chunk])
                advanced = self._advance(states[chunk], prefixes, layer, kind, windows) if prefixes else {}
                states[chunk] = {prefix: states[chunk][prefix] for prefix in walk.waiting(index)} | advanced
                if index + 1 < len(self._slots):
                    for prefix, state_NH in advanced.items():
                        self._prefixes.put(chunk, prefix, state_NH)
        for chunk in chunks:
            for path in paths:
                self._prefixes.touch(chunk, path[:-1])
        return {
            chunk: self._final(chunk, [states[chunk][path] for path in paths]).unbind() for chunk in chunks
        }

    def _first_states(self, walk: _Walk, chunk: int) -> dict[Path, Tensor]:
        """The states that are kept; the embedded windows where none is."""
        states = {path[:depth]: state for path, (depth, state) in walk.kept.items() if state is not None}
        if any(state is None for _, state in walk.kept.values()):
            states[()] = embed(self._model, self._chunks[chunk]).flatten(0, 1)
        return states

    def _final(self, chunk: int, states: list[Tensor]) -> Tensor:
        """What the head reads at predicted positions, [M, N, H]."""
        states_MBTH = torch.stack(states).unflatten(1, self._chunks[chunk].shape)
        return final_hidden(self._model, states_MBTH)[:, :, :-1].flatten(1, 2)

    def _advance(
        self, states: Mapping[Path, Tensor], prefixes: Sequence[Path], layer: int, kind: Kind, windows: int
    ) -> dict[Path, Tensor]:
        """The residual stream [N, H] after each prefix, from those after what it goes on from."""
        advanced = {prefix: states[prefix[:-1]] for prefix in prefixes}
        full = self._library.full_block(layer, kind)
        running = [prefix for prefix in prefixes if prefix[-1]]
        if full is None or not running:
            return advanced
        self.sub_blocks_run += len(running)
        widths = [prefix[-1] for prefix in running]
        state_MNH = torch.stack([advanced[prefix] for prefix in running])
        table = ProjectionTable(tuple(self._projection(layer, kind, width) for width in widths))
        normed_MNH = self._context.norm(state_MNH, full.norm_H).contiguous()
        if isinstance(full, AttentionWeights):
            out_MNH = self._attention(normed_MNH, full, table, layer, widths, windows)
        else:
            out_MNH = self._mlp(normed_MNH, full, table, widths)
        out_MNH = contribution(out_MNH, full, self._context)
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
            activation=self._context.activation,
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
            self._context.packing(windows, layer),
            widths,
            output_bias_H=full.output_bias_H,
            backend=self._backend,
        )
