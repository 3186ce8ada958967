"""The additive optimum: widths that minimise a sum of table entries within a budget.

Lagrangian relaxation (each sub-block alone minimises value + price * cost), then the slack that
discreteness leaves is spent greedily. Exact up to one move per sub-block; the table is not exact
either. Several limits have a price each: one common price times shares, which move towards the limits
that bind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from secateur.model.architecture import Architecture, Slot
from secateur.space.budget import Budget
from secateur.space.space import Space

Values = Mapping[Slot, Mapping[int, float]]
_Costs = Mapping[Slot, Mapping[int, float]]
_Step = tuple[float, int, tuple[int, ...]]

_ROUNDS = 16  # of moving the shares; costs of a language model's sub-blocks are much alike
_STEP = 8.0


def solve(space: Space, budget: Budget, values: Values) -> Architecture:
    """The architecture of least total value found within the budget."""
    solutions = [spend_slack(space, budget, values, pick) for pick in _relaxed_optima(space, budget, values)]
    return min(solutions, key=lambda candidate: _total(candidate, values))


def _relaxed_optima(space: Space, budget: Budget, values: Values) -> Iterator[Architecture]:
    """What the relaxation says: of one limit alone where the others hold too, else for several shares."""
    for limit in budget.limits:
        pick = _bisect(space, Budget((limit,)), values, limit.cost.table)
        if budget.fits(pick):
            yield pick
            return
    room = [max(limit.max_value - limit.cost.fixed, 1) for limit in budget.limits]
    shares = [1.0 / len(room)] * len(room)
    for number in range(_ROUNDS):
        pick = _bisect(
            space, budget, values, _mixed(space, budget, [s / r for s, r in zip(shares, room, strict=True)])
        )
        yield pick
        used_fractions = [1.0 - slack / of for slack, of in zip(budget.slack(pick), room, strict=True)]
        scaled = [
            s * math.exp(_STEP * (t - 1.0) / math.sqrt(number + 1))
            for s, t in zip(shares, used_fractions, strict=True)
        ]
        shares = [value / sum(scaled) for value in scaled]


def _mixed(space: Space, budget: Budget, prices: Sequence[float]) -> _Costs:
    return {
        slot: {
            width: sum(
                p * limit.cost.block(slot, width) for p, limit in zip(prices, budget.limits, strict=True)
            )
            for width in space.widths(*slot)
        }
        for slot in space.slots
    }


def _bisect(space: Space, budget: Budget, values: Values, costs: _Costs) -> Architecture:
    """The pick at the lowest price found at which the budget holds."""
    low, high = 0.0, _ceiling(costs, values)
    for _ in range(80):
        price = (low + high) / 2
        if budget.fits(_pick(space, costs, values, price)):
            high = price
        else:
            low = price
    return _pick(space, costs, values, high)


def spend_slack(
    space: Space,
    budget: Budget,
    values: Values,
    start: Architecture,
    slots: Sequence[Slot] | None = None,
) -> Architecture:
    """Widen sub-blocks (all, or those given) while something fits, best gain per cost first.

    With several limits a unit of each costs the more, the less of it `start` leaves.
    """
    current, slack = start, budget.slack(start)
    prices = budget.prices(slack)
    steps = {
        slot: _wider(space, budget, values, prices, slot, current.width(*slot))
        for slot in (space.slots if slots is None else slots)
    }
    while True:
        best: tuple[float, Slot, int, tuple[int, ...]] | None = None
        for slot, row in steps.items():
            for rate, wider, extra in row:
                if (best is None or rate > best[0]) and all(
                    e <= s for e, s in zip(extra, slack, strict=True)
                ):
                    best = (rate, slot, wider, extra)
        if best is None:
            return current
        _, slot, wider, extra = best
        current = current.with_width(*slot, wider)
        slack = tuple(s - e for s, e in zip(slack, extra, strict=True))
        steps[slot] = _wider(space, budget, values, prices, slot, wider)


def _wider(
    space: Space, budget: Budget, values: Values, prices: Sequence[float], slot: Slot, width: int
) -> list[_Step]:
    """Steps to every wider width: gain per cost, the width, its extra cost by limit."""
    row = values[slot]
    steps = []
    for wider in space.widths(*slot):
        if wider > width:
            extra = budget.added_cost(slot, width, wider)
            steps.append((_rate(row[width] - row[wider], _weighed(extra, prices)), wider, extra))
    return steps


def _rate(gain: float, cost: float) -> float:
    return gain / cost if cost else math.copysign(math.inf, gain)  # some limits do not count some sub-blocks


def _weighed(amounts: Sequence[int], prices: Sequence[float]) -> float:
    return sum(amount * price for amount, price in zip(amounts, prices, strict=True))


def _total(candidate: Architecture, values: Values) -> float:
    return sum(row[candidate.width(*slot)] for slot, row in values.items())


def _ceiling(costs: _Costs, values: Values) -> float:
    """A price at which no step to a wider sub-block is worth it."""
    worst = max(max(row.values()) for row in values.values())
    steps = (b - a for row in costs.values() for a, b in pairwise(sorted(row.values())) if b > a)
    return 2.0 * (worst + 1e-9) / min(steps, default=1.0)


def _pick(space: Space, costs: _Costs, values: Values, price: float) -> Architecture:
    widths = {slot: _cheapest(space, costs[slot], values[slot], slot, price) for slot in space.slots}
    return Architecture.of_widths(widths)


def _cheapest(
    space: Space, costs: Mapping[int, float], values: Mapping[int, float], slot: Slot, price: float
) -> int:
    """The width of one sub-block with the least value + price * cost, the narrowest of equals."""
    return min((values[w] + price * costs[w], w) for w in space.widths(*slot))[1]
