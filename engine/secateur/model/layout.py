"""Between the tensors of a checkpoint and the layout in which the engine computes, for families that differ.

Projections that are stored as one are split. Where only the first channels of a head are rotated, those of
queries and keys are re-ordered so that channels that turn together are half a head apart, as they are where
all are rotated; scores do not depend on the order.

Shape suffixes: D head_dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How a checkpoint stores what the engine wants apart and in its own order.

    Attributes:
        fused: modules as stored -> the modules whose rows they hold one after the other.
        turning: modules whose heads the rotary embedding turns.
        turned: how many channels of a head it turns.
        head_dim: channels per head.
        queries_per_group: query heads per KV head.
    """

    fused: Mapping[str, tuple[str, ...]]
    turning: tuple[str, ...]
    turned: int
    head_dim: int
    queries_per_group: int

    def engine(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by the names that a family's row gives them; what is only split is a view."""
        split: dict[str, Tensor] = {}
        for name, tensor in stored.items():
            module = next((module for module in self.fused if f".{module}." in name), None)
            if module is None:
                split[name] = tensor
                continue
            parts = self.fused[module]
            rows = tensor.split(self._rows(len(tensor), len(parts)))
            split |= {name.replace(module, part): own for part, own in zip(parts, rows, strict=True)}
        return self._reordered(split, inverse=False)

    def stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The exact inverse of `engine`."""
        stored = self._reordered(tensors, inverse=True)
        for module, parts in self.fused.items():
            for name in [name for name in stored if f".{parts[0]}." in name]:
                rows = [stored.pop(name.replace(parts[0], part)) for part in parts]
                stored[name.replace(parts[0], module)] = torch.cat(rows)
        return stored

    def _rows(self, total: int, parts: int) -> list[int]:
        """Rows of gate and up, or of queries, keys and values."""
        if parts == 2:
            return [total // 2, total - total // 2]
        keys = total // (self.queries_per_group + 2)
        return [total - 2 * keys, keys, keys]

    def _reordered(self, tensors: Mapping[str, Tensor], *, inverse: bool) -> dict[str, Tensor]:
        """With the channels of every head that turns in the engine's order, or back in their own."""
        if self.turned == self.head_dim:
            return dict(tensors)
        order_D = self._half_apart()
        order_D = torch.argsort(order_D) if inverse else order_D
        changed = dict(tensors)
        for name, tensor in tensors.items():
            if any(f".{module}." in name for module in self.turning):
                heads = tensor.unflatten(0, (-1, self.head_dim))
                changed[name] = heads[:, order_D.to(tensor.device)].flatten(0, 1)
        return changed

    def _half_apart(self) -> Tensor:
        """The channels in the engine's order: half of those that turn, half of the others, and again."""
        channels = torch.arange(self.head_dim)
        (one, two), (three, four) = channels[: self.turned].chunk(2), channels[self.turned :].chunk(2)
        return torch.cat((one, three, two, four))
