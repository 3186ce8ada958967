"""Architectures as rows of numbers: what the accuracy predictor sees of a candidate.

Shape suffixes: N candidates, S sub-blocks, W widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.model.architecture import Architecture
from secateur.search.table import AdditiveTable
from secateur.space.grid import Grid, at
from secateur.space.space import Space

_MIN_KL = 1e-9  # nats; the dense model loses nothing, which has no logarithm


class Features:
    """Architectures as rows of numbers.

    Kept fraction per sub-block; the additive table's log sum (also of square roots, which weighs
    many small cuts against few deep ones); removed sub-blocks; mean kept fraction per third of the depth.
    """

    def __init__(self, space: Space, table: AdditiveTable) -> None:
        self._grid = Grid(space)
        self._values_SW = self._grid.values(table.kl)
        self._full_S = np.array(space.dense.path, dtype=np.float64)

    def prior(self, candidates: Sequence[Architecture]) -> np.ndarray:
        """Log of the additive table's KL."""
        return _log_sum(at(self._values_SW, self._grid.encode(candidates)))

    def matrix(self, candidates: Sequence[Architecture]) -> np.ndarray:
        """One row per candidate."""
        path_NS = np.array([candidate.path for candidate in candidates], dtype=np.float64)
        kept_NS = np.divide(path_NS, self._full_S, out=np.ones_like(path_NS), where=self._full_S > 0)
        lost_NS = at(self._values_SW, self._grid.encode(candidates))
        sums = np.stack([_log_sum(lost_NS), _log_sum(np.sqrt(lost_NS))], axis=1)
        removed = np.stack([(path_NS[:, 0::2] == 0).sum(1), (path_NS[:, 1::2] == 0).sum(1)], axis=1)
        thirds = [
            part.mean(1, keepdims=True)
            for half in (kept_NS[:, 0::2], kept_NS[:, 1::2])
            for part in np.array_split(half, 3, axis=1)
            if part.shape[1]
        ]
        return np.hstack([kept_NS, sums, removed, *thirds])


def _log_sum(lost_NS: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(lost_NS.sum(1), _MIN_KL))
