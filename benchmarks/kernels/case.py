"""A call that several providers can do, with what it must cost and what it should give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur_kernels.work import Work

Call = Callable[[], Tensor]
BASELINE = "eager"


class Missing(Exception):
    """A provider that cannot run here; the message says why."""


@dataclass(frozen=True)
class Provider:
    """One way to do it.

    Attributes:
        name: who.
        prepare: makes the call, outside the time measured. Raises `Missing` or ImportError.
    """

    name: str
    prepare: Callable[[], Call]


@dataclass(frozen=True)
class Inputs:
    """What was built for a case.

    Attributes:
        providers: the baseline first.
        reference: fp64 result for some tokens.
        tokens: how many there are.
        token_dim: their dimension in a result.
    """

    providers: tuple[Provider, ...]
    reference: Callable[[Tensor], Tensor]
    tokens: int
    token_dim: int


@dataclass(frozen=True)
class Case:
    """A kernel at one shape.

    Attributes:
        kernel: its name.
        shape: as printed.
        only_gpu: too large for a CPU.
        long: left out by --quick.
        work: least cost, by bytes per element.
        build: makes the inputs on a device.
    """

    kernel: str
    shape: str
    only_gpu: bool
    long: bool
    work: Callable[[int], Work]
    build: Callable[[torch.device, torch.dtype], Inputs]


def forget_compiled() -> None:
    """Drop what torch.compile has made: it gives up after eight shapes of one function."""
    torch._dynamo.reset()


def compiled(function: Callable[..., Tensor], *arguments: Tensor) -> Call:
    """`function` through torch.compile, compiled before it is timed."""
    run = torch.compile(function, dynamic=False)
    try:
        run(*arguments)
    except Exception as error:  # whatever inductor or the C++ compiler raises: the row says it
        raise Missing(f"torch.compile: {str(error).splitlines()[0][:120]}") from error
    return lambda: run(*arguments)


def tilings(
    kernel: str, device: torch.device, dtype: torch.dtype, call: Callable[[Any], Call]
) -> tuple[Provider, ...]:
    """A Triton kernel by each of its tilings; `call` makes one from a tile."""

    def prepare(tiling: Any) -> Callable[[], Call]:
        def with_tile() -> Call:
            triton_only_on_gpu(device)
            from secateur_kernels.triton_backend.tile import tile_for

            return call(tile_for(kernel, dtype, device, tiling))

        return with_tile

    return tuple(Provider(f"{kernel} triton, {tiling}", prepare(tiling)) for tiling in ("plain", "walked"))


def triton_only_on_gpu(device: torch.device) -> None:
    if device.type != "cuda":
        raise Missing("not measured: no GPU")
