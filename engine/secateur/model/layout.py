"""Between the tensors of a checkpoint and the layout in which the engine computes, for families that differ.

Projections that are stored as one are split. Where only the first channels of a head are rotated, those of
queries and keys are re-ordered so that channels that turn together are half a head apart, as they are where
all are rotated; scores do not depend on the order. `stored_layout` is the exact inverse.

Shape suffixes: D head_dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.model.families import ModelFamily


def engine_layout(
    family: ModelFamily, config: Any, tensors: Mapping[str, Tensor], head_dim: int, queries_per_group: int
) -> dict[str, Tensor]:
    """Tensors by their names in a checkpoint -> by the names of the family's row; parts are views."""
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module = _fused_module(family, name)
        if module is None:
            split[name] = tensor
            continue
        parts = family.fused[module]
        sizes = _rows(len(tensor), len(parts), queries_per_group)
        for part, rows in zip(parts, tensor.split(sizes), strict=True):
            split[name.replace(module, part)] = rows
    return _reordered(family, config, split, head_dim, inverse=False)


def stored_layout(
    family: ModelFamily, config: Any, tensors: Mapping[str, Tensor], head_dim: int
) -> dict[str, Tensor]:
    """The inverse of `engine_layout`."""
    tensors = _reordered(family, config, tensors, head_dim, inverse=True)
    for module, parts in family.fused.items():
        for name in [name for name in tensors if f".{parts[0]}." in name]:
            rows = [tensors.pop(name.replace(parts[0], part)) for part in parts]
            tensors[name.replace(parts[0], module)] = torch.cat(rows)
    return tensors


def rotated_channels(config: Any, head_dim: int) -> int:
    """How many channels of a head the rotary embedding turns."""
    rope = getattr(config, "rope_parameters", None) or {}
    return int(head_dim * rope.get("partial_rotary_factor", 1.0))


def _fused_module(family: ModelFamily, name: str) -> str | None:
    return next((module for module in family.fused if f".{module}." in name), None)


def _rows(total: int, parts: int, queries_per_group: int) -> list[int]:
    """Rows of gate and up, or of queries, keys and values."""
    if parts == 2:
        return [total // 2, total - total // 2]
    keys = total // (queries_per_group + 2)
    return [total - 2 * keys, keys, keys]


def _reordered(
    family: ModelFamily, config: Any, tensors: Mapping[str, Tensor], head_dim: int, *, inverse: bool
) -> dict[str, Tensor]:
    """With the channels of every query and key head in the engine's order, or back in their own."""
    turned = rotated_channels(config, head_dim)
    if turned == head_dim:
        return dict(tensors)
    order_D = _half_apart(head_dim, turned)
    order_D = torch.argsort(order_D) if inverse else order_D
    changed = dict(tensors)
    for name, tensor in tensors.items():
        if f".{family.query}." in name or f".{family.key}." in name:
            heads = tensor.unflatten(0, (-1, head_dim))
            changed[name] = heads[:, order_D.to(tensor.device)].flatten(0, 1)
    return changed


def _half_apart(head_dim: int, turned: int) -> Tensor:
    """The channels in the engine's order: half of those that turn, half of the others, and again."""
    channels = torch.arange(head_dim)
    (one, two), (three, four) = channels[:turned].chunk(2), channels[turned:].chunk(2)
    return torch.cat((one, three, two, four))
