"""The record of a pruning run: what `secateur.json` says and prune prints as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from secateur.checkpoint.configuration_secateur import SecateurConfig
from secateur.checkpoint.export import RECORD, describe, weight_bytes
from secateur.checkpoint.source import ModelSource
from secateur.config.prune import PruneOptions
from secateur.model.decoder import DecoderModel
from secateur.prune.prepared_run import PreparedRun, versions
from secateur.search.predictor import SelectedPredictor
from secateur.space.budget import Budget, Goal
from secateur.space.costs.parameters import count_parameters
from secateur.study.trial import EvaluatedArchitecture


def build_record(
    prepared: PreparedRun,
    options: PruneOptions,
    goal: Goal,
    slim: DecoderModel,
    winner: EvaluatedArchitecture,
    selected_predictor: SelectedPredictor | None,
    stored: torch.dtype,
) -> dict[str, Any]:
    """Everything worth knowing about a pruning run but its perplexities and seconds."""
    model, source, trials, budget = prepared.model, prepared.source, prepared.study.trials, goal.budget
    corpora = (*prepared.corpora, *prepared.reserved)
    dense_count, slim_count = count_parameters(model), count_parameters(slim)
    config, _ = describe(slim)
    return {
        "model": {
            "reference": options.model,
            "path": str(source.path.absolute()),
            "fingerprint": source.fingerprint,
            **_cut_before(source),
        },
        "out": str(options.out),
        "parameters": dense_count.to_json(),
        "kept": slim_count.to_json(),
        "kept_fraction": slim_count.fraction_of(dense_count),
        "budget": _budget(budget, options.limits[0]),
        "architecture": winner.architecture.to_json(),
        "layout": "per-layer" if config.model_type == SecateurConfig.model_type else "stock",
        "dense": {
            "parameters": dense_count.to_json(),
            "memory_bytes": weight_bytes(model, stored),
            "perplexity": {},
        },
        "slim": {
            "parameters": slim_count.to_json(),
            "memory_bytes": weight_bytes(slim, stored),
            "perplexity": {},
        },
        "search": {
            "kl": winner.measurement.kl,
            "kl_stderr": winner.measurement.kl_stderr,
            "origin": winner.origin,
            "pairs": len(trials),
            "evaluations": sum(trial.round > 0 for trial in trials.values()),
            "sampler": options.sampler,
            "predictor": selected_predictor.name if selected_predictor else None,
            "predictor_quality": selected_predictor.quality_to_json() if selected_predictor else {},
            **_reported(prepared, goal),
        },
        "seed": options.seed,
        "window": options.window,
        "corpora": [corpus.name for corpus in corpora],
        "corpus_digests": {corpus.name: corpus.digest for corpus in corpora},
        "texts": {corpus.name: corpus.contents(prepared.split.tokens[corpus.name]) for corpus in corpora},
        "calibration_tokens": options.evaluation_budget.calibration_tokens,
        "criterion": options.criterion,
        "dtype": str(stored).removeprefix("torch."),
        "options": options.for_study(),
        "versions": versions(),
    }


def _cut_before(source: ModelSource) -> dict[str, Any]:
    """Of a model that was pruned before: what it was cut from, and how much of that it kept."""
    file = source.path / RECORD
    if source.kind != "folder" or not file.is_file():
        return {}
    earlier = json.loads(file.read_text("utf-8"))
    return {"cut_from": {**earlier["model"], "kept_fraction": earlier["kept_fraction"]}}


def _budget(budget: Budget, keep: Mapping[str, float]) -> dict[str, Any]:
    """The first limit; and every one by its kind under ``limits``."""
    limits = {
        limit.kind: {"keep": keep[limit.kind], "limit": limit.max_value, "unit": limit.cost.unit}
        for limit in budget.limits
    }
    kind = budget.limits[0].kind
    return {"kind": kind, **limits[kind], "limits": limits}


def _reported(prepared: PreparedRun, goal: Goal) -> dict[str, Any]:
    """What the paper's sampler had to say for this budget, if it was the one."""
    rounds = prepared.study.get_attr("rounds") or ()
    reports = [note["report"] for note in rounds if note["goal"] == goal.name and note.get("report")]
    return {"paper": reports[-1]} if reports else {}
