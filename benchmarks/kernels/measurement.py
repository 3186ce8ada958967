"""The rows of one case: every provider, checked and then timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.kernels.case import BASELINE, Case, Missing
from benchmarks.kernels.ceilings import Ceilings
from benchmarks.kernels.row import Row, accuracy, floor_ms
from benchmarks.kernels.timing import Clock, peak_extra_bytes

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
    inputs = case.build(device, dtype)
    rows_n = torch.linspace(0, inputs.tokens - 1, min(CHECKED_TOKENS, inputs.tokens), device=device).long()
    true = inputs.reference(rows_n)
    eager: Tensor | None = None
    eager_ms: float | None = None
    for provider in inputs.providers:
        row = replace(blank, provider=provider.name)
        if time.monotonic() > until:
            yield replace(row, skipped=LATE)
            continue
        try:
            call = provider.prepare()
            found = call().index_select(inputs.token_dim, rows_n)
        except (Missing, ImportError, AttributeError) as error:
            yield replace(row, skipped=str(error))
            continue
        except Exception as error:  # a rival that breaks must not end the run
            reason = str(error).splitlines() or [""]
            yield replace(row, skipped=f"failed: {type(error).__name__}: {reason[0][:160]}")
            continue
        if provider.name == BASELINE:
            eager = found
        assert eager is not None, "the baseline comes first"
        times = clock.times(call)
        if provider.name == BASELINE:
            eager_ms = times.median
        yield replace(
            row,
            skipped=None,
            times=times,
            accuracy=accuracy(found, eager, true),
            extra_bytes=peak_extra_bytes(device, call),
            eager_ms=eager_ms,
        )
