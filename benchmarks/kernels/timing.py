"""Milliseconds of a call: every sample, never a mean. And the memory it takes beside its inputs."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor

FLUSH_BYTES = 256 << 20  # several times the L2 of an H100 (50 MB)


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call."""

    samples: int
    median: float
    p20: float
    p80: float


@dataclass(frozen=True)
class Clock:
    """How calls on one device are timed: after warm-up calls, on a GPU by events with a cold L2."""

    device: torch.device
    count: int
    warm_up: int
    _flush: list[Tensor] = field(default_factory=list, repr=False)

    def samples(self, call: Callable[[], object]) -> list[float]:
        """Milliseconds of each call."""
        return self.interleaved([call])[0]

    def interleaved(self, calls: Sequence[Callable[[], object]]) -> list[list[float]]:
        """Milliseconds of several calls taken in turns, so that what disturbs one disturbs all."""
        for call in calls:
            for _ in range(self.warm_up):
                call()
        sample = self._on_gpu if self.device.type == "cuda" else _on_cpu
        rounds = [[sample(call) for call in calls] for _ in range(self.count)]
        return [list(samples) for samples in zip(*rounds, strict=True)] if calls else []

    def _on_gpu(self, call: Callable[[], object]) -> float:
        if not self._flush:
            self._flush.append(torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=self.device))
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush[0].zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))


def clock(device: torch.device, *, quick: bool = False) -> Clock:
    """30 samples on a GPU, 7 on a CPU; fewer where only a look is wanted."""
    on_gpu = device.type == "cuda"
    return Clock(device, 3 if quick else 30 if on_gpu else 7, 5 if on_gpu else 1)


def summary(samples: list[float]) -> Times:
    fifths = quantiles(samples, n=5, method="inclusive")
    return Times(len(samples), median(samples), fifths[0], fifths[3])


def peak_extra_bytes(device: torch.device, call: Callable[[], object]) -> int | None:
    """The most memory that a call held at once beyond what was held before it, its result included.

    On a CPU the growth of the process's peak resident memory, freed pages given back first; None where
    the system does not tell.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident
        before = _resident("VmRSS")
        call()
        return max(0, _resident("VmHWM") - before)
    except OSError:
        return None


def _on_cpu(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


def _resident(line: str) -> int:
    found = re.search(rf"{line}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0
