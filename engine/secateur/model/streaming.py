"""Layers of a model that a device cannot hold: they stay on the host and come one at a time.

While a layer is computed with, the next one is on its way, on a stream of its own. So a pass costs what the
slower of the two takes, arithmetic or the bytes of the weights over the bus, and callers that take all they
have through a layer before they ask for the next (`evaluation.batch`, `prune.surgery`) pay for it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from secateur.model.decoder import DecoderLayer, DecoderModel, map_layer


@dataclass(frozen=True)
class _Arrival:
    """A layer on the device, and on a GPU the event after its last copy."""

    layer: DecoderLayer
    copied: torch.cuda.Event | None


class StreamedLayers(Sequence[DecoderLayer]):
    """Layers of the host as a device sees them.

    Args:
        layers: on the host; pinned memory comes two to three times as fast over the bus.
        device: where they are asked for.

    Attributes:
        fetched: how often a layer was copied.
    """

    def __init__(self, layers: Sequence[DecoderLayer], device: torch.device) -> None:
        self._layers = layers
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._here: dict[int, _Arrival] = {}
        self.fetched = 0

    def __len__(self) -> int:
        return len(self._layers)

    @overload
    def __getitem__(self, index: int) -> DecoderLayer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[DecoderLayer]: ...
    def __getitem__(self, index: int | slice) -> DecoderLayer | Sequence[DecoderLayer]:
        """A layer on the device; it and the next one are kept there, others go."""
        if isinstance(index, slice):
            return StreamedLayers(self._layers[index], self._device)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        wanted = (index % len(self), (index + 1) % len(self))
        self._here = {number: each for number, each in self._here.items() if number in wanted}
        for number in wanted:
            if number not in self._here:
                self._here[number] = self._fetch(number)
        arrival = self._here[wanted[0]]
        if arrival.copied is not None:
            torch.cuda.current_stream(self._device).wait_event(arrival.copied)
        return arrival.layer

    def _fetch(self, number: int) -> _Arrival:
        self.fetched += 1
        if self._stream is None:
            return _Arrival(map_layer(self._layers[number], lambda tensor: tensor.to(self._device)), None)
        computing = torch.cuda.current_stream(self._device)

        def copy(tensor: Tensor) -> Tensor:
            copied = tensor.to(self._device, non_blocking=True)
            copied.record_stream(computing)  # its memory is not given away while it is computed with
            return copied

        with torch.cuda.stream(self._stream):
            layer = map_layer(self._layers[number], copy)
            return _Arrival(layer, self._stream.record_event())


def streamed(model: DecoderModel, device: torch.device) -> DecoderModel:
    """A model whose layers stay where they are and come to `device` one at a time; all else goes there."""
    ends = replace(model, layers=()).to(device=device)
    return replace(ends, layers=StreamedLayers(model.layers, device))
