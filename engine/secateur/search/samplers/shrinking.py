"""Shrinking the space: widths that the predictor is sure are not worth what they cost are given up.

The paper narrows its ranges of pruning ratios by what the trees call important (arXiv 2309.09507, section 2).
Here every width of every sub-block is tried, in the predictor, in place of that of the best architectures;
what the change takes of the budget is priced at what the budget is worth elsewhere (the Lagrangian price).
It goes when even an optimistic prediction is worse for all of them.

Shape suffixes: S sub-blocks, W widths, L limits, P best architectures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.model.architecture import Architecture
from secateur.search.predictor import Predictor
from secateur.space.grid import Grid, at

MIN_PAIRS = 48
BEST = 3
CONFIDENCE_STDS = 2.0  # standard deviations
MARGIN = 0.05  # log KL; a change that small may pay together with others
NEIGHBOURS = 2  # widths on either side of the best ones, never given up


def allowed_widths(
    grid: Grid,
    costs_LSW: np.ndarray,
    best: Sequence[Architecture],
    predictor: Predictor,
    trials: int,
) -> np.ndarray:
    """The widths [S, W] that are still worth trying.

    Args:
        best: good architectures on the edge of the budget, best first.
        trials: how many the predictor has learned from; with few, nothing is sure.
    """
    exists_SW = np.arange(grid.widths_SW.shape[1]) <= grid.top_S[:, None]
    if trials < MIN_PAIRS:
        return exists_SW
    hopeful_SW = np.zeros_like(exists_SW)
    slot_C, width_C = np.nonzero(exists_SW)
    for base_S in grid.encode(best[:BEST]):
        changed_CS = np.repeat(base_S[None], len(slot_C), 0)
        changed_CS[np.arange(len(slot_C)), slot_C] = width_C
        prediction = predictor.predict(grid.decode(changed_CS))
        base = float(predictor.predict(grid.decode(base_S[None])).mean[0])
        spent_LC = np.stack([at(rows_SW, changed_CS).sum(1) for rows_SW in costs_LSW])
        extra_C = spent_LC.max(0) - max(
            rows_SW[np.arange(len(base_S)), base_S].sum() for rows_SW in costs_LSW
        )
        gain_C = prediction.mean - base
        optimistic_C = gain_C - CONFIDENCE_STDS * prediction.std + _price(gain_C, extra_C) * extra_C
        hopeful_SW[slot_C, width_C] |= optimistic_C < MARGIN
        near_C = np.abs(width_C - base_S[slot_C]) <= NEIGHBOURS
        hopeful_SW[slot_C[near_C], width_C[near_C]] = True
    return hopeful_SW


def _price(gain_C: np.ndarray, extra_C: np.ndarray) -> float:
    """Log KL that one more budget is worth: the median over changes of what they gain per cost."""
    real_C = np.abs(extra_C) > 1e-6
    return max(0.0, float(np.median(-gain_C[real_C] / extra_C[real_C]))) if real_C.any() else 0.0
