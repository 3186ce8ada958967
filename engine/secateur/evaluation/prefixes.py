"""Residual streams of prefixes, kept between candidates and between generations up to a byte limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

Prefix = tuple[int, tuple[int, ...]]


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
