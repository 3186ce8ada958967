"""Will another engine fit beside those that run? Asked before it is started."""

from __future__ import annotations

from dataclasses import dataclass

from google.rpc import code_pb2

from secateur.config.serve import EngineOptions
from secateur.memory import available_bytes
from secateur.serve.engine.engine import free_device_bytes
from secateur.serve.engine.environment import on_cpu
from secateur.serve.engine.memory import kv_cache_share
from secateur.serve.failures import RpcError

CPU_OVERHEAD_BYTES = 900 * 2**20
"""Of an engine's process beside weights, keys and values: 750 MiB were seen, 1020 with what it shares."""

GPU_OVERHEAD_BYTES = 1536 * 2**20
"""Context, libraries, activations. Not measured by us."""

RESERVE_BYTES = 512 * 2**20
"""Left free for everything else; with less a version is not kept for a rollback."""


@dataclass(frozen=True)
class AvailableMemory:
    """Memory that there is, and the engines that share it.

    Attributes:
        available: bytes.
        overhead: what an engine takes beside weights, keys and values.
        num_engines: how many there are.
    """

    available: int
    overhead: int
    num_engines: int

    @classmethod
    def now(cls, num_engines: int) -> AvailableMemory:
        """Look how much there is at this moment; the host's, or the GPU's where engines run there."""
        if on_cpu():
            return cls(available_bytes(), CPU_OVERHEAD_BYTES, num_engines)
        return cls(free_device_bytes(), GPU_OVERHEAD_BYTES, num_engines)

    @property
    def scarce(self) -> bool:
        """True if nothing should be kept in memory that need not be."""
        return self.available < RESERVE_BYTES


@dataclass(frozen=True)
class MemoryPlan:
    """What memory a version takes; see ``secateur.v1.MemoryPlan``.

    Attributes:
        unloads: versions kept for a rollback that have to go first, as NAME/VERSION.
    """

    weights: int
    kv_cache: int
    overhead: int
    available: int
    fits: bool
    unloads: tuple[str, ...] = ()

    @property
    def needed(self) -> int:
        """Bytes in all."""
        return self.weights + self.kv_cache + self.overhead

    def require(self, what: str) -> None:
        """Raise `RpcError` if it does not fit."""
        if not self.fits:
            raise RpcError(
                code_pb2.FAILED_PRECONDITION,
                "INSUFFICIENT_MEMORY",
                f"{what} needs {self.needed:,} bytes of memory ({self.weights:,} for weights, "
                f"{self.kv_cache:,} for keys and values, {self.overhead:,} for its process), "
                f"{self.available:,} are available: "
                "unload a version, or serve with a smaller `kv_cache_memory`",
                metadata={"needed_bytes": str(self.needed), "available_bytes": str(self.available)},
            )


def plan_memory(
    weights: int, options: EngineOptions, memory: AvailableMemory, kept_bytes: dict[str, int]
) -> MemoryPlan:
    """Plan the memory of one more engine.

    Args:
        weights: bytes of its weights.
        options: how it will run.
        memory: what there is.
        kept_bytes: what each version kept for a rollback would free, those to give up first in front.
    """
    unloads: list[str] = []
    available = memory.available
    while True:
        num_engines = memory.num_engines - len(unloads) + 1
        kv_cache = options.kv_cache_bytes or kv_cache_share(
            available - weights - memory.overhead, num_engines
        )
        fits = weights + kv_cache + memory.overhead <= available
        waiting = [name for name in kept_bytes if name not in unloads]
        if fits or not waiting:
            return MemoryPlan(
                weights, kv_cache, memory.overhead, memory.available, fits, tuple(unloads) if fits else ()
            )
        unloads.append(waiting[0])
        available += kept_bytes[waiting[0]]
