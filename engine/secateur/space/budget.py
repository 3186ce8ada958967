"""Budgets: what the slim model must fit, as limits on costs that add up over sub-blocks.

Every cost model (`costs`) answers one question, what a sub-block of some width costs; the rest of the
search never asks what is being counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from secateur.config.prune import BUDGET_KINDS, LATENCY
from secateur.errors import BadInput, InfeasibleBudget
from secateur.model.architecture import Architecture, Slot
from secateur.model.decoder import DecoderModel
from secateur.space.costs.cost import Cost
from secateur.space.costs.latency import LatencyTable
from secateur.space.costs.parameters import kv_cache_cost, memory_cost, parameter_cost, total_cost
from secateur.space.space import Space

COSTS: dict[str, Callable[[DecoderModel, Space], Cost]] = {
    "params": parameter_cost,
    "total": total_cost,
    "memory": memory_cost,
    "kv": kv_cache_cost,
}


@dataclass(frozen=True)
class Limit:
    """A cost that may not be exceeded.

    Attributes:
        kind: one of `BUDGET_KINDS`.
        max_value: in units of the cost.
    """

    kind: str
    cost: Cost
    max_value: int

    def fits(self, candidate: Architecture) -> bool:
        return self.cost.of(candidate) <= self.max_value

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "limit": self.max_value, "unit": self.cost.unit}

    def counts(self, slot: Slot) -> bool:
        """Whether the sub-block costs anything."""
        return max(self.cost.table[slot].values()) > 0


@dataclass(frozen=True)
class Budget:
    """One or more limits, all of which hold for a candidate within the budget."""

    limits: tuple[Limit, ...]

    def fits(self, candidate: Architecture) -> bool:
        return all(limit.fits(candidate) for limit in self.limits)

    def slack(self, candidate: Architecture) -> tuple[int, ...]:
        """What each limit leaves; negative where the candidate is over it."""
        return tuple(limit.max_value - limit.cost.of(candidate) for limit in self.limits)

    def added_cost(self, slot: Slot, width: int, other: int) -> tuple[int, ...]:
        """What another width of a sub-block costs more, by each limit."""
        return tuple(limit.cost.block(slot, other) - limit.cost.block(slot, width) for limit in self.limits)

    def prices(self, room: tuple[int, ...]) -> tuple[float, ...]:
        """What a unit of each cost is worth beside the others, when so much of each is at stake.

        A limit alone has nothing to be weighed against: its unit is 1.
        """
        if len(self.limits) == 1:
            return (1,)
        return tuple(1.0 / max(abs(amount), 1) for amount in room)


@dataclass(frozen=True)
class Goal:
    """What an architecture has to fit to be of use.

    Attributes:
        name: short and unique in a study, such as ``0.8``.
    """

    name: str
    budget: Budget

    def to_json(self) -> dict[str, Any]:
        """As plain values; what a study notes of it."""
        return {"name": self.name, "limits": [limit.to_json() for limit in self.budget.limits]}


def budget_of(
    model: DecoderModel,
    space: Space,
    keep: Mapping[str, float],
    latency_table: LatencyTable | None = None,
    field: str = "budget",
) -> Budget:
    """The budget of keeping fractions of the dense model.

    Args:
        keep: fraction of the dense model's cost by kind, each in (0, 1].
        latency_table: for a limit on ``latency``.
        field: what to call an infeasible budget; `keep` names the fraction alone.

    Raises:
        BadInput: no limit, an unknown kind, a fraction that is none, no table for a latency.
        InfeasibleBudget: even the smallest architectures of the space are over it.
    """
    if not keep:
        raise BadInput("budget", "nothing", f"at least one of {', '.join(BUDGET_KINDS)}")
    limits = []
    for kind, fraction in keep.items():
        if kind not in BUDGET_KINDS:
            raise BadInput("budget", kind, f"allowed are {', '.join(BUDGET_KINDS)}")
        if not 0.0 < fraction <= 1.0:
            raise BadInput(field, f"{kind}={fraction:g}", "allowed is a fraction over 0 and up to 1")
        cost = _cost(model, space, kind, latency_table)
        limits.append(Limit(kind, cost, int(fraction * cost.of(space.dense))))
    budget = Budget(tuple(limits))
    if not any(budget.fits(candidate) for candidate in space.narrowest):
        raise _infeasible(field, space, budget, keep)
    return budget


def _infeasible(field: str, space: Space, budget: Budget, keep: Mapping[str, float]) -> InfeasibleBudget:
    """Says the smallest fraction that each limit could be given, if it were alone."""
    limits_named = field == "budget"
    parts, alone = [], True
    for limit in budget.limits:
        smallest = min(limit.cost.of(candidate) for candidate in space.narrowest)
        dense = limit.cost.of(space.dense)
        smallest_fraction = (
            f"{math.ceil(smallest / dense * 10_000) / 10_000:.4f}"  # rounded up, so that it works
        )
        faster = f", a speed-up of {dense / smallest:.2f}" if limit.kind == LATENCY else ""
        kind = f"{limit.kind}=" if limits_named else ""
        parts.append(f"{kind}{smallest_fraction} ({smallest} {limit.cost.unit}{faster})")
        alone = alone and smallest <= limit.max_value
    requested_budget = ",".join(
        f"{kind}={part:g}" if limits_named else f"{part:g}" for kind, part in keep.items()
    )
    together = ", but not together" if alone else ""
    return InfeasibleBudget(field, requested_budget, f"the smallest feasible is {', '.join(parts)}{together}")


def _cost(model: DecoderModel, space: Space, kind: str, latency_table: LatencyTable | None) -> Cost:
    if kind != LATENCY:
        return COSTS[kind](model, space)
    if latency_table is None:
        raise BadInput("budget", LATENCY, "needs a table of measured latencies")
    return latency_table.cost(space)
