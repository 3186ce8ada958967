"""Evaluating candidates: KL to the dense model and NLL on search windows, sharing common prefixes.

The residual stream before sub-block d depends only on the widths of the sub-blocks before d. The
evaluator walks candidates in lexicographic order of their paths (a depth-first walk of their trie)
and keeps the states it passes (`PrefixCache`), so what two candidates share is computed once, within
a generation and, as far as memory goes, across generations. Windows go through in chunks of fixed
size: the same products run in the same shapes whatever is evaluated together, so a candidate's
losses are its own to the bit.

Shape suffixes: B windows, T tokens, H hidden, N predicted positions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.evaluation.measurement import Evaluator, Losses, resolve_chunks
from secateur.evaluation.teachers import teacher_bytes_per_token, teacher_of
from secateur.model.architecture import Architecture, Slot
from secateur.model.forward import apply_block, embed, final_hidden, forward_context
from secateur_kernels import Teacher, TeacherStates, linear_kl

DEFAULT_STATE_BYTES = 2 << 30
DEFAULT_TEACHER_BYTES = 2 << 30
# As fast per token as 16 windows (SmolLM2, 2 cores: 1.5 s for 4096 tokens either way), and a race can
# stop after one.
CHUNK_WINDOWS = 4

Path = tuple[int, ...]  # widths of sub-blocks, in order of depth
Prefix = tuple[int, Path]


class PrefixCache:
    """The residual stream before sub-block d, by chunk of windows and the widths of sub-blocks 0 to d - 1.

    As a key-value cache keyed by a chain of hashes shares what prompts have in common, this shares
    what candidates have in common; the key is the chain itself, so nothing can collide. What is
    thrown out first are the deep ends of paths left longest ago: in lexicographic order of
    candidates nobody comes back to them, while their stems are still needed.

    Args:
        limit: bytes of states to keep; states larger than that are not kept at all.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[Prefix, Tensor] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._states)

    def longest(self, chunk: int, path: Sequence[int]) -> tuple[int, Tensor | None]:
        """The deepest state kept along a path, with its depth; depth 0 and None where there is none."""
        for depth in range(len(path), 0, -1):
            state = self._states.get((chunk, tuple(path[:depth])))
            if state is not None:
                return depth, state
        return 0, None

    def put(self, chunk: int, prefix: Sequence[int], state: Tensor) -> None:
        key = (chunk, tuple(prefix))
        if state.nbytes > self._limit or key in self._states:
            return
        self._states[key] = state
        self.held_bytes += state.nbytes
        while self.held_bytes > self._limit:
            _, dropped = self._states.popitem(last=False)
            self.held_bytes -= dropped.nbytes

    def touch(self, chunk: int, path: Sequence[int]) -> None:
        """Mark a path as just used, its stem as what to keep longest."""
        for depth in range(len(path), 0, -1):
            key = (chunk, tuple(path[:depth]))
            if key in self._states:
                self._states.move_to_end(key)


class PrefixEvaluator(Evaluator):
    """The evaluator for one host.

    Args:
        library: sub-blocks at every width.
        windows_BT: the windows all candidates are measured on.
        state_bytes: memory for residual streams of prefixes.
        teacher_bytes: memory for what is kept of the dense model's distributions. Windows that exceed it
            are gone through in spans, each for all candidates.

    Attributes:
        sub_blocks_run: sub-blocks computed so far, over all chunks of windows.

    Raises:
        ValueError: no windows, or windows of one token: there is nothing to predict.
    """

    _group = 1  # candidates that are gone through together

    def __init__(
        self,
        library: BlockLibrary,
        windows_BT: Tensor,
        *,
        state_bytes: int = DEFAULT_STATE_BYTES,
        teacher_bytes: int = DEFAULT_TEACHER_BYTES,
    ) -> None:
        if windows_BT.dim() != 2 or windows_BT.shape[0] < 1 or windows_BT.shape[1] < 2:
            raise ValueError(f"windows_BT: shape {list(windows_BT.shape)} given; at least [1, 2] is needed")
        self._library = library
        self._model = library.model
        self._chunks = windows_BT.to(self._model.device).split(CHUNK_WINDOWS)
        self._targets = [chunk[:, 1:].flatten() for chunk in self._chunks]
        self._context = forward_context(self._model, windows_BT.shape[1])
        self._slots: list[Slot] = [
            (layer, kind) for layer in range(self._model.num_layers) for kind in ("attention", "ffn")
        ]
        self._prefixes = PrefixCache(state_bytes)
        self._teachers: dict[int, Teacher | TeacherStates] = {}
        per_token = teacher_bytes_per_token(self._model.head_VH, self._model.device.type)
        self._span = max(1, teacher_bytes // (self._chunks[0].numel() * per_token))
        self.sub_blocks_run = 0

    @property
    def num_chunks(self) -> int:
        """Chunks of windows there are."""
        return len(self._chunks)

    @property
    def dense_nll(self) -> float:
        """NLL of the dense model on the same windows, nats per token."""
        chunks = range(self.num_chunks)
        with torch.inference_mode():
            spans = [chunks[start : start + self._span] for start in chunks[:: self._span]]
            teachers = (teacher for span in spans for teacher in self._teachers_of(span).values())
            nll_N = torch.cat([_own_nll(teacher) for teacher in teachers])
        return float(nll_N.mean())

    def losses(
        self, candidates: Sequence[Architecture], chunks: Iterable[int] | None = None
    ) -> Iterator[tuple[Architecture, Losses]]:
        """Each distinct candidate with its losses on those chunks, in order of their paths."""
        chunk_indices = resolve_chunks(chunks, self.num_chunks)
        ordered = sorted(set(candidates), key=lambda item: item.path)
        spans = [
            chunk_indices[start : start + self._span] for start in range(0, len(chunk_indices), self._span)
        ]
        found_by_candidate: dict[Architecture, list[Tensor]] = {item: [] for item in ordered}
        for span in spans:
            for start in range(0, len(ordered), self._group):
                group = ordered[start : start + self._group]
                for candidate, found in zip(group, self._group_losses(group, span), strict=True):
                    found_by_candidate[candidate] += found
                if span is spans[-1]:
                    yield from zip(group, self._on_host(map(found_by_candidate.pop, group)), strict=True)

    def _on_host(self, found: Iterable[list[Tensor]]) -> Iterator[Losses]:
        """Losses of several candidates, waited for once."""
        for kl_B, nll_B in torch.stack([torch.cat(parts, 1) for parts in found]).tolist():
            yield Losses(tuple(kl_B), tuple(nll_B), self._chunks[0].shape[1] - 1)

    @torch.inference_mode()
    def _group_losses(self, group: Sequence[Architecture], chunks: Sequence[int]) -> list[list[Tensor]]:
        """KL and NLL of each candidate on each chunk, [2, B] in fp64."""
        teachers = self._teachers_of(chunks)
        found: list[list[Tensor]] = [[] for _ in group]
        for chunk in chunks:  # the states of one chunk are used before those of the next are made
            for item, parts in zip(group, found, strict=True):
                (hidden_NH,) = self._hidden([item.path], [chunk])[chunk]
                parts.append(self._compare(hidden_NH, teachers[chunk], chunk))
        return found

    def _compare(self, hidden_NH: Tensor, teacher: Teacher | TeacherStates, chunk: int) -> Tensor:
        losses_N = linear_kl(hidden_NH, teacher, self._model.head_VH, self._targets[chunk])
        windows = len(self._chunks[chunk])
        return torch.stack([loss_N.double().view(windows, -1).mean(1) for loss_N in losses_N])

    def _teachers_of(self, chunks: Sequence[int]) -> dict[int, Teacher | TeacherStates]:
        """The dense model's distributions on a span of chunks, computed once as long as they fit."""
        missing = [chunk for chunk in chunks if chunk not in self._teachers]
        for kept in [chunk for chunk in self._teachers if chunk not in chunks]:
            if len(self._teachers) + len(missing) > self._span:
                del self._teachers[kept]
        full = tuple(self._library.master.width(layer, kind) for layer, kind in self._slots)
        head_VH = self._model.head_VH
        for chunk, (hidden_NH,) in self._hidden([full], missing).items():
            self._teachers[chunk] = teacher_of(hidden_NH, head_VH, self._targets[chunk])
        return {chunk: self._teachers[chunk] for chunk in chunks}

    def _hidden(self, paths: Sequence[Path], chunks: Sequence[int]) -> dict[int, Sequence[Tensor]]:
        """Final hidden states [N, H] of several paths, by chunk of windows."""
        return {chunk: [self._hidden_alone(path, chunk) for path in paths] for chunk in chunks}

    def _hidden_alone(self, path: Path, chunk: int) -> Tensor:
        """Final hidden states [N, H] of a path on a chunk of windows, from the deepest state kept."""
        depth, state_BTH = self._prefixes.longest(chunk, path)
        if state_BTH is None:
            state_BTH = embed(self._model, self._chunks[chunk])
        for index in range(depth, len(path)):
            layer, kind = self._slots[index]
            sub_block = self._library.block(layer, kind, path[index])
            if sub_block is not None:
                state_BTH = apply_block(state_BTH, sub_block, self._context, layer)
                self.sub_blocks_run += 1
            if index + 1 < len(path):
                self._prefixes.put(chunk, path[: index + 1], state_BTH)
        self._prefixes.touch(chunk, path[:-1])
        return final_hidden(self._model, state_BTH)[:, :-1].flatten(0, 1)


def _own_nll(teacher: Teacher | TeacherStates) -> Tensor:
    """The dense model's own losses [N]."""
    assert teacher.nll_N is not None  # `teacher_of` gives the targets
    return teacher.nll_N
