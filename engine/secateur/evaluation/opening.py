"""What a block library and an evaluator are opened from.

The process that searches, its workers, the actors of a Ray cluster and a later cut from the study all
open them here, from one description, so all of them measure the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from secateur.calibrate.block_library import DEFAULT_CACHE_BYTES, BlockLibrary
from secateur.calibrate.calibration import Calibration, is_complete
from secateur.checkpoint.source import open_source
from secateur.errors import BadInput
from secateur.evaluation.batch import BatchEvaluator
from secateur.evaluation.evaluator import (
    CHUNK_WINDOWS,
    DEFAULT_STATE_BYTES,
    DEFAULT_TEACHER_BYTES,
    PrefixEvaluator,
)
from secateur.model.compute import Compute
from secateur.model.decoder import DecoderModel
from secateur.model.processor import set_malloc_trim_threshold
from secateur.model.units import num_parameters, permute

# Beyond, a chunk of windows fills an H100 by itself (448 tiles of a product at 8B): calculated, not measured.
BATCHED_PARAMETERS = 1_000_000_000


@dataclass(frozen=True)
class LibrarySpec:
    """A description of a block library, small enough to send.

    Attributes:
        model: as `open_source` takes it; a worker on another machine finds it there by the same name.
        fingerprint: of the model (`ModelSource.fingerprint`): a worker that finds another one says so.
        calibration: folder of a complete calibration, also for workers on other machines.
        repair: whether the last projection of what is cut is fitted again; otherwise it is only cut.
        compute: where, and in which dtype.
        cache_bytes: how much memory built projections may take.
    """

    model: str
    fingerprint: str
    calibration: Path
    repair: bool
    compute: Compute
    cache_bytes: int = DEFAULT_CACHE_BYTES


@dataclass(frozen=True, eq=False)
class EvaluatorSpec:
    """A description of an evaluator, small enough to send.

    Attributes:
        windows_BT: the windows that candidates are measured on.
        state_bytes, teacher_bytes: limits of the caches of one evaluator.
    """

    library: LibrarySpec
    windows_BT: Tensor
    state_bytes: int = DEFAULT_STATE_BYTES
    teacher_bytes: int = DEFAULT_TEACHER_BYTES

    @property
    def num_chunks(self) -> int:
        """Chunks of windows there are."""
        return math.ceil(len(self.windows_BT) / CHUNK_WINDOWS)

    def for_worker(self, worker: int) -> EvaluatorSpec:
        """That of the worker of that number: they take the devices of a machine in turn."""
        compute = self.library.compute.for_worker(worker)
        return replace(self, library=replace(self.library, compute=compute))


def open_library(spec: LibrarySpec, model: DecoderModel | None = None) -> BlockLibrary:
    """The block library that a description is of.

    Args:
        model: the dense model as it is stored, if this process has loaded it already.

    Raises:
        BadInput: the model or its calibration is not here, or the model is another one.
    """
    if model is None:
        source = open_source(spec.model, drop_extra_tokens=True)  # no text is read here
        if source.fingerprint != spec.fingerprint:
            raise BadInput("model", spec.model, "is another model on the machine of this worker")
        model = source.load_model()
    if not is_complete(spec.calibration):
        reason = "the statistics are not there on the machine of this worker; give a folder that all share"
        raise BadInput("study", spec.calibration, reason)
    calibration = Calibration(spec.calibration)
    repairs = calibration.repairs if spec.repair else None
    compute = spec.compute
    home = model.device if compute.streamed else compute.device
    pinned = compute.streamed and compute.device.type == "cuda"
    sorted_model = permute(model, calibration.orders, home, pinned=pinned)
    return BlockLibrary(
        sorted_model, repairs, compute.dtype, device=compute.device, cache_bytes=spec.cache_bytes
    )


def open_evaluator(spec: EvaluatorSpec, library: BlockLibrary | None = None) -> PrefixEvaluator:
    """The evaluator that a description is of.

    Args:
        library: the one that `spec.library` describes, if this process has opened it already.

    Raises:
        BadInput: as `open_library`.
    """
    set_malloc_trim_threshold()
    if library is None:
        library = open_library(spec.library)
    return evaluator_of(
        library, spec.windows_BT, state_bytes=spec.state_bytes, teacher_bytes=spec.teacher_bytes
    )


def evaluator_of(
    library: BlockLibrary,
    windows_BT: Tensor,
    *,
    state_bytes: int = DEFAULT_STATE_BYTES,
    teacher_bytes: int = DEFAULT_TEACHER_BYTES,
) -> PrefixEvaluator:
    """The evaluator that is fastest for a model where it is.

    One candidate of a small model leaves a GPU idle, and layers that are streamed should come for many at
    once: several candidates go through the model together there.

    Args:
        state_bytes, teacher_bytes: limits of its caches.
    """
    model = library.master
    parameters = sum(num_parameters(half) for layer in model.layers for half in (layer.attention, layer.ffn))
    batched = library.streamed or (library.device.type != "cpu" and parameters <= BATCHED_PARAMETERS)
    kind = BatchEvaluator if batched else PrefixEvaluator
    return kind(library, windows_BT, state_bytes=state_bytes, teacher_bytes=teacher_bytes)
