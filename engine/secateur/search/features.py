"""Architectures as rows of numbers: what the accuracy predictor sees of a candidate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.search.architecture import Architecture
from secateur.search.space import Space
from secateur.search.table import AdditiveTable


class Features:
    """Architectures as rows of numbers.

    Kept fraction per sub-block; the additive table's log sum (also of square roots, which weighs
    many small cuts against few deep ones); removed sub-blocks; mean kept fraction per third of the depth.
    """

    def __init__(self, space: Space, table: AdditiveTable) -> None:
        self._table = table
        self._full = np.array(space.dense.path, dtype=np.float64)

    def prior(self, candidates: Sequence[Architecture]) -> np.ndarray:
        """Log of the additive table's KL."""
        return np.log([max(self._table.of(candidate), 1e-9) for candidate in candidates])

    def matrix(self, candidates: Sequence[Architecture]) -> np.ndarray:
        """One row per candidate."""
        paths = np.array([candidate.path for candidate in candidates], dtype=np.float64)
        kept = np.divide(paths, self._full, out=np.ones_like(paths), where=self._full > 0)
        prior = self.prior(candidates)[:, None]
        roots = np.log([[max(self._table.of(candidate, 0.5), 1e-9)] for candidate in candidates])
        removed = np.stack([(paths[:, 0::2] == 0).sum(1), (paths[:, 1::2] == 0).sum(1)], axis=1)
        thirds = [
            part.mean(1, keepdims=True)
            for half in (kept[:, 0::2], kept[:, 1::2])
            for part in np.array_split(half, 3, axis=1)
            if part.shape[1]
        ]
        return np.hstack([kept, prior, roots, removed, *thirds])
