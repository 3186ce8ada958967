"""A cost that adds up over sub-blocks: all that the search knows of what is being counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from secateur.model.architecture import Architecture, Slot, slot_name


@dataclass(frozen=True)
class Cost:
    """Additive cost over sub-blocks, in whole units.

    Attributes:
        unit: what is counted, for messages.
        fixed: what no architecture can avoid.
        table: cost of every allowed width of every sub-block; never falls as the width grows.
    """

    unit: str
    fixed: int
    table: dict[Slot, dict[int, int]] = field(repr=False)

    def block(self, slot: Slot, width: int) -> int:
        """Cost of one sub-block at a width."""
        return self.table[slot][width]

    def of(self, candidate: Architecture) -> int:
        return self.fixed + sum(row[candidate.width(*slot)] for slot, row in self.table.items())

    def to_json(self) -> dict[str, Any]:
        """As plain values: sub-blocks by their name in a study, widths as strings."""
        rows = {slot_name(*slot): row for slot, row in self.table.items()}
        rows_by_name = {name: {str(width): cost for width, cost in row.items()} for name, row in rows.items()}
        return {"unit": self.unit, "fixed": self.fixed, "table": rows_by_name}

    def scaled(self, factor: int, unit: str, extra: int = 0) -> Cost:
        """The same with `extra` more of what cannot be avoided, every count times `factor`."""
        table = {slot: {w: n * factor for w, n in row.items()} for slot, row in self.table.items()}
        return Cost(unit, (self.fixed + extra) * factor, table)
