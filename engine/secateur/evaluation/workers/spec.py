"""What a worker needs to know to evaluate as the process that started it would."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from secateur.calibrate.calibration import Calibration, is_complete
from secateur.calibrate.library import DEFAULT_CACHE_BYTES, BlockLibrary, permute
from secateur.checkpoint.source import open_source
from secateur.errors import BadInput
from secateur.evaluation.evaluator import (
    CHUNK_WINDOWS,
    DEFAULT_STATE_BYTES,
    DEFAULT_TEACHER_BYTES,
    PrefixEvaluator,
)
from secateur.evaluation.measurement import Evaluator
from secateur.model.dense import build_model
from secateur.model.memory import set_malloc_trim_threshold


@dataclass(frozen=True, eq=False)
class WorkerSpec:
    """A description of an evaluator, small enough to send.

    Attributes:
        model: as `open_source` takes it; a worker on another machine finds it there by the same name.
        fingerprint: of the model (`ModelSource.fingerprint`): a worker that finds another one says so.
        calibration: folder of a complete calibration, also for workers on other machines.
        windows_BT: the windows that candidates are measured on.
        dtype: what is computed in.
        state_bytes, teacher_bytes, library_bytes: limits of the caches of one worker.
    """

    model: str
    fingerprint: str
    calibration: Path
    windows_BT: Tensor
    dtype: torch.dtype
    state_bytes: int = DEFAULT_STATE_BYTES
    teacher_bytes: int = DEFAULT_TEACHER_BYTES
    library_bytes: int = DEFAULT_CACHE_BYTES

    @property
    def num_chunks(self) -> int:
        """Blocks of windows there are."""
        return math.ceil(len(self.windows_BT) / CHUNK_WINDOWS)


def open_evaluator(spec: WorkerSpec) -> Evaluator:
    """The evaluator that a description is of.

    Raises:
        BadInput: the model or its calibration is not here, or the model is another one.
    """
    set_malloc_trim_threshold()
    source = open_source(spec.model)
    if source.fingerprint != spec.fingerprint:
        raise BadInput("model", spec.model, "is another model on the machine of this worker")
    if not is_complete(spec.calibration):
        reason = "the statistics are not there on the machine of this worker; give a folder that all share"
        raise BadInput("study", spec.calibration, reason)
    model = build_model(source.config, source.tensors(), source.reference)
    calibration = Calibration(spec.calibration)
    library = BlockLibrary(
        permute(model, calibration.orders),
        calibration.factors,
        spec.dtype,
        cache_bytes=spec.library_bytes,
    )
    return PrefixEvaluator(
        library, spec.windows_BT, state_bytes=spec.state_bytes, teacher_bytes=spec.teacher_bytes
    )
