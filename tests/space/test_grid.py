"""Rows of indices and architectures say the same, and costs add up to what the budget says.

Proven over random architectures (property).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.model.architecture import Architecture
from secateur.search.samplers.sampler import shifted
from secateur.space.budget import Budget, Limit
from secateur.space.costs.cost import Cost
from secateur.space.grid import Grid, at
from secateur.space.space import Space

SPACE = Space(Architecture((3,) * 3, (160, 96, 160)), 32)
COST = Cost("units", 7, {slot: {w: 3 * w + 1 for w in SPACE.widths(*slot)} for slot in SPACE.slots})
GRID = Grid(SPACE)


@settings(max_examples=50, deadline=None)
@given(fractions=st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6), min_size=1, max_size=5))
def test_there_and_back(fractions: list[list[float]]) -> None:
    shapes = [shifted(SPACE, row, 0.0) for row in fractions]
    assert GRID.decode(GRID.encode(shapes)) == shapes


@settings(max_examples=50, deadline=None)
@given(fractions=st.lists(st.floats(0, 1), min_size=6, max_size=6), keep=st.floats(0.2, 1.0))
def test_shares_of_the_budget(fractions: list[float], keep: float) -> None:
    limit = Budget((Limit("params", COST, int(keep * COST.of(SPACE.dense))),))
    shape = shifted(SPACE, fractions, 0.0)
    spent = at(GRID.costs(limit)[0], GRID.encode([shape])).sum()
    assert spent == pytest.approx((COST.of(shape) - COST.fixed) / (limit.limits[0].max_value - COST.fixed))
    assert (spent <= 1 + 1e-9) == limit.fits(shape)


def test_no_architectures() -> None:
    assert GRID.encode([]).shape == (0, 6)
    assert GRID.decode(np.empty((0, 6), dtype=np.int64)) == []
