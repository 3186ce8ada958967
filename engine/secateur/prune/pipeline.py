"""The main job: model and budgets in, slim checkpoints out. Resumable; every stage reports as it goes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from secateur.config.prune import LATENCY, PruneOptions
from secateur.config.values import from_json, show_numbers
from secateur.errors import BadInput
from secateur.progress import ProgressReporter, StageTimer
from secateur.prune.checks import check_before_start, check_places
from secateur.prune.choice import finalists
from secateur.prune.finish import CheckpointRequest, make_checkpoints
from secateur.prune.goals import LatencyMeter
from secateur.prune.prepared_run import PreparedRun, prepare
from secateur.search.loop import Search, SearchProgress
from secateur.study.trial import EvaluatedArchitecture
from secateur.study.view import view_study


class SearchObserver(Protocol):
    """Told what the search finds, beside what a `ProgressReporter` is told in words."""

    def begin(self, prepared: PreparedRun) -> None:
        """The search begins; the study has what earlier runs evaluated."""

    def evaluated(self, progress: SearchProgress) -> None:
        """Something was evaluated, and is in the study."""


def prune(
    options: PruneOptions, reporter: ProgressReporter, meter: LatencyMeter | None = None
) -> dict[str, Any]:
    """Run the job for one budget; return the record that also lies in the checkpoint as ``secateur.json``.

    Args:
        meter: measures latency where a limit on it is asked for and no table is given.

    Raises:
        BadInput, BrokenCheckpoint, UnsupportedModel, InfeasibleBudget, StudyMismatch: before or
            between stages; nothing half-written.
        OutputFailed: the result could not be written.
    """
    (record,) = prune_all(options, reporter, meter)
    return record


def prune_all(
    options: PruneOptions,
    reporter: ProgressReporter,
    meter: LatencyMeter | None = None,
    observer: SearchObserver | None = None,
) -> list[dict[str, Any]]:
    """One search for all budgets asked for, then a checkpoint for each; as `prune`."""
    check_before_start(options)
    clock = StageTimer()
    prepared = prepare(options, reporter, clock, meter)
    with prepared.evaluator() as evaluator, clock.stage("search"):
        search = Search(
            prepared.space,
            prepared.goals,
            prepared.library,
            evaluator,
            prepared.study,
            evaluations=options.evaluations,
            seed=options.seed,
            sampler=options.sampler,
            predictor=options.predictor,
            patience=options.patience or None,
        )
        if observer is not None:
            observer.begin(prepared)
        _run(search, reporter, observer)
    selected_predictor = search.selected_predictor
    del search, evaluator  # they hold the caches
    _store_stage_seconds(prepared, clock)
    requests = [
        CheckpointRequest(
            replace(options, keep=(keep,) if keep is not None else (), out=out, study=options.study_url),
            goal,
            finalists(prepared.study.ranked(goal.budget)),
        )
        for goal, keep, out in zip(prepared.goals, options.goals, options.outs, strict=True)
    ]
    if empty := [request.goal.name for request in requests if not request.candidates]:
        allowed = f"more: none was left for {', '.join(empty)}; what was evaluated is kept in the study"
        raise BadInput("evaluations", options.evaluations, allowed)
    records = make_checkpoints(prepared, requests, selected_predictor, reporter, clock)
    others_at_work = prepared.study.close()
    if len(prepared.goals) == 1 and not others_at_work:  # a study of several budgets may be cut from again
        shutil.rmtree(options.study_folder / "calibration", ignore_errors=True)
    return records


def cut_from_study(
    options: PruneOptions,
    reporter: ProgressReporter,
    digest: str | None = None,
    meter: LatencyMeter | None = None,
) -> dict[str, Any]:
    """A checkpoint from the trials that a study has, without another search.

    Args:
        options: those of the study, with the budget and the folder to make.
        digest: of the architecture to cut (`Architecture.digest`); None takes the best for the budget.

    Raises:
        BadInput: as `prune`; or the study has no such architecture, or none within the budget.
        OutputFailed: the result could not be written.
    """
    if len(options.goals) > 1:
        raise BadInput("keep", show_numbers(options.keep), "one fraction: one checkpoint is cut")
    check_places(options)
    clock = StageTimer()
    prepared = prepare(options, reporter, clock, meter)
    (goal,) = prepared.goals
    request = CheckpointRequest(options, goal, _candidates(prepared, digest))
    (record,) = make_checkpoints(prepared, [request], None, reporter, clock)
    return record


def options_of_study(study: str, changes: Mapping[str, Any]) -> PruneOptions:
    """What `cut_from_study` asks for.

    Args:
        study: a folder or the URL of a database.
        changes: the checkpoint folder to make (`out`), and the budget; as `PruneOptions` declares them.

    Raises:
        BadInput: there is no study, it does not say its options, or a budget that makes no sense.
    """
    recorded = view_study(study).about.get("options")
    if recorded is None:
        raise BadInput("study", study, "does not say how it was made (an older version made it)")
    recorded = dict(recorded)
    if changes.get("speedup") is None and LATENCY not in changes.get("budget", ""):
        recorded.pop("latency_table", None)
    return from_json(PruneOptions, {**recorded, **changes, "study": study})


def _candidates(prepared: PreparedRun, digest: str | None) -> list[EvaluatedArchitecture]:
    (goal,) = prepared.goals
    trials = prepared.study.trials
    if digest is not None:
        matching = [trial for trial in trials.values() if trial.architecture.digest == digest]
        if not matching:
            raise BadInput("id", digest, f"the study has no such architecture among its {len(trials)} trials")
        return matching
    ranked = prepared.study.ranked(goal.budget)
    if not ranked:
        limit = " and ".join(f"{limit.max_value:,} {limit.cost.unit}" for limit in goal.budget.limits)
        raise BadInput("keep", goal.name, f"no trial of the study is within {limit}; search for it")
    return finalists(ranked)


def _store_stage_seconds(prepared: PreparedRun, clock: StageTimer) -> None:
    """What the stages took; a run that resumes does not make less of it."""
    earlier_seconds = prepared.study.get_attr("seconds") or {}
    longest = {name: max(seconds, earlier_seconds.get(name, 0.0)) for name, seconds in clock.seconds.items()}
    prepared.study.set_attr("seconds", earlier_seconds | longest)


def _run(search: Search, reporter: ProgressReporter, observer: SearchObserver | None) -> None:
    stage = ""
    for progress in search.run():
        if progress.stage != stage:
            stage = progress.stage
            table = f"evaluating {progress.total} single cuts"
            reporter.stage(table if stage == "table" else "searching", progress.total - progress.done + 1)
        if observer is not None:
            observer.evaluated(progress)
        reporter.step(_describe_progress(progress))


def _describe_progress(progress: SearchProgress) -> str:
    if progress.best is None:
        return ""
    line = f"round {progress.trial.round}, {progress.goal}: best KL {progress.best.measurement.kl:.4f}"
    if progress.quality is None:
        return line
    return (
        f"{line}, {progress.predictor} tau {progress.quality.tau:.2f}, top-10 {progress.quality.recall:.0%}"
    )
