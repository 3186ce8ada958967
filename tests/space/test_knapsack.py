"""The additive pick: always within the budget, and near the optimum that brute force finds.

Proven (property, small spaces): where a Lagrange price hits the budget exactly the pick *is* the
optimum; elsewhere it is within one sub-block's largest move of it; slack is spent.
"""

from __future__ import annotations

from itertools import accumulate, product

from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.model.architecture import Architecture
from secateur.space.budget import Budget, Limit
from secateur.space.costs.cost import Cost
from secateur.space.knapsack import Values, _pick, solve, spend_slack
from secateur.space.space import Space

SPACE = Space(Architecture((2, 2), (6, 6)), 2)


def every_architecture() -> list[Architecture]:
    widths = [SPACE.widths(*slot) for slot in SPACE.slots]
    return [Architecture((a, c), (b, d)) for a, b, c, d in product(*widths)]


EVERY = every_architecture()


@st.composite
def problems(draw: st.DrawFn) -> tuple[Cost, Values]:
    """Random costs that rise, and values that fall, with the width."""
    table, values = {}, {}
    for slot in SPACE.slots:
        widths = SPACE.widths(*slot)
        steps = draw(st.lists(st.integers(1, 50), min_size=len(widths), max_size=len(widths)))
        drops = draw(st.lists(st.floats(1e-3, 10.0), min_size=len(widths), max_size=len(widths)))
        table[slot] = {width: sum(steps[: i + 1]) for i, width in enumerate(widths)}
        if 0 in table[slot]:
            table[slot][0] = 0
        values[slot] = {width: sum(drops[i:-1]) for i, width in enumerate(widths)}
    return Cost("units", 5, table), values


def value_of(candidate: Architecture, values: Values) -> float:
    return sum(row[candidate.width(*slot)] for slot, row in values.items())


def brute_force(budget: Budget, values: Values) -> float:
    return min(value_of(candidate, values) for candidate in EVERY if budget.fits(candidate))


def limits(cost: Cost) -> st.SearchStrategy[int]:
    return st.integers(min(map(cost.of, EVERY)), cost.of(SPACE.dense))


def test_when_only_the_narrowest_fits() -> None:
    """A sub-block that cannot go, and whose second unit costs next to nothing."""
    table = {slot: {w: 3 * w for w in SPACE.widths(*slot)} for slot in SPACE.slots}
    table[0, "attention"] = {1: 17, 2: 18}
    values = {slot: {w: 6.0 - w for w in SPACE.widths(*slot)} for slot in SPACE.slots}
    budget = Budget((Limit("params", Cost("units", 5, table), 22),))
    assert solve(SPACE, budget, values) == Architecture((1, 0), (0, 0))


@settings(max_examples=120, deadline=None)
@given(problem=problems(), data=st.data())
def test_within_the_budget_and_near_the_optimum(problem: tuple[Cost, Values], data: st.DataObject) -> None:
    cost, values = problem
    budget = Budget((Limit("params", cost, data.draw(limits(cost))),))
    found = solve(SPACE, budget, values)
    assert SPACE.contains(found) and budget.fits(found)
    largest_move = max(max(row.values()) - min(row.values()) for row in values.values())
    assert value_of(found, values) <= brute_force(budget, values) + largest_move + 1e-9


@settings(max_examples=80, deadline=None)
@given(problem=problems(), price=st.floats(1e-4, 5.0))
def test_optimal_where_a_price_hits_the_budget(problem: tuple[Cost, Values], price: float) -> None:
    cost, values = problem
    target = _pick(SPACE, cost.table, values, price)
    budget = Budget((Limit("params", cost, cost.of(target)),))
    best = brute_force(budget, values)
    assert abs(value_of(target, values) - best) < 1e-9
    assert value_of(solve(SPACE, budget, values), values) <= best + 1e-6


@settings(max_examples=60, deadline=None)
@given(problem=problems(), data=st.data())
def test_slack_is_spent(problem: tuple[Cost, Values], data: st.DataObject) -> None:
    """Nothing more fits: every wider sub-block would be over the limit."""
    cost, values = problem
    budget = Budget((Limit("params", cost, data.draw(limits(cost))),))
    start = min(EVERY, key=cost.of)
    found = spend_slack(SPACE, budget, values, start)
    for slot in SPACE.slots:
        wider = [width for width in SPACE.widths(*slot) if width > found.width(*slot)]
        assert not any(budget.fits(found.with_width(*slot, width)) for width in wider)


def test_the_whole_budget_keeps_everything() -> None:
    cost = Cost("units", 0, {slot: {w: w for w in SPACE.widths(*slot)} for slot in SPACE.slots})
    values = {slot: {w: 10.0 - w for w in SPACE.widths(*slot)} for slot in SPACE.slots}
    assert solve(SPACE, Budget((Limit("params", cost, 16),)), values) == SPACE.dense


def test_flat_values_still_give_a_fit() -> None:
    cost = Cost("units", 0, {slot: {w: w for w in SPACE.widths(*slot)} for slot in SPACE.slots})
    values = {slot: dict.fromkeys(SPACE.widths(*slot), 0.0) for slot in SPACE.slots}
    assert Budget((Limit("params", cost, 7),)).fits(solve(SPACE, Budget((Limit("params", cost, 7),)), values))


@st.composite
def several_limits(draw: st.DrawFn) -> tuple[Budget, Values]:
    """Two costs, of which the second may not count some sub-blocks at all; something fits both."""
    first, values = draw(problems())
    second = Cost(
        "others",
        1,
        {slot: {w: w * draw(st.integers(0, 3)) for w in [*row]} for slot, row in first.table.items()},
    )
    rising = {
        slot: dict(zip(row, accumulate(row.values(), max), strict=True)) for slot, row in second.table.items()
    }
    second = Cost("others", 1, rising)
    budget = Budget(
        tuple(Limit(kind, cost, draw(limits(cost))) for kind, cost in (("params", first), ("kv", second)))
    )
    return budget, values


@settings(max_examples=150, deadline=None)
@given(problem=several_limits())
def test_several_limits_hold_near_the_optimum(problem: tuple[Budget, Values]) -> None:
    budget, values = problem
    found = solve(SPACE, budget, values)
    assert SPACE.contains(found) and budget.fits(found)
    largest_moves = sorted(max(row.values()) - min(row.values()) for row in values.values())[-2:]
    assert value_of(found, values) <= brute_force(budget, values) + sum(largest_moves) + 1e-9
    for slot in SPACE.slots:
        wider = [width for width in SPACE.widths(*slot) if width > found.width(*slot)]
        assert not any(budget.fits(found.with_width(*slot, width)) for width in wider)


@settings(max_examples=60, deadline=None)
@given(problem=problems(), data=st.data())
def test_a_limit_that_does_not_bind_changes_nothing(
    problem: tuple[Cost, Values], data: st.DataObject
) -> None:
    cost, values = problem
    limit = Limit("params", cost, data.draw(limits(cost)))
    alone = solve(SPACE, Budget((limit,)), values)
    loose = Limit("kv", cost, cost.of(SPACE.dense))
    beside = solve(SPACE, Budget((limit, loose)), values)
    assert abs(value_of(beside, values) - value_of(alone, values)) < 1e-9
