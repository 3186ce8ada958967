"""The rows of one case: every provider checked, then all timed in turns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.kernels.case import BASELINE, Call, Case, Missing, Provider, forget_compiled
from benchmarks.kernels.ceilings import Ceilings
from benchmarks.kernels.row import Row, accuracy, floor_ms
from benchmarks.kernels.timing import Clock, peak_extra_bytes, summary

CHECKED_TOKENS = 64  # what an fp64 reference is affordable for
LATE = "not measured: the minutes given were over"


def rows_of(
    case: Case,
    device: torch.device,
    dtype: torch.dtype,
    clock: Clock,
    ceilings: Ceilings,
    dtype_name: str,
    until: float = float("inf"),
) -> Iterator[Row]:
    """A provider that cannot run is a row that says why; a case too large for a CPU is one such row.

    Nothing is begun after `until` (time.monotonic()).
    """
    work = case.work(dtype.itemsize)
    blank = Row(
        case.kernel, "all", case.shape, dtype_name, device.type, work, floor_ms(work, ceilings), skipped=""
    )
    if case.only_gpu and device.type != "cuda":
        yield replace(blank, skipped="not measured: no GPU")
        return
    if time.monotonic() > until:
        yield replace(blank, skipped=LATE)
        return
    forget_compiled()
    inputs = case.build(device, dtype)
    rows_n = torch.linspace(0, inputs.tokens - 1, min(CHECKED_TOKENS, inputs.tokens), device=device).long()
    ready: list[tuple[Provider, Call, Tensor]] = []
    for provider in inputs.providers:
        reason = LATE
        if time.monotonic() <= until:
            try:
                call = provider.prepare()
                ready.append((provider, call, call().index_select(inputs.token_dim, rows_n)))
                continue
            except (Missing, ImportError, AttributeError) as error:
                reason = str(error)
            except Exception as error:  # a rival that breaks must not end the run
                said = str(error).splitlines() or [""]
                reason = f"failed: {type(error).__name__}: {said[0][:160]}"
        yield replace(blank, provider=provider.name, skipped=reason)
    if not ready:
        return
    baseline, _, eager = ready[0]
    assert baseline.name == BASELINE, "the baseline comes first, and runs everywhere"
    true = inputs.reference(rows_n)
    times = [summary(samples) for samples in clock.interleaved([call for _, call, _ in ready])]
    for (provider, call, found), each in zip(ready, times, strict=True):
        yield replace(
            blank,
            provider=provider.name,
            skipped=None,
            times=each,
            accuracy=accuracy(found, eager, true),
            extra_bytes=peak_extra_bytes(device, call),
            eager_ms=times[0].median,
        )
