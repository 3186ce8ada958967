"""Will another engine fit beside those that run? Asked before it is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from google.rpc import code_pb2

from secateur.config.serve import EngineOptions
from secateur.errors import BackendUnavailable
from secateur.memory import available_bytes
from secateur.serve.engine import device_share
from secateur.serve.engine.device_memory import DeviceMemory, device_memories
from secateur.serve.engine.environment import on_cpu, weights_dtype
from secateur.serve.engine.footprint import Footprint, footprint
from secateur.serve.engine.memory import kv_cache_share
from secateur.serve.failures import RpcError
from secateur.serve.models.checkpoint import Checkpoint

CPU_OVERHEAD_BYTES = 900 * 2**20
"""Of an engine's process beside weights, keys and values: 750 MiB were seen, 1020 with what it shares."""

RESERVE_BYTES = 512 * 2**20
"""Left free for everything else; with less a version is not kept for a rollback."""


@dataclass(frozen=True)
class AvailableMemory:
    """Memory that there is, and the engines that share it.

    Attributes:
        available: bytes; of the host, or of all GPUs that an engine uses together.
        overhead: on a CPU, what a process of an engine takes beside weights, keys and values.
        num_engines: how many there are.
        device: the fullest of these GPUs; None where engines compute on the CPU.
    """

    available: int
    overhead: int
    num_engines: int
    device: DeviceMemory | None = None

    @classmethod
    def now(cls, num_engines: int, ranks: int = 1) -> AvailableMemory:
        """Look how much there is at this moment; the host's, or the GPUs' where engines run there.

        Args:
            ranks: GPUs of an engine.

        Raises:
            BackendUnavailable: the driver of the GPUs does not answer.
        """
        if on_cpu():
            return cls(available_bytes(), CPU_OVERHEAD_BYTES, num_engines)
        devices = device_memories()[:ranks]  # vLLM takes the first ones
        if not devices:
            raise BackendUnavailable("no GPU can be seen: is CUDA_VISIBLE_DEVICES empty?")
        device = DeviceMemory(min(one.total for one in devices), min(one.free for one in devices))
        return cls(device.free * ranks, 0, num_engines, device)

    @property
    def scarce(self) -> bool:
        """True if nothing should be kept in memory that need not be."""
        return self.available < RESERVE_BYTES

    def taken_since(self, before: int, planned: int) -> str:
        """A line for people: what engines took of GPUs, beside what was planned; empty on a CPU.

        Args:
            before: bytes that were available before they started.
            planned: bytes they were planned to take.
        """
        if self.device is None:
            return ""
        taken = before - self.available
        verdict = "more than" if taken > planned else "of"
        return f"took {taken / 2**30:.1f} GiB of GPU memory, {verdict} {planned / 2**30:.1f} planned"

    def footprint(self, checkpoint: Checkpoint | None, options: EngineOptions) -> Footprint:
        """What an engine takes beside keys and values: of the host, or of each of its GPUs."""
        dtype = weights_dtype(options, self.device is None)
        weights = checkpoint.memory_bytes(dtype) if checkpoint else 0
        if self.device is None:
            processes = options.ranks + (options.ranks > 1)  # one schedules for several that compute
            return Footprint(weights, context=self.overhead * processes)
        return footprint(checkpoint.config() if checkpoint else {}, weights, options)

    def places(self, options: EngineOptions) -> int:
        """How often an engine takes its footprint."""
        return 1 if self.device is None else options.ranks

    def held(self, checkpoint: Checkpoint, options: EngineOptions) -> int:
        """Bytes that an engine with these options has taken."""
        fixed = self.footprint(checkpoint, options).fixed * self.places(options)
        return fixed + (options.kv_cache_bytes or 0)


@dataclass(frozen=True)
class MemoryPlan:
    """What memory a version takes; see ``secateur.v1.MemoryPlan``.

    Attributes:
        unloads: versions kept for a rollback that have to go first, as NAME/VERSION.
        device_fraction: the part of each of its GPUs; None on a CPU.
    """

    weights: int
    kv_cache: int
    overhead: int
    available: int
    fits: bool
    unloads: tuple[str, ...] = ()
    device_fraction: float | None = None

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

    def applied_to(self, options: EngineOptions) -> EngineOptions:
        """Options of an engine that keeps to this plan."""
        return replace(options, kv_cache_bytes=self.kv_cache, device_fraction=self.device_fraction)


def plan_memory(
    needed: Footprint, options: EngineOptions, memory: AvailableMemory, kept_bytes: dict[str, int]
) -> MemoryPlan:
    """Plan the memory of one more engine.

    Args:
        needed: what it takes beside keys and values, as `AvailableMemory.footprint` says.
        options: how it will run.
        memory: what there is.
        kept_bytes: what each version kept for a rollback would free, those to give up first in front.
    """
    unloads: list[str] = []
    available = memory.available
    while True:
        running = memory.num_engines - len(unloads)
        now = _with_available(replace(memory, num_engines=running), available, options)
        to_come = [needed] * max(1, (options.engines or 0) - running)
        plan = _planned(needed, options, now, options.kv_cache_bytes or _share(to_come, options, now))
        waiting = [name for name in kept_bytes if name not in unloads]
        if plan.fits or not waiting:
            return replace(plan, available=memory.available, unloads=tuple(unloads) if plan.fits else ())
        unloads.append(waiting[0])
        available += kept_bytes[waiting[0]]


def plan_start(
    checkpoints: Sequence[Checkpoint], options: EngineOptions, memory: AvailableMemory
) -> list[MemoryPlan]:
    """Share memory out between engines that start at the same time, before the first takes some of it.

    On a GPU there stays room for one more, unless the options say how many there will be or all is needed.

    Returns:
        A plan for each checkpoint.
    """
    footprints = [memory.footprint(checkpoint, options) for checkpoint in checkpoints]
    if memory.device is None:
        share = options.kv_cache_bytes or kv_cache_share(memory.available, len(footprints))
        return [_planned(one, options, memory, share) for one in footprints]
    largest = max(footprints, key=lambda one: one.fixed)
    spare = max(0, (options.engines or len(footprints) + 1) - len(footprints))
    plans: list[MemoryPlan] = []
    for to_come in ([*footprints, *[largest] * spare], footprints):
        share = options.kv_cache_bytes or _share(to_come, options, memory)
        plans = [_planned(one, options, memory, share) for one in footprints]
        fits = sum(plan.needed for plan in plans) <= memory.available
        plans = [replace(plan, fits=plan.fits and fits) for plan in plans]
        if options.engines is not None or all(plan.fits for plan in plans):
            break
    return plans


def _with_available(memory: AvailableMemory, available: int, options: EngineOptions) -> AvailableMemory:
    device = memory.device and replace(memory.device, free=available // options.ranks)
    return replace(memory, available=available, device=device)


def _share(to_come: Sequence[Footprint], options: EngineOptions, memory: AvailableMemory) -> int:
    """Bytes for keys and values of each engine that is still to start."""
    if memory.device is None:
        return kv_cache_share(memory.available - to_come[0].fixed, memory.num_engines + 1)
    share = device_share.kv_cache_share(memory.device, [one.fixed for one in to_come])
    return max(0, share) * options.ranks


def _planned(needed: Footprint, options: EngineOptions, memory: AvailableMemory, kv_cache: int) -> MemoryPlan:
    places = memory.places(options)
    weights, overhead = needed.weights * places, (needed.fixed - needed.weights) * places
    fits = weights + overhead + kv_cache <= memory.available
    fraction = None
    if memory.device is not None:
        least = device_share.least_kv_cache(needed.kv_per_token, options.max_model_len) * places
        fits = fits and kv_cache >= least
        kv_cache = max(kv_cache, least)
        fraction = device_share.device_fraction(needed.fixed + kv_cache // places, memory.device)
    return MemoryPlan(weights, kv_cache, overhead, memory.available, fits, device_fraction=fraction)
