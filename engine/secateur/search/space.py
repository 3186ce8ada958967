"""The search space: which widths each sub-block may take."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.errors import BadInput
from secateur.model.dense import KINDS, Kind
from secateur.search.architecture import Architecture

Slot = tuple[int, Kind]


def slot_name(layer: int, kind: Kind) -> str:
    """What the width of a sub-block is called in a study: ``layer_003.channels``."""
    return f"layer_{layer:03d}.{'groups' if kind == 'attention' else 'channels'}"


@dataclass(frozen=True)
class Space:
    """Allowed widths per sub-block.

    Attributes:
        dense: the architecture with nothing cut.
        quantum: channels come in multiples of this (what hardware likes); the dense width is
            always allowed, and so is 0.

    The first layer always keeps a KV group: a decoder needs an attention that counts the tokens (no
    runtime loads one without), and this one is the last that anybody would give up (SmolLM2: 1.9 nats).
    """

    dense: Architecture
    quantum: int

    def __post_init__(self) -> None:
        widest = max(self.dense.channels)
        if not 1 <= self.quantum <= max(1, widest):
            raise BadInput("--quantum", self.quantum, f"allowed are 1 to {widest} channels")

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Sub-blocks in the order of computation."""
        return tuple((layer, kind) for layer in range(self.dense.num_layers) for kind in KINDS)

    def widths(self, layer: int, kind: Kind) -> tuple[int, ...]:
        """Allowed widths of one sub-block, ascending, from 0 (first attention: 1) to the dense width."""
        full = self.dense.width(layer, kind)
        step = 1 if kind == "attention" else self.quantum
        least = 1 if (layer, kind) == (0, "attention") else 0
        return tuple(sorted({*range(least, full, step), full}))

    def contains(self, candidate: Architecture) -> bool:
        """Whether every width is allowed."""
        return candidate.num_layers == self.dense.num_layers and all(
            candidate.width(layer, kind) in self.widths(layer, kind) for layer, kind in self.slots
        )

    def to_json(self) -> dict[str, object]:
        """As plain values; part of a study's identity."""
        return {"dense": self.dense.to_json(), "quantum": self.quantum}
