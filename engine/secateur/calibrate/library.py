"""The block library: every sub-block at every width, as views of sorted weights plus a repaired projection.

Units are sorted once, most important first, so a width is a prefix: all weights but the last
projection are views, and the last projection comes from one Cholesky factor per sub-block
(`repair`). Factors live on disk and are read when needed; built sub-blocks are kept up to a byte
limit.

Shape suffixes: H hidden, N inner channels, U units.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.calibrate.repair import repaired, residual_errors
from secateur.model.architecture import Kind
from secateur.model.dense import (
    AttentionWeights,
    DecoderLayer,
    DecoderModel,
    FfnWeights,
    SubBlock,
    map_block,
    tensors_of,
)

Factors = Mapping[tuple[int, Kind], Tensor]
DEFAULT_CACHE_BYTES = 4 << 30


def last_projection(block: SubBlock) -> Tensor:
    """The weight [H, N] that reads the inner activations."""
    return block.output_HQ if isinstance(block, AttentionWeights) else block.down_HC


def unit_span(model: DecoderModel, kind: Kind) -> int:
    """Inner channels per unit: a KV group spans its query heads, a channel itself."""
    return model.queries_per_group * model.head_dim if kind == "attention" else 1


def expand_units(order_U: Tensor, span: int) -> Tensor:
    """Indices of rows, [U * span], from indices of units."""
    return (order_U[:, None] * span + torch.arange(span)).flatten()


def select_groups(
    block: AttentionWeights, groups_U: Tensor, head_dim: int, queries_per_group: int
) -> AttentionWeights:
    """The attention sub-block with only those KV groups, in that order."""
    rows_Q = expand_units(groups_U, queries_per_group * head_dim)
    rows_K = expand_units(groups_U, head_dim)
    pick = lambda tensor, rows: None if tensor is None else tensor[rows]  # noqa: E731
    return replace(
        block,
        query_QH=block.query_QH[rows_Q],
        key_KH=block.key_KH[rows_K],
        value_KH=block.value_KH[rows_K],
        output_HQ=block.output_HQ[:, rows_Q],
        query_bias_Q=pick(block.query_bias_Q, rows_Q),
        key_bias_K=pick(block.key_bias_K, rows_K),
        value_bias_K=pick(block.value_bias_K, rows_K),
    )


def select_channels(block: FfnWeights, channels_U: Tensor) -> FfnWeights:
    """The FFN sub-block with only those channels, in that order."""
    pick = lambda tensor: None if tensor is None else tensor[channels_U]  # noqa: E731
    return replace(
        block,
        gate_CH=block.gate_CH[channels_U],
        up_CH=block.up_CH[channels_U],
        down_HC=block.down_HC[:, channels_U],
        gate_bias_C=pick(block.gate_bias_C),
        up_bias_C=pick(block.up_bias_C),
    )


def permute(model: DecoderModel, orders: Mapping[tuple[int, Kind], Tensor]) -> DecoderModel:
    """The model with the units of every sub-block re-ordered: the same function, sorted weights."""

    def sorted_layer(index: int, layer: DecoderLayer) -> DecoderLayer:
        attention, ffn = layer.attention, layer.ffn
        if attention is not None:
            attention = select_groups(
                attention, orders[index, "attention"], model.head_dim, model.queries_per_group
            )
        if ffn is not None:
            ffn = select_channels(ffn, orders[index, "ffn"])
        return DecoderLayer(attention, ffn)

    return replace(model, layers=tuple(sorted_layer(i, layer) for i, layer in enumerate(model.layers)))


def prefix_of_units(block: SubBlock, units: int, head_dim: int, queries_per_group: int) -> SubBlock:
    """The first `units` units of a sorted sub-block; every tensor is a view."""
    if isinstance(block, AttentionWeights):
        q, k = units * queries_per_group * head_dim, units * head_dim
        cut = lambda tensor, rows: None if tensor is None else tensor[:rows]  # noqa: E731
        return replace(
            block,
            query_QH=block.query_QH[:q],
            key_KH=block.key_KH[:k],
            value_KH=block.value_KH[:k],
            output_HQ=block.output_HQ[:, :q],
            query_bias_Q=cut(block.query_bias_Q, q),
            key_bias_K=cut(block.key_bias_K, k),
            value_bias_K=cut(block.value_bias_K, k),
        )
    c = units
    return replace(
        block,
        gate_CH=block.gate_CH[:c],
        up_CH=block.up_CH[:c],
        down_HC=block.down_HC[:, :c],
        gate_bias_C=None if block.gate_bias_C is None else block.gate_bias_C[:c],
        up_bias_C=None if block.up_bias_C is None else block.up_bias_C[:c],
    )


def with_projection(block: SubBlock, weight_HN: Tensor) -> SubBlock:
    """The sub-block with another last projection."""
    if isinstance(block, AttentionWeights):
        return replace(block, output_HQ=weight_HN)
    return replace(block, down_HC=weight_HN)


@dataclass(frozen=True)
class _Key:
    layer: int
    kind: Kind
    units: int


class BlockLibrary:
    """Hands out sub-blocks by (layer, kind, width), repaired, in the compute dtype.

    Args:
        model: the dense model with sorted units, in the dtype it was stored in.
        factors: Cholesky factor [N, N] per sub-block, sorted the same way; None turns repair off.
        dtype: what the handed-out sub-blocks are computed in.
        cache_bytes: how much memory built projections may take.
    """

    def __init__(
        self,
        model: DecoderModel,
        factors: Factors | None,
        dtype: torch.dtype,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.master = model
        self.model = model if model.dtype == dtype else model.to(dtype)
        self._factors = factors
        self._cache_bytes = cache_bytes
        self._held_bytes = 0
        self._cache: OrderedDict[_Key, Tensor] = OrderedDict()

    def block(self, layer: int, kind: Kind, units: int) -> SubBlock | None:
        """The sub-block with `units` KV groups or channels, in the compute dtype; None for 0."""
        full = self.model.layers[layer].sub_block(kind)
        if units == 0 or full is None:
            return None
        if units == self.model.width(layer, kind):
            return full
        cut = prefix_of_units(full, units, self.model.head_dim, self.model.queries_per_group)
        return with_projection(cut, self._projection(_Key(layer, kind, units)))

    def master_block(self, layer: int, kind: Kind, units: int) -> SubBlock | None:
        """As `block`, in the dtype of the stored model, with its own memory: what a checkpoint gets."""
        full = self.master.layers[layer].sub_block(kind)
        if units == 0 or full is None:
            return None
        cut = prefix_of_units(full, units, self.master.head_dim, self.master.queries_per_group)
        cut = with_projection(cut, self._repaired(full, layer, kind, units))
        return map_block(cut, lambda tensor: tensor.contiguous())

    def errors(self, layer: int, kind: Kind, widths: list[int]) -> list[float]:
        """Squared output error that repair leaves at each width (calibration tokens, summed)."""
        full = self.master.layers[layer].sub_block(kind)
        if full is None or self._factors is None:
            return [0.0] * len(widths)
        span = unit_span(self.master, kind)
        factor = self._factors[layer, kind]
        return residual_errors(last_projection(full), factor, [width * span for width in widths])

    def _projection(self, key: _Key) -> Tensor:
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        full = self.master.layers[key.layer].sub_block(key.kind)
        assert full is not None  # block() has checked
        weight = self._repaired(full, key.layer, key.kind, key.units).to(self.model.dtype).contiguous()
        self._cache[key] = weight
        self._held_bytes += weight.nbytes
        while self._held_bytes > self._cache_bytes and len(self._cache) > 1:
            self._held_bytes -= self._cache.popitem(last=False)[1].nbytes
        return weight

    def _repaired(self, full: SubBlock, layer: int, kind: Kind, units: int) -> Tensor:
        keep = units * unit_span(self.master, kind)
        weight = last_projection(full)
        if self._factors is None:
            return weight[:, :keep]
        return repaired(weight, self._factors[layer, kind], keep)


def num_parameters(block: SubBlock | None) -> int:
    """Parameters of a sub-block, its norm and biases included; 0 when it is removed."""
    return 0 if block is None else sum(tensor.numel() for tensor in tensors_of(block).values())
