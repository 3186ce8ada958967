"""Budgets: what the slim model must fit, as a cost that adds up over sub-blocks.

Every cost model answers one question, what a sub-block of some width costs; the rest of the search
never asks what is being counted. Latency comes in as another table of the same form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from secateur.calibrate.library import num_parameters, prefix
from secateur.errors import BadInput, InfeasibleBudget
from secateur.model.dense import Kind, Model
from secateur.search.architecture import Architecture
from secateur.search.space import Slot, Space, slot_name

BUDGET_KINDS = ("params", "memory")


@dataclass(frozen=True)
class Cost:
    """Additive cost over sub-blocks.

    Attributes:
        unit: what is counted, for messages.
        fixed: what no architecture can avoid.
        table: cost of every allowed width of every sub-block.
    """

    unit: str
    fixed: int
    table: dict[Slot, dict[int, int]] = field(repr=False)

    def block(self, slot: Slot, width: int) -> int:
        """Cost of one sub-block at a width."""
        return self.table[slot][width]

    def of(self, candidate: Architecture) -> int:
        """Cost of an architecture."""
        return self.fixed + sum(row[candidate.width(*slot)] for slot, row in self.table.items())

    def to_json(self) -> dict[str, Any]:
        """As plain values: sub-blocks by their name in a study, widths as strings."""
        rows = {slot_name(*slot): row for slot, row in self.table.items()}
        named = {name: {str(width): cost for width, cost in row.items()} for name, row in rows.items()}
        return {"unit": self.unit, "fixed": self.fixed, "table": named}


@dataclass(frozen=True)
class Budget:
    """A cost that may not be exceeded."""

    kind: str
    cost: Cost
    limit: int

    def admits(self, candidate: Architecture) -> bool:
        """Whether the candidate fits."""
        return self.cost.of(candidate) <= self.limit


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of an architecture or model."""

    total: int
    non_embedding: int

    def to_json(self) -> dict[str, int]:
        """As in every JSON document of Secateur."""
        return {"total": self.total, "non_embedding": self.non_embedding}


def parameter_cost(model: Model, space: Space) -> Cost:
    """Non-embedding parameters: every sub-block with its norm, and the final norm."""
    table: dict[Slot, dict[int, int]] = {}
    for layer, kind in space.slots:
        widths = space.widths(layer, kind)
        table[layer, kind] = {width: _block_parameters(model, layer, kind, width) for width in widths}
    return Cost("non-embedding parameters", model.final_norm_H.numel(), table)


def _block_parameters(model: Model, layer: int, kind: Kind, width: int) -> int:
    block = model.layers[layer].sub_block(kind)
    if block is None or width == 0:
        return 0
    return num_parameters(prefix(block, width, model.head_dim, model.queries_per_group))


def embedding_parameters(model: Model) -> int:
    """Parameters of the embedding and, when it is not tied, of the head."""
    return model.embedding_VH.numel() * (1 if model.tied else 2)


def count_parameters(model: Model) -> ParameterCount:
    """Parameters of a model as it is."""
    blocks = sum(num_parameters(half) for layer in model.layers for half in (layer.attention, layer.ffn))
    non_embedding = blocks + model.final_norm_H.numel()
    return ParameterCount(non_embedding + embedding_parameters(model), non_embedding)


def keep_budget(model: Model, space: Space, keep: float, kind: str = "params") -> Budget:
    """The budget of keeping a fraction of the dense model.

    Args:
        keep: fraction of non-embedding parameters (``params``) or of weight bytes, the embedding
            included (``memory``).

    Raises:
        BadInput: `keep` is not in (0, 1], or the kind is unknown.
        InfeasibleBudget: even the smallest architecture of the space is over it.
    """
    if not 0.0 < keep <= 1.0:
        raise BadInput("--keep", keep, "allowed is a fraction over 0 and up to 1")
    if kind not in BUDGET_KINDS:
        raise BadInput("--budget", kind, f"allowed are {', '.join(BUDGET_KINDS)}")
    cost = parameter_cost(model, space)
    if kind == "memory":
        cost = _bytes_cost(model, cost)
    budget = Budget(kind, cost, int(keep * cost.of(space.dense)))
    smallest = cost.fixed + sum(min(row.values()) for row in cost.table.values())
    if smallest > budget.limit:
        least = math.ceil(smallest / cost.of(space.dense) * 10_000) / 10_000  # rounded up, so that it works
        raise InfeasibleBudget(
            "--keep", keep, f"the smallest feasible is {least:.4f} ({smallest} {cost.unit})"
        )
    return budget


def _bytes_cost(model: Model, parameters: Cost) -> Cost:
    size = model.embedding_VH.element_size()
    table = {slot: {w: n * size for w, n in row.items()} for slot, row in parameters.table.items()}
    return Cost("weight bytes", (parameters.fixed + embedding_parameters(model)) * size, table)
