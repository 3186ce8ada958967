"""The space shrinks where the predictor is sure, and only there.

Proven with predictors that say one thing: a sub-block that must stay whole, or nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.model.architecture import Architecture
from secateur.search.predictor import Prediction
from secateur.search.samplers.shrinking import MIN_PAIRS, NEIGHBOURS, allowed_widths
from secateur.space.budget import Budget, Limit
from secateur.space.costs.cost import Cost
from secateur.space.grid import Grid
from secateur.space.space import Space

SPACE = Space(Architecture((3,) * 4, (320,) * 4), 32)
COST = Cost("units", 0, {slot: {w: w for w in SPACE.widths(*slot)} for slot in SPACE.slots})
BUDGET = Budget((Limit("params", COST, int(0.8 * COST.of(SPACE.dense))),))
GRID = Grid(SPACE)
BASE = Architecture((3,) * 4, (256,) * 4)
PRECIOUS = 3  # the slot of layer 1's FFN


class Oracle:
    """Loses what is cut, a hundred times as much in one sub-block."""

    def __init__(self, std: float) -> None:
        self._std = std

    def fit(self, candidates: Sequence[Architecture], kl: Sequence[float]) -> None: ...

    def predict(self, candidates: Sequence[Architecture]) -> Prediction:
        lost = [1 - np.array(item.path) / np.array(SPACE.dense.path) for item in candidates]
        weights = np.ones(8)
        weights[PRECIOUS] = 100.0
        mean = np.array([row @ weights for row in lost])
        return Prediction(mean, np.full(len(mean), self._std))


def allowed(std: float, trials: int = MIN_PAIRS) -> np.ndarray:
    return allowed_widths(GRID, GRID.costs(BUDGET), [BASE], Oracle(std), trials)


def exists() -> np.ndarray:
    return np.arange(GRID.widths_SW.shape[1]) <= GRID.top_S[:, None]


def test_narrow_widths_of_a_precious_sub_block_go() -> None:
    found = allowed(0.01)
    here = SPACE.widths(1, "ffn").index(256)
    assert not found[PRECIOUS, : here - NEIGHBOURS].any()
    assert found[PRECIOUS, here - NEIGHBOURS :].all()


def test_nothing_goes_while_it_is_unsure() -> None:
    assert np.array_equal(allowed(1000.0), exists())


def test_nothing_goes_with_few_pairs() -> None:
    assert np.array_equal(allowed(0.01, MIN_PAIRS - 1), exists())
