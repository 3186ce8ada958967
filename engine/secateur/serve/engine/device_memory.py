"""The memory of the GPUs that engines use, asked of the driver.

Not of torch: that would open a context on each GPU, hundreds of megabytes, in a process that computes
nothing. The figures are those of ``torch.cuda.mem_get_info``, up to what the driver keeps for itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from secateur.errors import BackendUnavailable


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of one GPU: all there are, and those that nobody uses."""

    total: int
    free: int


def device_memories() -> list[DeviceMemory]:
    """The GPUs that this process may use, in its order.

    Raises:
        BackendUnavailable: the driver does not answer, or does not know one of them.
    """
    with _driver() as nvml:
        return [_memory(nvml, name) for name in _visible(nvml)]


def device_count() -> int:
    """How many GPUs this process may use.

    Raises:
        BackendUnavailable: the driver does not answer.
    """
    with _driver() as nvml:
        return len(_visible(nvml))


@contextmanager
def _driver() -> Iterator[Any]:
    from vllm.third_party import pynvml

    try:
        pynvml.nvmlInit()
        try:
            yield pynvml
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise BackendUnavailable(f"the driver of the GPUs does not answer: {error}") from error


def _visible(nvml: Any) -> list[str]:
    """Names of GPUs as in ``CUDA_VISIBLE_DEVICES``: numbers, or identifiers as ``GPU-4f2e...``."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    return [str(index) for index in range(nvml.nvmlDeviceGetCount())]


def _memory(nvml: Any, name: str) -> DeviceMemory:
    by_number = name.isdigit()
    handle = nvml.nvmlDeviceGetHandleByIndex(int(name)) if by_number else nvml.nvmlDeviceGetHandleByUUID(name)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return DeviceMemory(int(memory.total), int(memory.free))
