"""A goal of a search: a budget with a name. One study may be for several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secateur.space.budget import Budget


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
