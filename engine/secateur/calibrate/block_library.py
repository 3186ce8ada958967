"""The block library: every sub-block at every width, as views of sorted weights plus a repaired projection.

Units are sorted once, most important first, so a width is a prefix: all weights but the last
projection are views, and the last projection comes from what was computed once per sub-block
(`repairs`). That lives on disk and is read when needed; built projections are kept up to a byte limit.

Shape suffixes: H hidden, N inner channels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.calibrate.repairs import Repairs
from secateur.model.architecture import Kind, Slot
from secateur.model.decoder import DecoderModel, SubBlock, map_block
from secateur.model.streaming import streamed
from secateur.model.units import last_projection, prefix_of_units, unit_span, with_projection

DEFAULT_CACHE_BYTES = 4 << 30


class BlockLibrary:
    """Hands out sub-blocks by (layer, kind, width), repaired, in the compute dtype.

    Args:
        model: the dense model with sorted units, in the dtype it was stored in.
        repairs: of each sub-block, sorted the same way; None turns repair off.
        dtype: what the handed-out sub-blocks are computed in.
        device: where they are handed out; None: where the model is. A model that is elsewhere stays there,
            and its layers come to the device one at a time.
        cache_bytes: how much memory built projections may take.

    Attributes:
        master, model: the dense model with sorted units, as it is stored and as it is computed with.
        streamed: whether layers come one at a time.
    """

    def __init__(
        self,
        model: DecoderModel,
        repairs: Mapping[Slot, Repairs] | None,
        dtype: torch.dtype,
        *,
        device: torch.device | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.master = model
        self.device = device or model.device
        self.streamed = self.device != model.device
        fast = model if model.dtype == dtype else model.to(dtype)
        self.model = self.place(fast)
        self._repairs = repairs
        self._max_cached_bytes = cache_bytes
        self._cached_bytes = 0
        self._cache: OrderedDict[tuple[int, Kind, int], Tensor] = OrderedDict()

    def place(self, model: DecoderModel) -> DecoderModel:
        """A model that is where `master` is, as this library computes with its own: as it is, or streamed."""
        return streamed(model, self.device) if self.streamed else model

    def block(self, layer: int, kind: Kind, units: int) -> SubBlock | None:
        """The sub-block with `units` KV groups or channels, in the compute dtype; None for 0."""
        if units == 0 or self.master.layers[layer].sub_block(kind) is None:
            return None
        full = self.full_block(layer, kind)
        assert full is not None  # the stored model has it
        if units == self.master.width(layer, kind):
            return full
        cut = prefix_of_units(full, units, self.model.head_dim, self.model.queries_per_group)
        return with_projection(cut, self._cached_projection(layer, kind, units))

    def full_block(self, layer: int, kind: Kind) -> SubBlock | None:
        """The whole sub-block in the compute dtype; None where the dense model has none."""
        return self.model.layers[layer].sub_block(kind)

    def master_block(self, layer: int, kind: Kind, units: int) -> SubBlock | None:
        """As `block`, in the dtype of the stored model, with its own memory: what a checkpoint gets."""
        full = self.master.layers[layer].sub_block(kind)
        if units == 0 or full is None:
            return None
        cut = prefix_of_units(full, units, self.master.head_dim, self.master.queries_per_group)
        cut = map_block(cut, lambda tensor: tensor.to(self.device).contiguous())
        return with_projection(cut, self._projection(full, layer, kind, units).contiguous())

    def errors(self, layer: int, kind: Kind, widths: list[int]) -> list[float]:
        """Squared output error that repair leaves at each width (calibration tokens, summed)."""
        full = self.master.layers[layer].sub_block(kind)
        if full is None or self._repairs is None:
            return [0.0] * len(widths)
        span = unit_span(self.master, kind)
        return self._repairs[layer, kind].errors([width * span for width in widths])

    def forget(self) -> None:
        """Free the memory of built projections."""
        self._cache.clear()
        self._cached_bytes = 0

    def _cached_projection(self, layer: int, kind: Kind, units: int) -> Tensor:
        key = (layer, kind, units)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        full = self.master.layers[layer].sub_block(kind)
        assert full is not None  # block() has checked
        weight = self._projection(full, layer, kind, units).to(self.model.dtype).contiguous()
        self._cache[key] = weight
        self._cached_bytes += weight.nbytes
        while self._cached_bytes > self._max_cached_bytes and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return weight

    def _projection(self, full: SubBlock, layer: int, kind: Kind, units: int) -> Tensor:
        """The last projection for so many units, repaired unless repair is off, in the stored dtype."""
        weight, keep = last_projection(full), units * unit_span(self.master, kind)
        if self._repairs is None or keep == weight.shape[1]:
            return weight[:, :keep].to(self.device)
        return self._repairs[layer, kind].projection(keep, self.device).to(weight.dtype)
