"""What comes before a search: model, windows, study, statistics, evaluator."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from secateur import __version__
from secateur.calibrate.block_library import BlockLibrary
from secateur.calibrate.calibration import CalibrationConfig, calibrate, is_complete
from secateur.calibrate.corpus import Corpus, read_corpora
from secateur.calibrate.criteria import GRADIENT_CRITERIA
from secateur.calibrate.self_text import self_corpus
from secateur.checkpoint.completeness import check_range
from secateur.checkpoint.source import ModelSource, check_context_length, open_source
from secateur.config.prune import SELF_CORPUS, PruneOptions
from secateur.errors import BadInput, BrokenCheckpoint
from secateur.evaluation.measurement import Evaluator
from secateur.evaluation.opening import EvaluatorSpec, LibrarySpec, open_evaluator, open_library
from secateur.evaluation.workers.pool import open_pool
from secateur.model.compute import Compute, choose_compute
from secateur.model.decoder import DecoderModel, dense_config, named_tensors
from secateur.model.forward import mean_nll
from secateur.model.processor import named_dtype, set_malloc_trim_threshold
from secateur.progress import ProgressReporter, StageTimer
from secateur.prune.goals import LatencyMeter, goals_for, latency_table_for, space_for
from secateur.prune.plan import Caches, describe, measure_rates, plan_job
from secateur.prune.windows import WindowSplit, check_disjoint, split_windows
from secateur.space.budget import COSTS, Goal
from secateur.space.costs.parameters import count_parameters
from secateur.space.space import Space
from secateur.storage import os_errors_as_output_failed
from secateur.study.storage import FileLock
from secateur.study.study import Study


@dataclass(frozen=True)
class PreparedRun:
    """All that a search, and cutting afterwards, is made from.

    Attributes:
        corpora, reserved: text for statistics and search, and text for the choice if it is apart.
        model: the dense model in the dtype it was stored in, units sorted.
        goals: one per budget asked for.
        compute: where candidates are evaluated.
    """

    options: PruneOptions
    source: ModelSource
    corpora: tuple[Corpus, ...]
    reserved: tuple[Corpus, ...]
    model: DecoderModel
    split: WindowSplit
    space: Space
    goals: tuple[Goal, ...]
    study: Study
    library: BlockLibrary
    compute: Compute
    caches: Caches

    @contextmanager
    def evaluator(self) -> Iterator[Evaluator]:
        """Measures candidates on the search windows: in this process, or in workers that end with the block.

        Raises:
            BackendUnavailable: Ray is asked for and not installed.
        """
        library = _library_spec(self.options, self.source, self.compute, self.caches)
        spec = EvaluatorSpec(library, self.split.search, self.caches.prefixes, self.caches.teacher)
        if self.options.workers is None and self.options.ray is None:
            yield open_evaluator(spec, self.library)
            return
        with open_pool(spec, self.options.workers, self.options.ray) as pool:
            yield pool


def prepare(
    options: PruneOptions, reporter: ProgressReporter, clock: StageTimer, meter: LatencyMeter | None = None
) -> PreparedRun:
    """Load, check, calibrate; what an earlier run of the same study left is used again.

    Args:
        meter: measures latency where a limit on it is asked for and no table is given.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel, InfeasibleBudget, StudyMismatch: before any work.
    """
    set_malloc_trim_threshold()
    with clock.stage("load"):
        corpus_files = read_corpora(options.corpus, with_self=True)
        reserved_files = read_corpora(options.validation) if options.validation else ()
        source = open_source(options.model, options.drop_extra_tokens)
        check_context_length(source, options.window)
        compute = choose_compute(options.device, source.num_weights)
        if compute.streamed and options.criterion in GRADIENT_CRITERIA:
            reason = (
                f"needs the whole model on {compute.device}, which has no room; give another, or `device` cpu"
            )
            raise BadInput("criterion", options.criterion, reason)
        reporter.message(f"computing on {compute}")
        corpora = tuple(files.rendered(source.tokenizer()) for files in corpus_files)
        reserved = tuple(files.rendered(source.tokenizer()) for files in reserved_files)
        check_disjoint(tuple(corpus for corpus in corpora if corpus.name != SELF_CORPUS), reserved)
        model = source.load_model()
        # Of a model that was cut before, the config of its dense one: from it, and the widths that are
        # left, comes the config of what is cut now.
        model = replace(model, config=dense_config(model.config))
    if any(corpus.name == SELF_CORPUS for corpus in corpora):
        with clock.stage("generate"):
            corpora = _with_self_text(corpora, options, source, model, compute, reporter)
    with clock.stage("load"):
        split = split_windows(source, corpora, reserved, options)
    for corpus in (*corpora, *reserved):
        reporter.message(corpus.describe(split.tokens[corpus.name]))
    plan = plan_job(model, options, compute, mapped=source.kind == "folder")
    reporter.message(describe(plan))
    space = space_for(model, options)
    dtype = stored_dtype(options, source, model)
    check_range(named_tensors(model), dtype)
    with clock.stage("latency") if options.limits_latency else nullcontext():
        table = latency_table_for(model, options, str(dtype).removeprefix("torch."), meter, reporter)
    goals = goals_for(model, space, options, table)
    identity = _identity(options, source, corpora, reserved, space, compute)
    study = Study(options.study_url, space, identity)
    with clock.stage("calibrate"):
        library = _library(source, model, split, options, compute, plan.caches, reporter)
    model = library.master  # the same shapes, and the other may go
    _store_study_attrs(study, options, library, split, space, goals)
    return PreparedRun(
        options, source, corpora, reserved, model, split, space, goals, study, library, compute, plan.caches
    )


def plan_for(options: PruneOptions) -> dict[str, Any]:
    """What the job will take (`Plan.to_json`); reads no weights.

    Raises:
        BadInput: the job cannot fit; and whatever opening the model raises.
    """
    source = open_source(options.model, options.drop_extra_tokens)
    compute = choose_compute(options.device, source.num_weights)
    plan = plan_job(source.outline(), options, compute, mapped=source.kind == "folder")
    return plan.to_json(measure_rates(compute))


def stored_dtype(options: PruneOptions, source: ModelSource, model: DecoderModel) -> torch.dtype:
    """The dtype of weights on disk."""
    return named_dtype(options.dtype, auto=torch.bfloat16 if source.kind == "gguf" else model.dtype)


def _with_self_text(
    corpora: tuple[Corpus, ...],
    options: PruneOptions,
    source: ModelSource,
    model: DecoderModel,
    compute: Compute,
    reporter: ProgressReporter,
) -> tuple[Corpus, ...]:
    """The corpora, the model's own text among them: its share of all windows."""
    reads = options.evaluation_budget
    windows = reads.search_windows + (0 if options.validation else reads.validation_windows)
    tokens = (reads.calibration_tokens + windows * options.window) // len(corpora)
    with _lock(options).held():  # of several processes on one study the first writes
        written = self_corpus(
            source,
            model,
            compute,
            options.study_folder,
            tokens=tokens,
            length=options.window,
            seed=options.seed,
            reporter=reporter,
        )
    return tuple(written if corpus.name == SELF_CORPUS else corpus for corpus in corpora)


def _library(
    source: ModelSource,
    model: DecoderModel,
    split: WindowSplit,
    options: PruneOptions,
    compute: Compute,
    caches: Caches,
    reporter: ProgressReporter,
) -> BlockLibrary:
    spec = _library_spec(options, source, compute, caches)
    with _lock(options).held():  # of several processes on one study the first calibrates
        _calibrate_if_needed(spec.calibration, model, split, options, compute, reporter)
        return open_library(spec, model)


def _library_spec(
    options: PruneOptions, source: ModelSource, compute: Compute, caches: Caches
) -> LibrarySpec:
    calibration = options.study_folder / "calibration"
    repair = options.repair != "none"
    return LibrarySpec(options.model, source.fingerprint, calibration, repair, compute, caches.library)


def _lock(options: PruneOptions) -> FileLock:
    with os_errors_as_output_failed(options.study_folder):
        options.study_folder.mkdir(parents=True, exist_ok=True)
        return FileLock(options.study_folder / "calibration.lock")


def _calibrate_if_needed(
    folder: Path,
    model: DecoderModel,
    split: WindowSplit,
    options: PruneOptions,
    compute: Compute,
    reporter: ProgressReporter,
) -> None:
    if is_complete(folder):
        reporter.message("statistics are there from an earlier run")
        return
    shutil.rmtree(folder, ignore_errors=True)
    tokens = split.statistics.numel()
    reporter.stage(f"calibrating on {tokens:,} tokens", 2 * model.num_layers)
    config = CalibrationConfig(options.criterion, repair=options.repair != "none")
    with torch.inference_mode(options.criterion not in GRADIENT_CRITERIA):
        try:
            for _ in calibrate(model, split.statistics, folder, config, compute):
                reporter.step()
        except FloatingPointError as error:
            raise BrokenCheckpoint("model", options.model, str(error)) from error


def _identity(
    options: PruneOptions,
    source: ModelSource,
    corpora: tuple[Corpus, ...],
    reserved: tuple[Corpus, ...],
    space: Space,
    compute: Compute,
) -> dict[str, Any]:
    """Everything that a trial depends on, and the seed."""
    return {
        "model": source.fingerprint,
        "corpus": [corpus.digest for corpus in corpora],
        "validation": [corpus.digest for corpus in reserved],
        "seed": options.seed,
        "window": options.window,
        "choice of windows": "spread",  # formerly the statistics were of the beginning of the text
        "calibration_tokens": options.evaluation_budget.calibration_tokens,
        "search_windows": options.evaluation_budget.search_windows,
        "validation_windows": options.evaluation_budget.validation_windows,  # held back from the others
        "criterion": options.criterion,
        "repair": options.repair,
        **compute.identity,
        "space": space.to_json(),
        # Only if there are some: studies made before have no such key.
        **({"dropped_tokens": len(source.extra_tokens)} if source.drops_tokens else {}),
    }


def _store_study_attrs(
    study: Study,
    options: PruneOptions,
    library: BlockLibrary,
    split: WindowSplit,
    space: Space,
    goals: tuple[Goal, ...],
) -> None:
    """What reports of the study, and cutting from it later, need to know."""
    model = library.master
    study.set_attr("options", options.for_study())
    study.set_attr("model", options.model)
    study.set_attr("corpora", list(options.corpus))
    study.set_attr("machine", machine())
    study.set_attr("versions", versions())
    costs = {kind: cost(model, space) for kind, cost in COSTS.items()}
    costs |= {limit.kind: limit.cost for goal in goals for limit in goal.budget.limits}
    study.set_attr("costs", {kind: cost.to_json() for kind, cost in costs.items()})
    if study.get_attr("dense") is None:
        predicted = len(split.search) * (split.search.shape[1] - 1)
        nll = mean_nll(library.model, split.search)
        parameters = count_parameters(model).to_json()
        study.set_attr("dense", {"parameters": parameters, "nll": nll, "search_tokens": predicted})


def versions() -> dict[str, str]:
    """Versions of Secateur, Python and the libraries that decide numbers."""
    return {
        "secateur": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "optuna")},
    }


def machine() -> dict[str, Any]:
    """The processor as Linux names it, and the cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"cpu": next(names, platform.processor()), "cores": len(os.sched_getaffinity(0))}
