"""Few layer shapes: any architecture is brought to as few as asked for, inside the space and the budget.

Proven (property), over random candidates, constraints, budgets of one or two limits; and that nothing is
lost where a candidate has few enough.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.model.architecture import Architecture
from secateur.space.budget import Budget, Limit
from secateur.space.costs.cost import Cost
from secateur.space.shapes import consolidate
from secateur.space.space import Space, shapes_of

DENSE = Architecture((3,) * 5, (160,) * 5)


def cost_of(space: Space, attention: int, ffn: int) -> Cost:
    each = {"attention": attention, "ffn": ffn}
    return Cost(
        "units", 3, {slot: {w: w * each[slot[1]] for w in space.widths(*slot)} for slot in space.slots}
    )


def values_of(space: Space) -> dict:
    return {
        slot: {w: (1 + n) * (1 - w / space.dense.width(*slot)) ** 1.5 for w in space.widths(*slot)}
        for n, slot in enumerate(space.slots)
    }


@st.composite
def cases(draw: st.DrawFn, stock: bool = False) -> tuple[Space, Budget, Architecture]:
    protected = draw(st.frozensets(st.integers(0, 4), max_size=2))
    limits_shapes: dict = (
        {"stock_groups": draw(st.sampled_from([frozenset({1, 3}), frozenset({3}), frozenset({1, 2, 3})]))}
        if stock
        else {"max_shapes": draw(st.integers(1, 4))}
    )
    space = Space(DENSE, 32, protected=protected, **limits_shapes)
    limits = []
    for kind, cost in (("params", cost_of(space, 40, 3)), ("kv", cost_of(space, 7, 0))):
        least = min(cost.of(item) for item in space.narrowest)
        limits.append(Limit(kind, cost, draw(st.integers(least, cost.of(DENSE)))))
    budget = Budget(tuple(limits[: draw(st.integers(1, 2))]))
    widths = [draw(st.sampled_from(space.widths(*slot))) for slot in space.slots]
    return space, budget, Architecture(tuple(widths[0::2]), tuple(widths[1::2]))


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_few_shapes_within_space_and_budget(case: tuple[Space, Budget, Architecture]) -> None:
    space, budget, candidate = case
    if not any(budget.fits(item) for item in space.narrowest):
        return  # refused by `budget_of`
    found = consolidate(space, budget, values_of(space), candidate)
    assert space.contains(found) and budget.fits(found)
    for groups, channels in shapes_of(found):  # whole classes were widened as far as they go
        own = [n for n in range(5) if (found.groups[n], found.channels[n]) == (groups, channels)]
        wider = set.intersection(*(set(space.widths(n, "ffn")) for n in own))
        for width in (w for w in wider if w > channels):
            grown = found
            for layer in own:
                grown = grown.with_width(layer, "ffn", width)
            assert not budget.fits(grown)


def test_few_enough_is_left_alone() -> None:
    space = Space(DENSE, 32, max_shapes=2)
    candidate = Architecture((3, 2, 2, 3, 3), (160, 64, 64, 160, 160))
    cost = cost_of(space, 40, 3)
    budget = Budget((Limit("params", cost, cost.of(candidate)),))
    assert consolidate(space, budget, values_of(space), candidate) == candidate


def test_those_that_are_alike_are_merged() -> None:
    """The first three layers matter, the others hardly, and the candidate is cut accordingly."""
    space = Space(DENSE, 32, max_shapes=2)
    candidate = Architecture((3, 3, 3, 1, 1), (160, 160, 128, 32, 64))
    cost = cost_of(space, 40, 3)
    budget = Budget((Limit("params", cost, cost.of(candidate)),))
    values = {
        (layer, kind): {
            w: (0.1 if layer > 2 else 10.0) * (1 - w / DENSE.width(layer, kind)) ** 2
            for w in space.widths(layer, kind)
        }
        for layer, kind in space.slots
    }
    found = consolidate(space, budget, values, candidate)
    shape = list(zip(found.groups, found.channels, strict=True))
    assert shape[0] == shape[1] == shape[2] > shape[3] == shape[4]


@settings(max_examples=150, deadline=None)
@given(case=cases(stock=True))
def test_one_shape_and_layers_removed_whole(case: tuple[Space, Budget, Architecture]) -> None:
    space, budget, candidate = case
    assert space.contains(DENSE)
    assert all(space.contains(item) for item in space.narrowest)
    if not any(budget.fits(item) for item in space.narrowest):
        return  # refused by `budget_of`
    values = values_of(space)
    found = consolidate(space, budget, values, candidate)
    assert space.contains(found) and budget.fits(found)
    ((_, channels),) = shapes_of(found) - {(0, 0)}
    kept = [n for n in range(5) if found.groups[n]]
    assert all(found.channels[n] == (channels if n in kept else 0) for n in range(5))
    wider = set.intersection(*(set(space.widths(n, "ffn")) for n in kept))
    for width in (w for w in wider if w > channels):  # the shape of the others is as wide as fits
        assert not budget.fits(Architecture(found.groups, tuple(width if n in kept else 0 for n in range(5))))


def test_the_layers_that_a_candidate_keeps_least_of_are_removed() -> None:
    """Where cutting any width costs as much as removing all of it."""
    space = Space(DENSE, 32, stock_groups=frozenset({3}))
    cost = cost_of(space, 40, 3)
    budget = Budget((Limit("params", cost, int(0.85 * cost.of(DENSE))),))
    values = {
        slot: {w: float(w < space.dense.width(*slot)) for w in space.widths(*slot)} for slot in space.slots
    }
    for layer in (1, 2, 4):
        channels = tuple(64 if n == layer else 160 for n in range(5))
        found = consolidate(space, budget, values, Architecture((3,) * 5, channels))
        assert [n for n in range(5) if not found.groups[n]] == [layer]
        assert shapes_of(found) == {(0, 0), (3, 160)}
