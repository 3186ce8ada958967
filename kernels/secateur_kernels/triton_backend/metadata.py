"""Name and least work of a launch, as Triton's profiler asks for them; nothing runs unless it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from secateur_kernels.work import Work

Arguments = dict[str, Any]


def metadata(
    name: str, work: Callable[[Arguments, int], Work], sized: str
) -> Callable[[tuple[int, ...], Any, Arguments], Arguments]:
    """A `launch_metadata`: `work` gets a launch's arguments and the bytes per element of the one `sized`."""

    def launch_metadata(grid: tuple[int, ...], kernel: Any, arguments: Arguments) -> Arguments:
        operand = arguments[sized]
        tensor: Tensor = operand if isinstance(operand, Tensor) else operand.base
        itemsize = tensor.element_size()
        least_work = work(arguments, itemsize)
        return {"name": name, f"flops{8 * itemsize}": least_work.flops, "bytes": least_work.bytes}

    return launch_metadata


def read(numbers: Tensor, limit: int) -> list[int]:
    """Numbers on the device, clamped to 0 to `limit`: waits for it. While a graph is captured, `limit`."""
    if numbers.is_cuda and torch.cuda.is_current_stream_capturing():
        return [limit] * numbers.numel()
    return [min(max(number, 0), limit) for number in numbers.tolist()]
