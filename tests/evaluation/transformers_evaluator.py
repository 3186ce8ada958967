"""The plain way to evaluate a candidate, which the fast one is compared with.

Cut the model, build transformers' own module from it, run it, keep whole logits: what a user without
Secateur would do.

Shape suffixes: B windows, T tokens, V vocabulary, N predicted positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Module

from secateur.calibrate.block_library import BlockLibrary
from secateur.checkpoint.transformers_module import transformers_module
from secateur.evaluation.evaluator import CHUNK_WINDOWS
from secateur.evaluation.measurement import Evaluator, Losses, resolve_chunks
from secateur.model.architecture import Architecture
from secateur.model.decoder import DecoderLayer, architecture_of


class TransformersEvaluator(Evaluator):
    """Measures candidates by slimming the model and running transformers with full logits.

    Args:
        library: sub-blocks at every width.
        windows_BT: the windows all candidates are measured on.
        chunk_windows: windows that go through the model together.
    """

    def __init__(
        self, library: BlockLibrary, windows_BT: Tensor, *, chunk_windows: int = CHUNK_WINDOWS
    ) -> None:
        self._library = library
        self._chunks = windows_BT.split(chunk_windows)
        self._dense = transformers_module(library.model)

    @property
    def num_chunks(self) -> int:
        """Chunks of windows there are."""
        return len(self._chunks)

    def losses(
        self, candidates: Sequence[Architecture], chunks: Iterable[int] | None = None
    ) -> Iterator[tuple[Architecture, Losses]]:
        """Each distinct candidate with its losses on those chunks, in the order given."""
        chunk_indices = resolve_chunks(chunks, self.num_chunks)
        for candidate in dict.fromkeys(candidates):
            module = self._module(candidate)
            chunk_losses = [self._chunk_losses(module, self._chunks[chunk]) for chunk in chunk_indices]
            yield candidate, sum(chunk_losses[1:], chunk_losses[0])

    def _module(self, candidate: Architecture) -> Module:
        if candidate == architecture_of(self._library.master):
            return self._dense
        layers = tuple(
            DecoderLayer(
                self._library.block(index, "attention", candidate.groups[index]),  # type: ignore[arg-type]
                self._library.block(index, "ffn", candidate.channels[index]),  # type: ignore[arg-type]
            )
            for index in range(candidate.num_layers)
        )
        return transformers_module(replace(self._library.model, layers=layers))

    @torch.inference_mode()
    def _chunk_losses(self, module: Module, tokens_BT: Tensor) -> Losses:
        log_p_BTV = torch.log_softmax(self._dense(tokens_BT).logits[:, :-1].float(), -1)
        log_q_BTV = torch.log_softmax(module(tokens_BT).logits[:, :-1].float(), -1)
        kl_B = (log_p_BTV.exp() * (log_p_BTV - log_q_BTV)).sum(-1).double().mean(1)
        nll_B = -log_q_BTV.gather(-1, tokens_BT[:, 1:, None])[..., 0].double().mean(1)
        return Losses(tuple(kl_B.tolist()), tuple(nll_B.tolist()), tokens_BT.shape[1] - 1)
