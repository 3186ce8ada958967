"""Where a prune job computes beside the engines of its server: on which device, or that it waits for one.

A job holds its share of a GPU, of what the driver says is free: engines have taken theirs when they started.
On their GPUs that is the room which is kept for one more engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.config.values import AUTO
from secateur.serve.engine.device_memory import DeviceMemory
from secateur.serve.engine.device_share import room_for_engines

CPU, CUDA = "cpu", "cuda"


@dataclass(frozen=True)
class Device:
    """A GPU as a job finds it.

    Attributes:
        promised: bytes for jobs that run there. What these hold already is not free either and counts twice:
            a job rather waits than takes another's memory.
    """

    memory: DeviceMemory
    has_engines: bool
    promised: int = 0

    @property
    def room(self) -> int:
        """Bytes for one more job; where engines are, not the part that is kept for what they may need."""
        free = room_for_engines(self.memory) if self.has_engines else self.memory.free
        return free - self.promised


@dataclass(frozen=True)
class Placement:
    """What a job is told.

    Attributes:
        device: as in the job's options; empty while it has to wait.
        reason: for people; empty where there was nothing to choose.
    """

    device: str
    reason: str = ""


def place_job(asked: str, needed: int, devices: Sequence[Device]) -> Placement:
    """Decide where a job computes.

    Args:
        asked: its option `device`.
        needed: bytes that it will hold.
        devices: the GPUs of this server, by their number; none where engines compute on the CPU.
    """
    candidates = [number for number in range(len(devices)) if asked in (AUTO, CUDA, f"{CUDA}:{number}")]
    if not candidates:  # the processor, or what the job itself will refuse
        return Placement(asked)
    fitting = [number for number in candidates if devices[number].room >= needed]
    if fitting:
        best = min(fitting, key=lambda number: (devices[number].has_engines, -devices[number].room))
        where = (
            "beside engines, in the room for one more" if devices[best].has_engines else "no engine is there"
        )
        return Placement(f"{CUDA}:{best}", f"computes on {CUDA}:{best}: {where}")
    most = max(devices[number].room for number in candidates)
    lack = f"needs {needed / 1e9:.1f} GB of GPU memory, {max(0, most) / 1e9:.1f} GB are free"
    if asked == AUTO and not any(devices[number].promised for number in candidates):
        return Placement(CPU, f"computes on the CPU: {lack}")  # engines do not go away by themselves
    if all(needed > devices[number].memory.total for number in candidates):
        return Placement(asked)  # never: the job itself says so
    return Placement("", f"waits: {lack}")
