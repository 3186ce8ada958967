"""Onto the budget: from a point of the unit cube to the architecture near it that spends the budget."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from secateur.model.architecture import Architecture
from secateur.space.budget import Budget
from secateur.space.space import Space

_HALVINGS = 40


def project(space: Space, budget: Budget, fractions: Sequence[float]) -> Architecture:
    """The architecture of some kept fractions, all raised or lowered alike until the budget is just met.

    Args:
        fractions: kept fraction of every sub-block, in the order of `space.slots`, each in [0, 1].
    """
    low, high = -1.0, 1.0
    if budget.fits(shifted(space, fractions, high)):
        return shifted(space, fractions, high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if budget.fits(shifted(space, fractions, middle)):
            low = middle
        else:
            high = middle
    return shifted(space, fractions, low)


def shifted(space: Space, fractions: Sequence[float], by: float) -> Architecture:
    """Every fraction moved by the same amount, then down to an allowed width."""
    widths = {}
    for slot, fraction in zip(space.slots, fractions, strict=True):
        allowed = space.widths(*slot)
        target_width = (fraction + by) * space.dense.width(*slot) + 1e-6
        widths[slot] = allowed[max(0, bisect_right(allowed, target_width) - 1)]
    return Architecture.of_widths(widths)
