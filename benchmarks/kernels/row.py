"""One line of the result: a provider at a case."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.ceilings import Ceilings
from benchmarks.kernels.timing import Times
from secateur_kernels.work import Work

# What may be missed beyond twice eager's error, as a share of the largest value: tests/kernels/conftest.py.
EPS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@dataclass(frozen=True)
class Accuracy:
    """The worst error against fp64, and the worst allowed."""

    error: float
    allowed: float

    @property
    def green(self) -> bool:
        return self.error <= self.allowed  # False for NaN


@dataclass(frozen=True)
class Row:
    """What was measured, or why nothing was (`skipped`)."""

    kernel: str
    provider: str
    shape: str
    dtype: str
    device: str
    work: Work
    floor_ms: float
    skipped: str | None = None
    times: Times | None = None
    accuracy: Accuracy | None = None
    extra_bytes: int | None = None
    eager_ms: float | None = None

    @property
    def ratio(self) -> float | None:
        """The share of the machine's ceiling that was reached."""
        return self.floor_ms / self.times.median if self.times else None

    @property
    def speed_up(self) -> float | None:
        """Against eager; None where the result is wrong."""
        if not self.times or not self.eager_ms or not self.accuracy or not self.accuracy.green:
            return None
        return self.eager_ms / self.times.median

    def document(self) -> dict[str, Any]:
        named = {key: getattr(self, key) for key in ("kernel", "provider", "shape", "dtype", "device")}
        named |= {"flops_min": self.work.flops, "bytes_min": self.work.bytes, "floor_ms": self.floor_ms}
        if self.skipped is not None or self.times is None or self.accuracy is None:
            return named | {"skipped": self.skipped}
        return named | {
            "milliseconds": asdict(self.times),
            "ratio": self.ratio,
            "error_fp64": self.accuracy.error,
            "error_allowed": self.accuracy.allowed,
            "gate": "green" if self.accuracy.green else "red",
            "speed_up_over_eager": self.speed_up,
            "peak_extra_bytes": self.extra_bytes,
        }


def floor_ms(work: Work, ceilings: Ceilings) -> float:
    return 1e3 * work.floor_seconds(ceilings.flops_per_second, ceilings.bytes_per_second)


def accuracy(found: Tensor, eager: Tensor, true: Tensor) -> Accuracy:
    """The rule of the kernel tests: twice eager's error, and a little for the rounding of the result."""
    worst_eager = float((eager.double() - true).abs().max())
    allowed = 2 * worst_eager + EPS[found.dtype] * float(true.abs().max())
    return Accuracy(float((found.double() - true).abs().max()), allowed)
