"""The additive table: what cutting a single sub-block costs in KL, for every width.

A few widths per sub-block are measured; between them the KL is interpolated along the
least-squares error that repair leaves, which the block library knows for every width for free
(log KL is close to linear in the log of that error). Sums of the table are a prior for whole
architectures, not an answer: errors do not quite add up.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.calibrate.library import BlockLibrary
from secateur.search.architecture import Architecture
from secateur.search.space import Slot, Space

# What is measured; the rest is interpolated. Removal has to be: it is off the line of the narrow widths.
CHANNEL_FRACTIONS = (0.0, 0.5, 0.8)
GROUP_FRACTIONS = (0.0, 0.7)
# Where few candidates follow. In 13 layers of SmolLM2 the lines from these were 11 % off at 0.8 of the
# channels, and 28 % without attention (medians).
LEAN_CHANNEL_FRACTIONS = (0.5,)
LEAN_GROUP_FRACTIONS = (0.7,)
_FLOOR = 1e-7


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


def single_cuts(space: Space, *, lean: bool = False) -> list[Architecture]:
    """The architectures to measure: one sub-block cut to one of a few widths, the rest dense.

    Args:
        lean: one width for each sub-block.
    """
    groups, channels = (
        (LEAN_GROUP_FRACTIONS, LEAN_CHANNEL_FRACTIONS) if lean else (GROUP_FRACTIONS, CHANNEL_FRACTIONS)
    )
    cuts = []
    for layer, kind in space.slots:
        allowed = space.widths(layer, kind)[:-1]
        if not allowed:
            continue
        shares = groups if kind == "attention" else channels
        wanted = _spread(allowed, space.dense.width(layer, kind), shares)
        cuts += [space.dense.with_width(layer, kind, width) for width in wanted]
    return cuts


def build_table(space: Space, library: BlockLibrary, measured: Mapping[Architecture, float]) -> AdditiveTable:
    """The table for every allowed width, from the KL of the single cuts in `measured`."""
    rows: dict[Slot, dict[int, float]] = {}
    for layer, kind in space.slots:
        widths = space.widths(layer, kind)
        known = {
            width: max(measured[cut], _FLOOR)
            for width in widths[:-1]
            if (cut := space.dense.with_width(layer, kind, width)) in measured
        }
        errors = library.errors(layer, kind, list(widths[:-1]))
        rows[layer, kind] = _fill(widths, known, errors)
    return AdditiveTable(rows)


def _spread(allowed: Sequence[int], full: int, shares: Sequence[float]) -> list[int]:
    return sorted({min(allowed, key=lambda width: abs(width - share * full)) for share in shares})


def _fill(widths: Sequence[int], known: Mapping[int, float], errors: Sequence[float]) -> dict[int, float]:
    """KL at every width: measured, or interpolated in (log error, log KL); 0 at full width."""
    row = {widths[-1]: 0.0}
    if len(widths) == 1:
        return row
    ascending = sorted(known)
    level = {width: math.log(max(error, 1e-12)) for width, error in zip(widths, errors, strict=False)}
    for width in widths[:-1]:
        row[width] = known[width] if width in known else math.exp(_line(width, ascending, known, level))
    return _monotone(row, widths)


def _line(
    width: int, ascending: Sequence[int], known: Mapping[int, float], level: Mapping[int, float]
) -> float:
    right = min(max(bisect_left(ascending, width), 1), len(ascending) - 1) if len(ascending) > 1 else 0
    high = ascending[right]
    if len(ascending) == 1:
        return math.log(known[high]) + level[width] - level[high]
    low = ascending[right - 1]
    rise = math.log(known[high]) - math.log(known[low])
    run = level[high] - level[low]
    slope = min(max(rise / run, 0.0), 3.0) if abs(run) > 1e-9 else 1.0
    return math.log(known[high]) + slope * (level[width] - level[high])


def _monotone(row: Mapping[int, float], widths: Sequence[int]) -> dict[int, float]:
    """The row with no width worse than a narrower one (measurement noise can say so; repair cannot)."""
    result: dict[int, float] = {}
    best = math.inf
    for width in widths:
        best = min(best, row[width])
        result[width] = best
    return result
