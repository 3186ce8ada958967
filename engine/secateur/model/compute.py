"""Where a job computes: the device, and the dtype of its products. Decided once and handed down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from secateur.config.values import AUTO
from secateur.errors import BadInput
from secateur.model.processor import fastest_dtype
from secateur_kernels import RESULTS_VERSION

ACCELERATORS = ("cuda",)  # kinds of devices that jobs are tested on
# Sorted weights in 16 bits, as much again for a slim model being repaired, and half as much for projections,
# residual streams and factors.
BYTES_PER_WEIGHT = 5
# With layers that come one at a time: embedding and head, two layers, projections and residual streams.
STREAMED_BYTES_PER_WEIGHT = 1


@dataclass(frozen=True)
class Compute:
    """A device and the dtype of products there.

    Attributes:
        device: holds weights, windows and statistics.
        dtype: of weights and activations while candidates are evaluated.
        spread: whether workers go to the other devices of the kind too: the user named none.
        streamed: whether weights stay on the host, and layers come to the device one at a time.
    """

    device: torch.device
    dtype: torch.dtype
    spread: bool = False
    streamed: bool = False

    @classmethod
    def on_cpu(cls, dtype: torch.dtype | None = None) -> Compute:
        """The processor, in its fastest dtype unless told otherwise."""
        device = torch.device("cpu")
        return cls(device, dtype or fastest_dtype(device))

    @property
    def accelerated(self) -> bool:
        """Whether it is another device than the processor."""
        return self.device.type != "cpu"

    @property
    def identity(self) -> dict[str, Any]:
        """What measurements depend on. Studies made before there was a choice have the dtype alone."""
        document: dict[str, Any] = {"compute_dtype": str(self.dtype)}
        if self.accelerated:
            document |= {"device": self.device.type, "kernels": RESULTS_VERSION, "streamed": self.streamed}
        return document

    @property
    def whole_model_device(self) -> torch.device:
        """Where a model goes that is needed whole, as transformers needs it: the host if there is no room."""
        return torch.device("cpu") if self.streamed else self.device

    def for_worker(self, worker: int) -> Compute:
        """Where the worker of that number computes: devices in turn, unless the user named one."""
        if not (self.accelerated and self.spread):
            return self
        index = worker % torch.get_device_module(self.device).device_count()
        return replace(self, device=torch.device(self.device.type, index))

    def __str__(self) -> str:
        name = str(self.device)
        if self.device.type == "cuda":
            name += f" ({torch.cuda.get_device_name(self.device)})"
        name += f", {str(self.dtype).removeprefix('torch.')}"
        return f"{name}; layers come from the host one at a time" if self.streamed else name


def choose_compute(name: str, num_weights: int) -> Compute:
    """What an option `device` comes to.

    Args:
        name: ``auto`` (the device with the most free memory if it has room, else the processor), ``cpu``,
            ``cuda`` (that with the most free memory) or ``cuda:N``.
        num_weights: of the model. Where a device has no room for them, they are streamed to it.

    Raises:
        BadInput: there is no such device, or the model cannot fit into what is free there.
    """
    if name == "cpu":
        return Compute.on_cpu()
    free_by_device = _free_bytes()
    needed = num_weights * STREAMED_BYTES_PER_WEIGHT
    fitting = [device for device, free in free_by_device.items() if free >= needed]
    if name == AUTO:
        if not fitting:
            return Compute.on_cpu()
        candidates: Sequence[torch.device] = fitting
    else:
        named = torch.device(name)
        candidates = [
            device
            for device in free_by_device
            if device.type == named.type and named.index in (None, device.index)
        ]
        if not candidates:
            names = [AUTO, "cpu", *map(str, free_by_device)]
            raise BadInput("device", name, f"allowed here are {', '.join(names)}")
    device = max(candidates, key=free_by_device.__getitem__)
    if free_by_device[device] < needed:
        free = f"{free_by_device[device] / 1e9:.1f} GB are free"
        reason = f"streamed, the model needs about {needed / 1e9:.1f} GB there, {free}; allowed is cpu"
        raise BadInput("device", name, reason)
    streamed = free_by_device[device] < num_weights * BYTES_PER_WEIGHT
    return Compute(device, fastest_dtype(device), spread=":" not in name, streamed=streamed)


def _free_bytes() -> dict[torch.device, int]:
    """Free memory of every accelerator of this machine."""
    free: dict[torch.device, int] = {}
    for kind in ACCELERATORS:
        module = torch.get_device_module(kind)
        for index in range(module.device_count() if module.is_available() else 0):
            free[torch.device(kind, index)] = module.mem_get_info(index)[0]
    return free
