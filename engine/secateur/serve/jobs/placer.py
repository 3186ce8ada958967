"""Finds each job of a server a place to compute, and knows what the running ones were promised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from secateur.config.values import AUTO
from secateur.errors import SecateurError
from secateur.serve.engine.device_memory import DeviceMemory, device_memories
from secateur.serve.engine.environment import on_cpu
from secateur.serve.jobs.placement import CPU, CUDA, Device, Placement, place_job

_KIND = "device"  # in a job's folder: its study is measured on one kind of device


def server_devices() -> Sequence[DeviceMemory]:
    """The GPUs of this server; none where its engines compute on the CPU."""
    return [] if on_cpu() else device_memories()


class Placer:
    """Decides for one job after another. Its methods block.

    Args:
        num_engine_devices: how many GPUs engines use, the first ones.
        devices: says what is free.
    """

    def __init__(
        self, num_engine_devices: int, devices: Callable[[], Sequence[DeviceMemory]] = server_devices
    ) -> None:
        self._num_engine_devices = num_engine_devices
        self._devices = devices
        self._promised: dict[int, tuple[str, int]] = {}

    def place(self, number: int, options: Mapping[str, Any], folder: Path) -> Placement:
        """Decide where a job computes; what it will hold is promised to it until `release`.

        Args:
            number: the job's.
            options: its `PruneOptions` as JSON.
            folder: the job's own; an attempt after the first stays on the kind of device of the first.
        """
        asked = str(options.get("device", AUTO))
        try:
            memories = self._devices()
            needed = needed_bytes(options) if memories else 0
        except SecateurError:  # the job itself will say what is wrong
            return Placement(asked)
        kind = folder / _KIND
        with suppress(OSError):
            asked = kind.read_text(encoding="utf-8") if asked == AUTO else asked
        placement = place_job(asked, needed, [self._device(*one) for one in enumerate(memories)])
        if placement.reason and placement.device:
            kind.write_text(CPU if placement.device == CPU else CUDA, encoding="utf-8")
            self._promised[number] = placement.device, needed
        return placement

    def release(self, number: int) -> None:
        """Say that a job has ended."""
        self._promised.pop(number, None)

    def _device(self, number: int, memory: DeviceMemory) -> Device:
        promised = sum(size for device, size in self._promised.values() if device == f"{CUDA}:{number}")
        return Device(memory, number < self._num_engine_devices, promised)


def needed_bytes(options: Mapping[str, Any]) -> int:
    """What a job holds of a GPU, by the rule that it checks itself.

    Raises:
        SecateurError: its model cannot be opened.
    """
    from secateur.checkpoint.source import open_source
    from secateur.model.compute import BYTES_PER_WEIGHT

    num_weights = open_source(options["model"], drop_extra_tokens=True).num_weights
    return num_weights * BYTES_PER_WEIGHT * max(1, options.get("workers") or 1)
