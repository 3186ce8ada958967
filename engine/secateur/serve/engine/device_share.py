"""How the memory of a GPU is shared between engines."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.serve.engine.device_memory import DeviceMemory
from secateur.serve.engine.memory import MIN_KV_CACHE_BYTES

DEVICE_FRACTION = 0.9
"""Of a GPU's memory, for all engines together: the rest is for what was reckoned too low."""


def room_for_engines(memory: DeviceMemory) -> int:
    """Bytes of a GPU that engines still to be started may take."""
    return memory.free - int((1 - DEVICE_FRACTION) * memory.total)


def kv_cache_share(memory: DeviceMemory, fixed: Sequence[int]) -> int:
    """Bytes for the keys and values of each engine, the same for all; negative if they do not even fit.

    Args:
        fixed: what each engine that is still to be started takes beside keys and values.
    """
    return (room_for_engines(memory) - sum(fixed)) // len(fixed)


def least_kv_cache(per_token: int, max_model_len: int | None) -> int:
    """The least room that an engine starts with: for one request of the context that was asked for."""
    return max(MIN_KV_CACHE_BYTES, per_token * (max_model_len or 0))


def device_fraction(needed: int, memory: DeviceMemory) -> float:
    """The part of a GPU that vLLM is to find free at its start: all that the engine was planned to take.

    vLLM 0.32 refuses to start where ``ceil(total * fraction)`` is not free, also where the room for keys and
    values is given; by default it wants 0.92, which a second engine never finds.
    """
    return min(1.0, max(needed, 1) / memory.total)
