"""What comes after a search: the choice among finalists, the cut, its repair, the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, device

from secateur.checkpoint.export import export
from secateur.checkpoint.verification import start_verification
from secateur.config.prune import PruneOptions
from secateur.evaluation.opening import evaluator_of
from secateur.model.decoder import map_layer
from secateur.model.forward import perplexity
from secateur.model.mapped import on_disk
from secateur.progress import ProgressReporter, StageTimer
from secateur.prune.choice import Choice, choose
from secateur.prune.prepared_run import PreparedRun, stored_dtype
from secateur.prune.record import build_record
from secateur.prune.repair import RepairResult, repair
from secateur.search.predictor import SelectedPredictor
from secateur.space.budget import Goal
from secateur.study.trial import EvaluatedArchitecture

HOST = device("cpu")


@dataclass(frozen=True)
class CheckpointRequest:
    """A checkpoint to make.

    Attributes:
        options: those that all was prepared with, or others that differ in what is written where.
        goal: the budget to keep.
        candidates: evaluated architectures that fit it, at least one.
    """

    options: PruneOptions
    goal: Goal
    candidates: list[EvaluatedArchitecture]


def make_checkpoints(
    prepared: PreparedRun,
    requests: Sequence[CheckpointRequest],
    selected_predictor: SelectedPredictor | None,
    reporter: ProgressReporter,
    clock: StageTimer,
) -> list[dict[str, Any]]:
    """Choose among candidates on unseen text, cut, repair, export; return what each ``secateur.json`` says.

    All requests are repaired in one pass of the dense model. Seconds until the end of repair are the same
    in every record: they were spent once.

    Args:
        selected_predictor: the predictor that led to the candidates, for the record.

    Raises:
        OutputFailed: a result could not be written; those before it are whole.
    """
    start_verification()
    with clock.stage("choose"):
        evaluator = evaluator_of(
            prepared.library,
            prepared.split.validation,
            state_bytes=prepared.caches.prefixes,
            teacher_bytes=prepared.caches.teacher,
        )
        winners = [choose(request.goal, request.candidates, evaluator, reporter) for request in requests]
        dense_nll = evaluator.dense_nll
        del evaluator  # its distributions and states take gigabytes
        prepared.library.forget()
    with clock.stage("repair"):
        plain = {winner.architecture: winner.unseen.nll for winner in winners}
        in_sequence = prepared.options.repair != "none"
        keep = partial(on_disk, folder=prepared.options.study_folder)
        repaired = repair(
            prepared.library, plain, prepared.split, reporter, in_sequence=in_sequence, keep=keep
        )
    return [
        _export_checkpoint(
            prepared,
            request,
            winner,
            repaired[winner.trial.architecture],
            dense_nll,
            selected_predictor,
            StageTimer(dict(clock.seconds)),
            reporter,
        )
        for request, winner in zip(requests, winners, strict=True)
    ]


def _export_checkpoint(
    prepared: PreparedRun,
    request: CheckpointRequest,
    winner: Choice,
    slim: RepairResult,
    dense_nll: float,
    selected_predictor: SelectedPredictor | None,
    clock: StageTimer,
    reporter: ProgressReporter,
) -> dict[str, Any]:
    """Report on a repaired model and export it; returns its record."""
    options, source, clock = request.options, prepared.source, StageTimer(dict(clock.seconds))
    stored = stored_dtype(options, source, prepared.model)
    frame = replace(prepared.library.master, layers=()).to(device=HOST)  # what is written is the host's
    model = replace(frame, layers=tuple(map_layer(layer, Tensor.cpu) for layer in slim.layers()))
    record = build_record(prepared, options, request.goal, model, winner.trial, selected_predictor, stored)
    record["repair"], record["repair_share"] = slim.how, slim.share
    record["choice"] = winner.to_json()
    name = ",".join(corpus.name for corpus in prepared.reserved) or "validation"
    for side, nll in (("dense", dense_nll), ("slim", slim.nll)):
        record[side]["perplexity"] = {name: perplexity(nll)}
    record["seconds"] = clock.seconds | {"total": round(sum(clock.seconds.values()), 2)}
    reporter.stage(f"exporting {options.out} and opening it with transformers", 1)
    with clock.stage("export"):
        verification = export(model, source, options.out, record, stored)
    reporter.step()
    record["verified"] = verification.to_json()
    return record
