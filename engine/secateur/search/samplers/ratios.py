"""The space of arXiv 2309.09507: a pruning ratio for attention and FFN of every layer but those at the ends.

The ends are the paper's (3 and 2 of 32 layers), an eighth of the depth where there are fewer.

Shape suffixes: N architectures, S prunable sub-blocks (slots), T tenths (0 to 10).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from secateur.model.architecture import Architecture, Slot
from secateur.space.budget import Budget, Limit
from secateur.space.space import Space

TENTHS = 10
INITIAL_TENTHS = (1, 5)  # tenths pruned: 0.1 to 0.5
IMPORTANT_TENTHS = (1, 3)  # where the narrowed space prunes little
UNIMPORTANT_TENTHS = (2, 7)  # and where it may prune more
GROUP = 4  # neighbouring layers that share a ratio
KEPT_FIRST, KEPT_LAST = 3, 2  # layers that are not pruned at either end
_SHARE = 8  # at most one in so many layers is kept at an end


@dataclass(frozen=True, eq=False)
class RatioSpace:
    """Ranges of tenths pruned, per prunable sub-block.

    Attributes:
        low_S, high_S: tenths, inclusive.
        widths_ST: the nearest allowed width to every number of tenths pruned.
    """

    space: Space
    slots: tuple[Slot, ...]
    low_S: np.ndarray
    high_S: np.ndarray
    widths_ST: np.ndarray = field(repr=False)

    @classmethod
    def whole(cls, space: Space) -> RatioSpace:
        """Every ratio from 0.1 to 0.5 everywhere but in the end layers."""
        layers = space.dense.num_layers
        first, last = min(KEPT_FIRST, layers // _SHARE), min(KEPT_LAST, layers // _SHARE)
        slots = tuple(slot for slot in space.slots if first <= slot[0] < layers - last)
        low_S, high_S = (np.full(len(slots), tenths) for tenths in INITIAL_TENTHS)
        return cls(space, slots, low_S, high_S, np.array([_nearest(space, slot) for slot in slots]))

    @property
    def layers(self) -> range:
        """The layers that are pruned."""
        return range(self.slots[0][0], self.slots[-1][0] + 1)

    def narrowed(self, importance_S: np.ndarray) -> RatioSpace:
        """The most important third is pruned less, the least important third may be pruned more."""
        order = np.argsort(importance_S, kind="stable")
        third = len(order) // 3
        low_S, high_S = self.low_S.copy(), self.high_S.copy()
        for members, (low, high) in (
            (order[len(order) - third :], IMPORTANT_TENTHS),
            (order[:third], UNIMPORTANT_TENTHS),
        ):
            low_S[members], high_S[members] = low, high
        return replace(self, low_S=low_S, high_S=high_S)

    def draw(self, rng: np.random.Generator, count: int, *, grouped: bool = False) -> np.ndarray:
        """Random tenths pruned [N, S]; with `grouped`, groups of neighbouring layers share theirs."""
        tenths_NS = rng.integers(self.low_S, self.high_S + 1, size=(count, len(self.slots)))
        return tenths_NS[:, self._leaders()] if grouped else tenths_NS

    def fitted(self, tenths_NS: np.ndarray, budget: Budget, rng: np.random.Generator) -> np.ndarray:
        """Tenths moved by random steps to the edge of the budget; fewer rows where some cannot meet it.

        Steps stay in the ranges, and leave them only where the budget cannot be met, or not be used, inside.
        """
        tenths_NS, costs_ST = tenths_NS.copy(), self._costs(budget)
        slots_S = np.arange(len(self.slots))
        slack_N = _single_limit(budget).max_value - self._fixed(budget) - costs_ST[slots_S, tenths_NS].sum(1)
        wide = np.zeros_like(self.low_S), np.full_like(self.high_S, TENTHS)
        for low_S, high_S in ((self.low_S, self.high_S), wide):
            stuck_N = (slack_N < 0) | (tenths_NS == self.low_S).all(1)
            moving_N = stuck_N if low_S is wide[0] else np.ones(len(tenths_NS), dtype=bool)
            visits_NV = np.tile(np.repeat(slots_S, TENTHS), (len(tenths_NS), 1))
            for slot_N in rng.permuted(visits_NV, axis=1).T:
                _step(tenths_NS, slack_N, slot_N, moving_N, costs_ST, low_S, high_S)
        return tenths_NS[slack_N >= 0]

    def kept(self, tenths_NS: np.ndarray) -> np.ndarray:
        """Kept fractions [N, S] of the nearest allowed widths."""
        widths_NS = self.widths_ST[np.arange(len(self.slots)), tenths_NS]
        return widths_NS / np.maximum(self.widths_ST[:, 0], 1)

    def architecture(self, tenths_S: np.ndarray) -> Architecture:
        """The nearest allowed widths; sub-blocks at the ends are whole."""
        dense = self.space.dense
        chosen = zip(self.slots, self.widths_ST[np.arange(len(self.slots)), tenths_S].tolist(), strict=True)
        widths = {slot: dense.width(*slot) for slot in self.space.slots} | dict(chosen)
        return Architecture.of_widths(widths)

    def _leaders(self) -> np.ndarray:
        """For every slot the slot of the same kind that its group takes the ratio of, [S]."""
        first: dict[tuple[int, str], int] = {}
        start = self.slots[0][0]
        return np.array(
            [
                first.setdefault(((layer - start) // GROUP, kind), index)
                for index, (layer, kind) in enumerate(self.slots)
            ]
        )

    def _costs(self, budget: Budget) -> np.ndarray:
        """Cost [S, T] of every number of tenths pruned."""
        cost, rows = _single_limit(budget).cost, zip(self.slots, self.widths_ST.tolist(), strict=True)
        return np.array([[cost.block(slot, width) for width in row] for slot, row in rows])

    def _fixed(self, budget: Budget) -> int:
        """Cost of everything that is not prunable here."""
        dense, cost = self.space.dense, _single_limit(budget).cost
        prunable = sum(cost.block(slot, dense.width(*slot)) for slot in self.slots)
        return cost.of(dense) - prunable


def _nearest(space: Space, slot: Slot) -> list[int]:
    """The nearest allowed width to each number of tenths pruned, the narrower of two as near; 0 is dense."""
    full, allowed = space.dense.width(*slot), np.array(space.widths(*slot))
    wanted_T = full * (TENTHS - np.arange(TENTHS + 1)) / TENTHS
    widths: list[int] = allowed[np.abs(allowed - wanted_T[:, None]).argmin(1)].tolist()
    return widths


def _step(
    tenths_NS: np.ndarray,
    slack_N: np.ndarray,
    slot_N: np.ndarray,
    moving_N: np.ndarray,
    costs_ST: np.ndarray,
    low_S: np.ndarray,
    high_S: np.ndarray,
) -> None:
    """Move one slot of every row by a tenth towards the edge of the budget, in place."""
    rows = np.arange(len(tenths_NS))
    here_N = tenths_NS[rows, slot_N]
    there_N = np.clip(here_N + np.where(slack_N < 0, 1, -1), 0, TENTHS)
    saved_N = costs_ST[slot_N, here_N] - costs_ST[slot_N, there_N]
    inside_N = (low_S[slot_N] <= there_N) & (there_N <= high_S[slot_N])
    moves_N = moving_N & inside_N & ((slack_N < 0) | (slack_N + saved_N >= 0))
    tenths_NS[rows, slot_N] = np.where(moves_N, there_N, here_N)
    slack_N += np.where(moves_N, saved_N, 0)


def _single_limit(budget: Budget) -> Limit:
    """The limit of a budget that has one; the options of a search let no other through."""
    (limit,) = budget.limits
    return limit
