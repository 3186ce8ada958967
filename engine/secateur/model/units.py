"""The units of sub-blocks: KV groups of an attention, channels of an FFN.

A unit owns rows of some tensors and columns of the last projection, as the letters of a field's name say: Q
and K of an attention, C of an FFN.

Shape suffixes: U units, H hidden, N inner channels (what the last projection reads).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from secateur.model.architecture import Kind, Slot
from secateur.model.decoder import (
    AttentionWeights,
    Block,
    DecoderLayer,
    DecoderModel,
    SubBlock,
    map_block,
    tensors_of,
)


def last_projection(block: SubBlock) -> Tensor:
    """The weight [H, N] that reads the inner activations."""
    return block.output_HQ if isinstance(block, AttentionWeights) else block.down_HC


def with_projection(block: Block, weight_HN: Tensor) -> Block:
    """The sub-block with another last projection."""
    field = "output_HQ" if isinstance(block, AttentionWeights) else "down_HC"
    changed: dict[str, Any] = {field: weight_HN}
    return replace(block, **changed)


def unit_span(model: DecoderModel, kind: Kind) -> int:
    """Inner channels per unit: a KV group spans its query heads, a channel itself."""
    return model.queries_per_group * model.head_dim if kind == "attention" else 1


def expand_units(order_U: Tensor, span: int) -> Tensor:
    """Indices of rows, [U * span], from indices of units."""
    return (order_U[:, None] * span + torch.arange(span, device=order_U.device)).flatten()


def permute(
    model: DecoderModel,
    orders: Mapping[Slot, Tensor],
    device: torch.device | None = None,
    *,
    pinned: bool = False,
) -> DecoderModel:
    """The model with the units of every sub-block re-ordered: the same function, sorted weights.

    Args:
        device: where the sorted weights go; None leaves them where they are.
        pinned: whether they go to pinned memory of the host, from which a GPU copies by itself.
    """
    device = device or model.device

    def sorted_block(block: Block | None, layer: int, kind: Kind) -> Block | None:
        if block is None:
            return None
        block = map_block(block, lambda tensor: tensor.to(device))
        spans = _spans(block, model.head_dim, model.queries_per_group)
        order_U = orders[layer, kind].to(device)
        block = _select(block, {letter: expand_units(order_U, span) for letter, span in spans.items()})
        return map_block(block, Tensor.pin_memory) if pinned else block

    layers = tuple(
        DecoderLayer(sorted_block(layer.attention, i, "attention"), sorted_block(layer.ffn, i, "ffn"))
        for i, layer in enumerate(model.layers)
    )
    return replace(model, layers=layers).to(device=device)


def prefix_of_units(block: Block, units: int, head_dim: int, queries_per_group: int) -> Block:
    """The first `units` units of a sorted sub-block; every tensor is a view."""
    spans = _spans(block, head_dim, queries_per_group)
    return _select(block, {letter: slice(units * span) for letter, span in spans.items()})


def num_parameters(block: SubBlock | None) -> int:
    """Parameters of a sub-block, its norm and biases included; 0 when it is removed."""
    return 0 if block is None else sum(tensor.numel() for tensor in tensors_of(block).values())


def _spans(block: SubBlock, head_dim: int, queries_per_group: int) -> dict[str, int]:
    """How many rows of each kind a unit has, by the letter of the axis."""
    if isinstance(block, AttentionWeights):
        return {"Q": queries_per_group * head_dim, "K": head_dim}
    return {"C": 1}


def _select(block: Block, rows: Mapping[str, Tensor | slice]) -> Block:
    """The sub-block with only those indices of the axes that have these letters."""
    changed: dict[str, Any] = {}
    for name, tensor in tensors_of(block).items():
        axes = name.rpartition("_")[2]
        changed[name] = tensor[tuple(rows.get(letter, slice(None)) for letter in axes)]
    return replace(block, **changed)
