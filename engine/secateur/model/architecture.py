"""An architecture: the widths kept, per layer. Immutable, hashable, JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

Kind = Literal["attention", "ffn"]
KINDS: tuple[Kind, Kind] = ("attention", "ffn")

Slot = tuple[int, Kind]
"""Layer and kind of a sub-block."""


def slot_name(layer: int, kind: Kind) -> str:
    """What the width of a sub-block is called in a study: ``layer_003.channels``."""
    return f"layer_{layer:03d}.{'groups' if kind == 'attention' else 'channels'}"


def parse_slot_name(name: str) -> Slot:
    """The inverse of `slot_name`.

    Raises:
        ValueError: no such name.
    """
    match = re.fullmatch(r"layer_(\d+)\.(groups|channels)", name)
    if match is None:
        raise ValueError(f"{name} is no width of a sub-block")
    return int(match[1]), "attention" if match[2] == "groups" else "ffn"


@dataclass(frozen=True, order=True)
class Architecture:
    """Widths kept per layer; 0 removes the sub-block.

    Attributes:
        groups: KV groups per layer.
        channels: FFN channels per layer.
    """

    groups: tuple[int, ...]
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.groups) != len(self.channels):
            raise ValueError(f"{len(self.groups)} layers of groups, {len(self.channels)} of channels")
        if any(width < 0 for width in (*self.groups, *self.channels)):
            raise ValueError("widths cannot be negative")

    @property
    def num_layers(self) -> int:
        """Layers of the dense model, removed ones included."""
        return len(self.groups)

    def width(self, layer: int, kind: Kind) -> int:
        """The width of one sub-block."""
        return self.groups[layer] if kind == "attention" else self.channels[layer]

    def with_width(self, layer: int, kind: Kind, width: int) -> Architecture:
        """The same architecture with one sub-block of another width."""
        values = list(self.groups if kind == "attention" else self.channels)
        values[layer] = width
        if kind == "attention":
            return Architecture(tuple(values), self.channels)
        return Architecture(self.groups, tuple(values))

    @classmethod
    def of_widths(cls, widths: Mapping[Slot, int]) -> Architecture:
        """The architecture of the widths of all its sub-blocks."""
        layers = range(len(widths) // 2)
        groups, channels = (tuple(widths[layer, kind] for layer in layers) for kind in KINDS)
        return cls(groups, channels)

    @property
    def path(self) -> tuple[int, ...]:
        """Widths in the order of computation: attention 0, FFN 0, attention 1, ..."""
        return tuple(chain.from_iterable(zip(self.groups, self.channels, strict=True)))

    @property
    def digest(self) -> str:
        """A short stable identity."""
        return hashlib.blake2b(json.dumps(self.to_json()).encode(), digest_size=8).hexdigest()

    def to_json(self) -> dict[str, list[int]]:
        return {"groups": list(self.groups), "channels": list(self.channels)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Architecture:
        return cls(tuple(document["groups"]), tuple(document["channels"]))
