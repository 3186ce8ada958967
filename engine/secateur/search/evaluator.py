"""Evaluating candidates: KL to the dense model and NLL on search windows, sharing common prefixes.

The residual stream before sub-block d depends only on the widths of the sub-blocks before d. The
evaluator walks candidates in lexicographic order of their paths (a depth-first walk of their trie)
and keeps the states along the current path, so what two neighbours share is computed once. The
same products run in the same shapes whatever the grouping, so a candidate's value does not depend
on which others were evaluated with it.

Shape suffixes: B windows, T tokens, H hidden, N predicted positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from secateur.calibrate.library import BlockLibrary
from secateur.model.forward import apply_block, embed, final_hidden, geometry
from secateur.search.architecture import Architecture
from secateur.search.space import Slot
from secateur_kernels import Teacher, linear_kl, prepare_teacher

DEFAULT_STATE_BYTES = 2 << 30


@dataclass(frozen=True)
class Measurement:
    """What one evaluation found, in nats per token, with standard errors over windows."""

    kl: float
    kl_stderr: float
    nll: float
    nll_stderr: float
    tokens: int


class Evaluator(Protocol):
    """Measures candidates; results do not depend on their order or grouping."""

    def evaluate(self, candidates: Sequence[Architecture]) -> Iterator[tuple[Architecture, Measurement]]:
        """Each candidate with its measurement, in whatever order is cheapest, as they are done."""


class PrefixEvaluator:
    """The evaluator for one host.

    Args:
        library: sub-blocks at every width.
        windows_BT: the windows all candidates are measured on.
        state_bytes: memory for residual streams kept along the current path.
    """

    def __init__(
        self, library: BlockLibrary, windows_BT: Tensor, *, state_bytes: int = DEFAULT_STATE_BYTES
    ) -> None:
        self._library = library
        self._model = library.model
        self._windows_BT = windows_BT
        self._geo = geometry(self._model, windows_BT.shape[1])
        self._slots: list[Slot] = [
            (layer, kind) for layer in range(self._model.num_layers) for kind in ("attention", "ffn")
        ]
        state = windows_BT.numel() * self._model.hidden_size * self._model.embedding_VH.element_size()
        self._stride = max(1, math.ceil(state * len(self._slots) / state_bytes))
        self._target_N = windows_BT[:, 1:].flatten()
        self._teacher: Teacher | None = None
        self.blocks_run = 0

    @property
    def dense_nll(self) -> float:
        """NLL of the dense model on the same windows, nats per token."""
        return float(self._dense().nll_N.mean())

    @torch.inference_mode()
    def evaluate(self, candidates: Sequence[Architecture]) -> Iterator[tuple[Architecture, Measurement]]:
        """Each distinct candidate with its measurement, in order of their paths."""
        teacher = self._dense()
        stack: list[tuple[int, Tensor]] = []
        previous: tuple[int, ...] = ()
        for candidate in sorted(set(candidates), key=lambda item: item.path):
            path = candidate.path
            shared = _common_prefix(previous, path)
            while stack and stack[-1][0] > shared:
                stack.pop()
            hidden_NH = self._advance(path, stack)
            previous = path
            yield candidate, self._measure(hidden_NH, teacher)

    def _dense(self) -> Teacher:
        if self._teacher is None:
            with torch.inference_mode():
                full = tuple(self._model.width(layer, kind) for layer, kind in self._slots)
                hidden_NH = self._advance(full, [])
                self._teacher = prepare_teacher(hidden_NH, self._model.head_VH, self._target_N)
        return self._teacher

    def _advance(self, path: tuple[int, ...], stack: list[tuple[int, Tensor]]) -> Tensor:
        """Final hidden states [N, H] of a path, pushing states on `stack` as it goes."""
        if not stack:
            stack.append((0, embed(self._model, self._windows_BT)))
        depth, state_BTH = stack[-1]
        for index in range(depth, len(path)):
            layer, kind = self._slots[index]
            block = self._library.block(layer, kind, path[index])
            state_BTH = apply_block(state_BTH, block, self._geo, layer)
            self.blocks_run += block is not None
            if (index + 1) % self._stride == 0 and index + 1 < len(path):
                stack.append((index + 1, state_BTH))
        return final_hidden(self._model, state_BTH)[:, :-1].flatten(0, 1)

    def _measure(self, hidden_NH: Tensor, teacher: Teacher) -> Measurement:
        kl_N, nll_N = linear_kl(hidden_NH, teacher, self._model.head_VH, self._target_N)
        kl, kl_stderr = self._mean(kl_N)
        nll, nll_stderr = self._mean(nll_N)
        return Measurement(kl, kl_stderr, nll, nll_stderr, len(kl_N))

    def _mean(self, loss_N: Tensor) -> tuple[float, float]:
        per_window_B = loss_N.double().view(len(self._windows_BT), -1).mean(1)
        windows = len(per_window_B)
        spread = float(per_window_B.std() / math.sqrt(windows)) if windows > 1 else 0.0
        return float(per_window_B.mean()), spread


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
