"""The additive table: what cutting a single sub-block costs in KL, for every width.

One width of each sub-block is measured. The others are in proportion to the least-squares error that repair
leaves, which the block library knows for every width for free: KL is close to linear in it. Sums of the table
are a prior for whole architectures, not an answer: errors do not quite add up. Measuring two or three widths
instead took 2.5 times as long and gained less than seeds differ by (docs/search.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.calibrate.block_library import BlockLibrary
from secateur.model.architecture import Architecture, Slot
from secateur.space.space import Space

# What is measured: deep enough to stand out from noise, and near what budgets lead to.
MEASURED_SHARE = {"attention": 0.7, "ffn": 0.5}
_FLOOR = 1e-7
_MIN_ERROR = 1e-12


@dataclass(frozen=True)
class AdditiveTable:
    """KL in nats per token of single cuts, by sub-block and width."""

    kl: Mapping[Slot, Mapping[int, float]]

    def of(self, candidate: Architecture, sharpness: float = 1.0) -> float:
        """Sum over sub-blocks of KL ** sharpness."""
        return sum(row[candidate.width(*slot)] ** sharpness for slot, row in self.kl.items())

    def sharpened(self, sharpness: float) -> dict[Slot, dict[int, float]]:
        """Every KL ** sharpness: over 1 avoids deep cuts, under 1 prefers few deep to many small ones."""
        return {slot: {w: kl**sharpness for w, kl in row.items()} for slot, row in self.kl.items()}


def single_cuts(space: Space) -> list[Architecture]:
    """The architectures to measure: one sub-block cut to one width, the rest dense; one of each sub-block."""
    widths = {slot: _measured_width(space, slot) for slot in space.slots}
    return [space.dense.with_width(*slot, width) for slot, width in widths.items() if width is not None]


def build_table(space: Space, library: BlockLibrary, measured: Mapping[Architecture, float]) -> AdditiveTable:
    """The table for every allowed width, from the KL of the single cuts in `measured`."""
    rows: dict[Slot, dict[int, float]] = {}
    for slot in space.slots:
        widths, width = space.widths(*slot), _measured_width(space, slot)
        if width is None:
            rows[slot] = dict.fromkeys(widths, 0.0)
            continue
        errors = library.errors(*slot, list(widths[:-1]))
        if not any(errors):  # nothing is repaired: as much as is cut
            errors = [1.0 - each / widths[-1] for each in widths[:-1]]
        kl = measured[space.dense.with_width(*slot, width)]
        rows[slot] = proportional(widths, errors, width, kl)
    return AdditiveTable(rows)


def proportional(widths: Sequence[int], errors: Sequence[float], width: int, kl: float) -> dict[int, float]:
    """KL at every width from that at one, in proportion to errors; no width is worse than a narrower one.

    Args:
        widths: ascending; the last one loses nothing.
        errors: of all but the last.
    """
    reference_error = max(errors[widths.index(width)], _MIN_ERROR)
    row: dict[int, float] = {}
    best = math.inf
    for each, error in zip(widths, errors, strict=False):
        best = min(best, max(kl, _FLOOR) * (max(error, _MIN_ERROR) / reference_error))
        row[each] = best
    return row | {widths[-1]: 0.0}


def _measured_width(space: Space, slot: Slot) -> int | None:
    """The width of the single cut; None where there is nothing to cut."""
    *narrower, _ = space.widths(*slot)
    dense, share = space.dense.width(*slot), MEASURED_SHARE[slot[1]]
    return min(narrower, key=lambda width: abs(width - share * dense)) if narrower else None
