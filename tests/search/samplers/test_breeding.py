"""Children fit the budget and spend it, whatever their parents are, and share most with them.

Proven over random budgets, parents and seeds (property).
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.model.architecture import Architecture
from secateur.search.samplers.breeding import Breeder
from secateur.search.samplers.sampler import shifted
from secateur.space.budget import Budget, Limit
from secateur.space.costs.cost import Cost
from secateur.space.grid import Grid, at
from secateur.space.space import Space

SPACE = Space(Architecture((3,) * 4, (160,) * 4), 32)
COST = Cost(
    "units",
    7,
    {
        slot: {w: w * (40 if slot[1] == "attention" else 3) for w in SPACE.widths(*slot)}
        for slot in SPACE.slots
    },
)
GRID = Grid(SPACE)
VALUES = GRID.values(
    {
        slot: {w: (1 + index) * (1 - w / SPACE.dense.width(*slot)) ** 1.5 for w in SPACE.widths(*slot)}
        for index, slot in enumerate(SPACE.slots)
    }
)
EVERYTHING = np.ones(VALUES.shape, dtype=bool)


def budget(keep: float) -> Budget:
    return Budget((Limit("params", COST, int(keep * COST.of(SPACE.dense))),))


def breeder(limit: Budget, allowed: np.ndarray = EVERYTHING) -> Breeder:
    return Breeder(GRID, VALUES, GRID.costs(limit), allowed)


def parents(seed: int, count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return GRID.encode([shifted(SPACE, rng.random(8).tolist(), 0.0) for _ in range(count)])


@settings(max_examples=40, deadline=None)
@given(keep=st.floats(0.05, 1.0), seed=st.integers(0, 2**16))
def test_fit_and_spend_the_budget(keep: float, seed: int) -> None:
    limit = budget(keep)
    children = GRID.decode(breeder(limit).breed(parents(seed), 40, np.random.default_rng(seed)))
    assert len(children) == 40
    for child in children:
        assert SPACE.contains(child) and limit.fits(child)
        for slot in SPACE.slots:
            wider = [width for width in SPACE.widths(*slot) if width > child.width(*slot)]
            assert not any(limit.fits(child.with_width(*slot, width)) for width in wider)


@settings(max_examples=20, deadline=None)
@given(keep=st.floats(0.05, 1.0), seed=st.integers(0, 2**16))
def test_fitted_parents_too(keep: float, seed: int) -> None:
    limit = budget(keep)
    fitted = GRID.decode(breeder(limit).fit(parents(seed)))
    assert len(fitted) == 3 and all(limit.fits(item) for item in fitted)


def test_keep_most_of_the_parent_up_to_their_first_change() -> None:
    """What is shared is not evaluated again: the deeper of two depths is at two thirds on average."""
    limit = budget(0.6)
    maker = breeder(limit)
    parent = maker.fit(parents(0, 1))
    children = maker.breed(parent, 400, np.random.default_rng(0))
    changed = children != parent[0]
    first = np.where(changed.any(1), changed.argmax(1), changed.shape[1])
    assert first.mean() > 0.5 * changed.shape[1]


def test_two_limits_hold_at_once() -> None:
    """Parameters, and attention alone."""
    limit = budget(0.7)
    attention = np.where(GRID.is_attention_S[:, None], GRID.widths_SW, 0) / (0.5 * 12)
    costs = np.concatenate([GRID.costs(limit), attention[None]])
    maker = Breeder(GRID, VALUES, costs, EVERYTHING)
    children = maker.breed(parents(1), 60, np.random.default_rng(1))
    assert len(children)
    assert all(at(rows, children).sum(1).max() <= 1 + 1e-9 for rows in costs)


def test_only_to_allowed_widths() -> None:
    """A width that is given up comes from parents alone, or where nothing else is left to narrow."""
    allowed = EVERYTHING.copy()
    allowed[1, 1:3] = False
    start = GRID.encode([SPACE.dense])
    children = breeder(budget(0.8), allowed).breed(start, 200, np.random.default_rng(2))
    assert not np.isin(children[:, 1], [1, 2]).any()


def test_same_seed_same_children() -> None:
    maker = breeder(budget(0.5))
    first, again, other = (maker.breed(parents(0), 50, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
