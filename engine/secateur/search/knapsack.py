"""The additive optimum: widths that minimise a sum of table entries within a budget.

Lagrangian relaxation (each sub-block alone minimises value + price * cost), then the slack that
discreteness leaves is spent greedily. Exact up to one move per sub-block; the table is not exact
either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from secateur.search.architecture import Architecture
from secateur.search.budget import Budget
from secateur.search.space import Slot, Space

Values = Mapping[Slot, Mapping[int, float]]


def solve(space: Space, budget: Budget, values: Values) -> Architecture:
    """The architecture of least total value found within the budget."""
    low, high = 0.0, _ceiling(budget, values)
    for _ in range(80):
        price = (low + high) / 2
        if budget.admits(_pick(space, budget, values, price)):
            high = price
        else:
            low = price
    return spend_slack(space, budget, values, _pick(space, budget, values, high))


def spend_slack(
    space: Space,
    budget: Budget,
    values: Values,
    start: Architecture,
    slots: Sequence[Slot] | None = None,
) -> Architecture:
    """Widen sub-blocks (all, or those given) while something fits, best gain per cost first."""
    current, slack = start, budget.limit - budget.cost.of(start)
    while True:
        best: tuple[float, Slot, int, int] | None = None
        for slot in space.slots if slots is None else slots:
            width = current.width(*slot)
            for wider in space.widths(*slot):
                extra = budget.cost.block(slot, wider) - budget.cost.block(slot, width)
                gain = values[slot][width] - values[slot][wider]
                if wider > width and 0 < extra <= slack and (best is None or gain / extra > best[0]):
                    best = (gain / extra, slot, wider, extra)
        if best is None:
            return current
        _, slot, wider, extra = best
        current, slack = current.with_width(*slot, wider), slack - extra


def _ceiling(budget: Budget, values: Values) -> float:
    """A price at which no step to a wider sub-block is worth it."""
    worst = max(max(row.values()) for row in values.values())
    steps = (b - a for row in budget.cost.table.values() for a, b in pairwise(sorted(row.values())) if b > a)
    return 2.0 * (worst + 1e-9) / min(steps)


def _pick(space: Space, budget: Budget, values: Values, price: float) -> Architecture:
    widths = {slot: _cheapest(space, budget, values, slot, price) for slot in space.slots}
    layers = range(space.dense.num_layers)
    return Architecture(
        tuple(widths[layer, "attention"] for layer in layers), tuple(widths[layer, "ffn"] for layer in layers)
    )


def _cheapest(space: Space, budget: Budget, values: Values, slot: Slot, price: float) -> int:
    """The width of one sub-block with the least value + price * cost, the narrowest of equals."""
    priced = [(values[slot][w] + price * budget.cost.block(slot, w), w) for w in space.widths(*slot)]
    return min(priced)[1]
