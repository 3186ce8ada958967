"""The paper's space of ratios: ends are whole, groups share, narrowing narrows, budgets are met at the edge.

Proven over random budgets and seeds (property).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.model.architecture import Architecture
from secateur.search.samplers.ratios import GROUP, RatioSpace
from secateur.space.budget import Budget, Limit
from secateur.space.costs.cost import Cost
from secateur.space.space import Space

SPACE = Space(Architecture((3,) * 30, (1536,) * 30), 64)
COST = Cost(
    "units",
    7,
    {
        slot: {width: width * (700 if slot[1] == "attention" else 3) for width in SPACE.widths(*slot)}
        for slot in SPACE.slots
    },
)
WHOLE = RatioSpace.whole(SPACE)


def budget(keep: float) -> Budget:
    return Budget((Limit("params", COST, int(keep * COST.of(SPACE.dense))),))


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_papers_ends_are_kept() -> None:
    assert WHOLE.layers == range(3, 28)
    candidate = WHOLE.architecture(np.full(len(WHOLE.slots), 5))
    assert candidate.channels == (1536,) * 3 + (768,) * 25 + (1536,) * 2
    assert candidate.groups == (3,) * 3 + (1,) * 25 + (3,) * 2


def test_few_layers_have_no_ends() -> None:
    assert RatioSpace.whole(Space(Architecture((2,) * 3, (96,) * 3), 32)).layers == range(3)


def test_draws_are_the_papers_ratios() -> None:
    tenths_NS = WHOLE.draw(generator(), 500)
    assert (tenths_NS.min(), tenths_NS.max()) == (1, 5)
    assert len({tuple(row) for row in tenths_NS.tolist()}) == 500


def test_groups_share_their_ratio_by_kind() -> None:
    tenths_NS = WHOLE.draw(generator(), 50, grouped=True)
    for kind in ("attention", "ffn"):
        columns = [index for index, slot in enumerate(WHOLE.slots) if slot[1] == kind]
        for start in range(0, len(columns), GROUP):
            assert (np.ptp(tenths_NS[:, columns[start : start + GROUP]], axis=1) == 0).all()
        assert np.ptp(tenths_NS[:, columns], axis=1).any()
    assert (tenths_NS[:, 0::2] != tenths_NS[:, 1::2]).any()


def test_narrowed_by_importance() -> None:
    importance_S = np.arange(len(WHOLE.slots), dtype=float)
    narrowed = WHOLE.narrowed(importance_S)
    assert (narrowed.low_S[0], narrowed.high_S[0]) == (2, 7)
    assert (narrowed.low_S[-1], narrowed.high_S[-1]) == (1, 3)
    assert (narrowed.low_S[25], narrowed.high_S[25]) == (1, 5)
    assert (WHOLE.low_S[0], WHOLE.high_S[0]) == (1, 5)  # the space it came from stays


@settings(max_examples=25, deadline=None)
@given(keep=st.floats(0.2, 1.0), seed=st.integers(0, 2**16))
def test_fitted_meets_the_budget_at_its_edge(keep: float, seed: int) -> None:
    rng, limit = np.random.default_rng(seed), budget(keep)
    fitted_NS = WHOLE.fitted(WHOLE.draw(rng, 12), limit, rng)
    assert len(fitted_NS) == 12
    for tenths_S in fitted_NS:
        candidate = WHOLE.architecture(tenths_S)
        assert SPACE.contains(candidate)
        assert (
            limit.limits[0].max_value - 2100 < COST.of(candidate) <= limit.limits[0].max_value
            or candidate == SPACE.dense
        )


def test_fitted_stays_in_the_ranges_where_it_can() -> None:
    narrowed = WHOLE.narrowed(np.arange(len(WHOLE.slots), dtype=float))
    fitted_NS = narrowed.fitted(narrowed.draw(generator(), 40), budget(0.75), generator())
    assert (fitted_NS >= narrowed.low_S).all()
    assert (fitted_NS <= narrowed.high_S).all()


def test_a_budget_below_the_kept_ends_is_met_by_none() -> None:
    assert len(WHOLE.fitted(WHOLE.draw(generator(), 5), budget(0.1), generator())) == 0


@pytest.mark.parametrize("tenths", [0, 3, 10])
def test_kept_fractions_are_of_the_widths(tenths: int) -> None:
    tenths_S = np.full(len(WHOLE.slots), tenths)
    candidate = WHOLE.architecture(tenths_S)
    expected = [candidate.width(*slot) / SPACE.dense.width(*slot) for slot in WHOLE.slots]
    np.testing.assert_allclose(WHOLE.kept(tenths_S[None])[0], expected)
