"""What this machine reaches at best, measured in the run that is judged by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from benchmarks.kernels.timing import Clock


@dataclass(frozen=True)
class Ceilings:
    """Rates of one device in one dtype.

    Attributes:
        flops_per_second: of a large square matrix product, random data, best sample.
        bytes_per_second: of a copy, read plus written, best sample.
        product: edge of that square.
        copied: bytes of the buffer copied.
    """

    flops_per_second: float
    bytes_per_second: float
    product: int
    copied: int


def measure(device: torch.device, dtype: torch.dtype, clock: Clock) -> Ceilings:
    on_gpu = device.type == "cuda"
    edge = 8192 if on_gpu else 2048
    left, right = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
    into = torch.empty_like(left)
    seconds = _best(clock, lambda: torch.mm(left, right, out=into))
    size = (1 << 30) if on_gpu else (256 << 20)
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    copy_seconds = _best(clock, lambda: target.copy_(source))
    return Ceilings(2 * edge**3 / seconds, 2 * size / copy_seconds, edge, size)


def best(first: Ceilings, second: Ceilings) -> Ceilings:
    """The higher rates of two measurements on the same buffers."""
    return replace(
        first,
        flops_per_second=max(first.flops_per_second, second.flops_per_second),
        bytes_per_second=max(first.bytes_per_second, second.bytes_per_second),
    )


def _best(clock: Clock, call: Callable[[], object]) -> float:
    return min(clock.samples(call)) / 1e3
