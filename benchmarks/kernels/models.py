"""The kernels at the shapes of real models, most telling first, within a minute or so.

    from benchmarks.kernels.models import rows

    rows("cuda", seconds=90)        # or pretend=True, small, on a CPU

What `make gpu-check` runs. Both tilings of a kernel, cuBLAS and SDPA (eager) and published kernels where
they are installed; no torch.compile, which alone would take minutes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.kernels import attention, losses, mlps
from benchmarks.kernels.attention import Attention
from benchmarks.kernels.case import Case, Inputs, Provider
from benchmarks.kernels.ceilings import Ceilings, measure
from benchmarks.kernels.measurement import rows_of
from benchmarks.kernels.row import Row
from benchmarks.kernels.timing import Clock

EIGHTHS = tuple(range(1, 9))


@dataclass(frozen=True)
class Shape:
    """What of a model the kernels see, and the tokens of a batch."""

    name: str
    tokens: int
    channels: int
    vocabulary: int
    attention: Attention

    @property
    def hidden(self) -> int:
        return self.attention.hidden


MODELS = (
    Shape("135M", 4096, 1536, 49152, Attention(8, 512, 576, 64, 3, 3)),
    Shape("8B", 8192, 14336, 128256, Attention(8, 1024, 4096, 128, 4, 8)),
    Shape("1B", 4096, 8192, 128256, Attention(8, 512, 2048, 64, 4, 8)),
)
TINY = (Shape("tiny", 64, 96, 300, Attention(2, 32, 32, 32, 2, 2)),)
SMALL_HIDDEN = 2048  # beyond it one candidate fills a GPU


def rows(device: str, *, seconds: float = 90.0, pretend: bool = False) -> list[dict[str, Any]]:
    """A document for every kernel, model and provider; nothing is begun once the seconds are over.

    Beside what `Row.document` has: the model, ``tflops`` (of what is kept), ``share_of_peak`` (of the matrix
    product measured in this run) and that ``peak_tflops``.
    """
    until = time.monotonic() + seconds
    where = torch.device(device)
    dtype = torch.float32 if pretend else torch.bfloat16
    timer = Clock(where, 3 if pretend else 10, 1 if pretend else 3)
    with torch.inference_mode():
        ceilings = Ceilings(1e11, 1e10, 0, 0) if pretend else measure(where, dtype, timer)
        return [
            _document(row, model, ceilings)
            for model, case in _cases(TINY if pretend else MODELS)
            for row in rows_of(_quick(case), where, dtype, timer, ceilings, str(dtype)[6:], until)
        ]


def _cases(models: tuple[Shape, ...]) -> Iterator[tuple[str, Case]]:
    for of in models:
        yield of.name, losses.recomputed_kl_case(of.tokens, of.hidden, of.vocabulary, False, False)
        yield of.name, losses.loss_case(of.tokens, of.hidden, of.vocabulary, False, False)
    for of in models:
        if of.hidden <= SMALL_HIDDEN:
            kept = tuple(of.channels * eighth // 8 for eighth in EIGHTHS)
            yield of.name, mlps.nested_mlp_case(of.tokens, of.hidden, of.channels, kept, False)
        yield of.name, mlps.inner_case(of.tokens, of.hidden, of.channels)
        yield of.name, attention.case(of.attention, of.attention.groups)


def _quick(case: Case) -> Case:
    """Without what torch.compile makes."""

    def build(device: torch.device, dtype: torch.dtype) -> Inputs:
        inputs = case.build(device, dtype)
        return replace(inputs, providers=tuple(item for item in inputs.providers if not _compiles(item)))

    return replace(case, build=build)


def _compiles(provider: Provider) -> bool:
    return "compile" in provider.name


def _document(row: Row, model: str, ceilings: Ceilings) -> dict[str, Any]:
    document = {"model": model} | row.document() | {"peak_tflops": ceilings.flops_per_second / 1e12}
    if row.times is None:
        return document
    tflops = row.work.flops / row.times.median / 1e9
    return document | {"tflops": tflops, "share_of_peak": tflops * 1e12 / ceilings.flops_per_second}
