"""Architectures as matrices of width indices: what is done to thousands of candidates at once.

Shape suffixes: N candidates, S sub-blocks (slots), W allowed widths of a slot (the narrower rows padded),
L limits of a budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from secateur.model.architecture import Architecture, Slot
from secateur.space.budget import Budget
from secateur.space.space import Space


class Grid:
    """Translates between architectures and rows of indices into the allowed widths.

    Attributes:
        top_S: index of the dense width of every slot.
        is_attention_S: which slots are attention.
        widths_SW: allowed widths, the last repeated.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        rows = [space.widths(*slot) for slot in space.slots]
        self.top_S = np.array([len(row) - 1 for row in rows])
        self.widths_SW = self._padded(rows)
        self.is_attention_S = np.array([kind == "attention" for _, kind in space.slots])
        self._index = [{width: index for index, width in enumerate(row)} for row in rows]

    def encode(self, candidates: Sequence[Architecture]) -> np.ndarray:
        """Indices [N, S] of architectures of the space."""
        rows = [
            [index[width] for index, width in zip(self._index, item.path, strict=True)] for item in candidates
        ]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self._index))

    def decode(self, index_NS: np.ndarray) -> list[Architecture]:
        """The architectures of rows of indices."""
        width_NS = np.take_along_axis(self.widths_SW[None], index_NS[:, :, None], 2)[:, :, 0]
        return [Architecture(tuple(row[0::2]), tuple(row[1::2])) for row in width_NS.tolist()]

    def values(self, table: Mapping[Slot, Mapping[int, float]]) -> np.ndarray:
        """A value per slot and width [S, W]."""
        return self._padded(
            [[table[slot][width] for width in self._space.widths(*slot)] for slot in self._space.slots]
        )

    def costs(self, budget: Budget) -> np.ndarray:
        """What every slot and width takes of each limit, as a share of what sub-blocks may take [L, S, W]."""
        rows = [
            self.values(limit.cost.table) / max(limit.max_value - limit.cost.fixed, 1)
            for limit in budget.limits
        ]
        return np.stack(rows)

    @staticmethod
    def _padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
        longest = max(map(len, rows))
        return np.array([[*row, *[row[-1]] * (longest - len(row))] for row in rows])


def at(rows_SW: np.ndarray, index_NS: np.ndarray) -> np.ndarray:
    """The entries [N, S] that rows of indices point at."""
    return rows_SW[np.arange(rows_SW.shape[0]), index_NS]
