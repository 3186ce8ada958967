"""What a job will take, from shapes alone: memory of each stage, the caches that are left, seconds.

Works for a model on `meta`, so for any size. Memory is that of processes; what is memory-mapped (weights of
a folder, repairs, fitted sub-blocks) is not in it. Seconds are arithmetic at rates that `measure_rates`
finds on this machine, and known costs of starting things; compared with runs in docs/scale.md.

Shape suffixes: H hidden, N inner channels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from secateur.calibrate.criteria import GRADIENT_CRITERIA
from secateur.config.prune import PruneOptions
from secateur.errors import BadInput
from secateur.evaluation.evaluator import CHUNK_WINDOWS
from secateur.evaluation.teachers import teacher_bytes_per_token
from secateur.memory import available_bytes
from secateur.model.compute import Compute
from secateur.model.decoder import DecoderModel, tensors_of
from secateur.model.units import last_projection

MEGABYTE = 1_000_000
# This process with its libraries (433 MB) and room for text, regressors and freed blocks that are kept; the
# one in which transformers verifies; a worker, which is a guess. The job of a 3M model peaked at 1.01 GB.
PROCESS_BYTES = 800 * MEGABYTE
VERIFIER_BYTES = 500 * MEGABYTE
WORKER_BYTES = 600 * MEGABYTE
LEAST_CACHE_BYTES = 256 * MEGABYTE
# The default budget: as much as a search gains from, as far as it is free.
WEIGHTS_SHARE, BESIDE_BYTES, FREE_SHARE = 2.5, 3000 * MEGABYTE, 0.8
STATISTICS_WINDOWS = 16  # that go through a sub-block at once
KEPT_PREFIX = 0.6  # share of a candidate that has to be computed: the rest is in the prefix cache
STARTUP_SECONDS, VERIFY_SECONDS, BREED_SECONDS = 8.0, 8.0, 0.25
DISK_BYTES_PER_SECOND = 300 * MEGABYTE


@dataclass(frozen=True)
class Caches:
    """Limits in bytes: built projections, residual streams of prefixes, the dense model's distributions."""

    library: int
    prefixes: int
    teacher: int

    @classmethod
    def of(cls, room: int, teacher_needs: int) -> Caches:
        """A room divided: up to half of it for the teacher, of the rest two thirds for projections."""
        teacher = min(teacher_needs, room // 2)
        return cls(2 * (room - teacher) // 3, (room - teacher) // 3, teacher)


@dataclass(frozen=True)
class Rates:
    """Operations per second of matrix products on one device."""

    bf16: float
    fp32: float
    fp64: float


@dataclass(frozen=True)
class Stage:
    """What a stage takes: bytes of memory at its peak, floating-point operations, other seconds."""

    memory: int
    bf16: float = 0.0
    fp32: float = 0.0
    fp64: float = 0.0
    beside: float = 0.0

    def seconds(self, rates: Rates) -> float:
        """The time at rates of products."""
        return self.bf16 / rates.bf16 + self.fp32 / rates.fp32 + self.fp64 / rates.fp64 + self.beside


@dataclass(frozen=True)
class Plan:
    """A job before it runs.

    Attributes:
        memory: the budget in bytes.
        stages: by name, in their order.
        caches: of one process that evaluates.
        disk: bytes that the study and the checkpoints take.
    """

    memory: int
    stages: Mapping[str, Stage]
    caches: Caches
    disk: int

    def to_json(self, rates: Rates) -> dict[str, Any]:
        """Gigabytes and seconds of every stage."""
        rows = {
            name: {"gigabytes": round(stage.memory / 1e9, 2), "seconds": round(stage.seconds(rates), 1)}
            for name, stage in self.stages.items()
        }
        return {
            "memory": self.memory,
            "caches": vars(self.caches),
            "disk": self.disk,
            "stages": rows,
            "seconds": round(sum(row["seconds"] for row in rows.values()), 1),
        }


def plan_job(model: DecoderModel, options: PruneOptions, compute: Compute, *, mapped: bool) -> Plan:
    """The plan for a model, which may be on `meta`.

    Args:
        mapped: whether its weights are memory-mapped, rather than in memory.

    Raises:
        BadInput: it does not fit into `options.memory`, or into what is free where nothing is given.
    """
    sizes = _Sizes(model, options, compute)
    fixed = sizes.fixed_bytes(mapped)
    search = sizes.search_bytes + fixed
    least = max(search + sizes.processes * LEAST_CACHE_BYTES, sizes.repair_bytes + fixed)
    least = max(least, sizes.export_bytes + fixed, sizes.calibrate_bytes + fixed)
    free = _free_bytes(compute)
    memory = options.memory
    if memory is None:
        wanted = int(WEIGHTS_SHARE * sizes.stored_bytes) + BESIDE_BYTES
        memory = max(least, min(wanted, int(free * FREE_SHARE)))
    if memory < least:
        raise BadInput("memory", f"{memory / 1e9:.1f} GB", f"this job needs at least {least / 1e9:.1f} GB")
    if least > free:
        reason = f"this job needs at least {least / 1e9:.1f} GB"
        raise BadInput("memory", f"{free / 1e9:.1f} GB free", reason)
    caches = Caches.of((memory - search) // sizes.processes, sizes.teacher_bytes)
    stages = {
        "load": Stage(PROCESS_BYTES + (0 if mapped else sizes.stored_bytes), beside=sizes.load_seconds),
        "calibrate": sizes.calibrate(fixed),
        "search": sizes.search(memory),
        "choose": sizes.choose(memory),
        "repair": sizes.repair(fixed),
        "export": Stage(sizes.export_bytes + fixed, beside=sizes.export_seconds),
    }
    return Plan(memory, stages, caches, sizes.disk_bytes)


def describe(plan: Plan) -> str:
    """One line: the budget, and what is left of it for caches."""
    caches = plan.caches
    parts = f"projections {caches.library / 1e9:.2f}, prefixes {caches.prefixes / 1e9:.2f}"
    return f"memory {plan.memory / 1e9:.1f} GB; caches: {parts}, dense model {caches.teacher / 1e9:.2f} GB"


def _free_bytes(compute: Compute) -> int:
    if not compute.accelerated:
        return available_bytes()
    return int(torch.get_device_module(compute.device).mem_get_info(compute.device)[0])


def measure_rates(compute: Compute) -> Rates:
    """Rates of products of the sizes that a job is made of; takes about a second."""

    def rate(dtype: torch.dtype, size: int) -> float:
        left, right = (torch.ones(size, size, dtype=dtype, device=compute.device) for _ in range(2))
        best = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            float((left @ right)[0, 0])  # waits for a device
            best = min(best, time.perf_counter() - started)
        return 2 * size**3 / best

    large = 4 if compute.accelerated else 1
    return Rates(
        rate(compute.dtype, 1024 * large), rate(torch.float32, 768 * large), rate(torch.float64, 512 * large)
    )


class _Sizes:
    """Bytes and operations of the parts of a job."""

    def __init__(self, model: DecoderModel, options: PruneOptions, compute: Compute) -> None:
        self.options, reads = options, options.evaluation_budget
        halves = [half for layer in model.layers for half in (layer.attention, layer.ffn) if half is not None]
        self.projections = [tuple(last_projection(half).shape) for half in halves]
        self.hidden, self.vocabulary = model.hidden_size, len(model.head_VH)
        self.widest = max(inner for _, inner in self.projections)
        self.layer_weights = sum(tensor.numel() for half in halves for tensor in tensors_of(half).values())
        ends = self.vocabulary * self.hidden * (1 if model.tied else 2)
        self.weights = self.layer_weights + ends
        self.stored_bytes = self.weights * model.dtype.itemsize
        self.fast_bytes = 0 if model.dtype == compute.dtype else self.weights * compute.dtype.itemsize
        self.itemsize = compute.dtype.itemsize
        self.tokens = reads.calibration_tokens
        self.repair_tokens = reads.repair_tokens
        self.search_tokens = reads.search_windows * options.window
        self.validation_tokens = reads.validation_windows * options.window
        self.goals, self.keep = len(options.goals), max(max(limits.values()) for limits in options.limits)
        self.processes = options.workers or 1
        per_token = teacher_bytes_per_token(model.head_VH, compute.device.type)
        self.teacher_bytes = self.search_tokens * per_token
        self.accelerated = compute.accelerated
        # Embedding and head, the layer that is computed with and the one that is on its way.
        moving = 2 * self.layer_weights // len(model.layers)
        self._streamed_bytes = (ends + moving) * self.itemsize if compute.streamed else 0

    def fixed_bytes(self, mapped: bool) -> int:
        """Memory of the whole job: processes, sorted weights, and those in the dtype that is computed in."""
        copies = self._streamed_bytes or self.stored_bytes + self.fast_bytes
        original = 0 if mapped or self.accelerated else self.stored_bytes
        workers = self.options.workers or 0
        processes = 0 if self.accelerated else PROCESS_BYTES + VERIFIER_BYTES + workers * WORKER_BYTES
        return processes + original + (1 + workers) * copies

    @property
    def _chunk(self) -> int:
        """Activations of the windows that go through a sub-block at once, per window of the chunk."""
        return self.options.window * (4 * self.hidden + 4 * self.widest) * 4

    @property
    def calibrate_bytes(self) -> int:
        """Beside the model, in place of its sorted copy: streams, a chunk, a Gram matrix, its inverse."""
        streams = 2 * self.tokens * self.hidden * self.itemsize
        solving = 24 * self.widest**2 + 12 * self.hidden * self.widest
        gradients = self.weights * self.itemsize if self.options.criterion in GRADIENT_CRITERIA else 0
        working = streams + max(STATISTICS_WINDOWS * self._chunk, solving) + gradients
        return max(0, working - self.stored_bytes - self.fast_bytes)

    @property
    def search_bytes(self) -> int:
        """Activations and a slice of logits."""
        logits = CHUNK_WINDOWS * self.options.window * self.vocabulary * 4
        return self.processes * (CHUNK_WINDOWS * self._chunk + logits)

    @property
    def repair_bytes(self) -> int:
        """Streams of the dense and every slim model, inner activations, a ridge; or a model compared."""
        streams = (2 + 2 * self.goals) * self.repair_tokens * self.hidden * self.itemsize
        kept = int(self.widest * min(1.0, self.keep + 0.2))
        inner = self.repair_tokens * kept * self.itemsize + STATISTICS_WINDOWS * self._chunk
        ridge = 28 * kept**2 + 16 * kept * self.hidden
        slim = 0 if self._streamed_bytes else int(self.weights * self.itemsize * self.keep)
        compared = slim + STATISTICS_WINDOWS * self._chunk
        return max(streams + inner + ridge, compared)

    @property
    def export_bytes(self) -> int:
        """A slim model, and what of it does not own its memory once more."""
        return 0 if self.accelerated else int(1.5 * self.keep * self.stored_bytes)

    @property
    def disk_bytes(self) -> int:
        """Repairs, fitted sub-blocks and checkpoints."""
        repairs = sum(4 * (inner * inner // 2 + 5 * hidden * inner) for hidden, inner in self.projections)
        return repairs + 2 * int(sum(sum(each.values()) for each in self.options.limits) * self.stored_bytes)

    @property
    def load_seconds(self) -> float:
        return STARTUP_SECONDS + 2 * self.stored_bytes / DISK_BYTES_PER_SECOND / 4

    @property
    def export_seconds(self) -> float:
        return self.goals * (VERIFY_SECONDS + 3 * self.keep * self.stored_bytes / DISK_BYTES_PER_SECOND)

    def _forward(self, tokens: float, share: float = 1.0) -> float:
        """Operations of layers and head."""
        return 2 * tokens * (share * self.layer_weights + self.vocabulary * self.hidden)

    def calibrate(self, fixed: int) -> Stage:
        squares = sum(inner**2 for _, inner in self.projections)
        cubes = sum(inner**3 for _, inner in self.projections)
        mixed = sum(hidden * inner**2 for hidden, inner in self.projections)
        return Stage(
            self.calibrate_bytes + fixed,
            bf16=self.tokens * (2 * self.layer_weights + squares),
            fp32=3 * mixed + cubes / 3,
            fp64=2.5 * cubes + mixed,
        )

    def search(self, memory: int) -> Stage:
        """Single cuts share half a path on average, candidates what `KEPT_PREFIX` says."""
        cuts, candidates = len(self.projections), self.options.evaluations
        built = sum(2 * hidden * inner * inner / 20 for hidden, inner in self.projections)
        share = 0.5 * cuts + KEPT_PREFIX * self.keep * candidates
        head = 2 * self.search_tokens * self.vocabulary * self.hidden
        layers = 2 * self.search_tokens * self.layer_weights
        return Stage(
            memory,
            bf16=(share * layers + (cuts + candidates) * head + 2 * (layers + head)) / self.processes,
            fp32=candidates * built,
            beside=BREED_SECONDS * candidates,
        )

    def choose(self, memory: int) -> Stage:
        finalists = 5 * self.goals
        return Stage(memory, bf16=self._forward(self.validation_tokens * (1 + 0.7 * finalists), self.keep))

    def repair(self, fixed: int) -> Stage:
        """The dense layers once; for each goal the slim ones, Gram matrices, and three models compared."""
        tokens, bf16, fp64 = self.repair_tokens, 2.0 * self.repair_tokens * self.layer_weights, 0.0
        for hidden, inner in self.projections:
            kept = self.keep * inner
            grams = kept**2 + 2 * kept * hidden + 3 * hidden**2
            bf16 += self.goals * tokens * (grams + 4 * hidden * kept)
            fp64 += self.goals * (kept**3 / 3 + 2 * kept**2 * hidden + 3 * hidden**3)
        bf16 += self.goals * tokens * 2 * self.keep * self.layer_weights
        bf16 += 3 * self.goals * self._forward(self.validation_tokens, self.keep)
        return Stage(self.repair_bytes + fixed, bf16=bf16, fp64=fp64)
