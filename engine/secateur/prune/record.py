"""The record of a pruning run: what `secateur.json` says and prune prints as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from secateur.checkpoint.configuration_secateur import SecateurConfig
from secateur.checkpoint.export import describe, weight_bytes
from secateur.config.prune import PruneOptions
from secateur.model.dense import DecoderModel
from secateur.prune.host import versions
from secateur.prune.preparation import PreparedRun
from secateur.search.predictor import SelectedPredictor
from secateur.space.budget import Budget
from secateur.space.costs.parameters import ParameterCount, count_parameters
from secateur.space.goal import Goal
from secateur.study.study import EvaluatedArchitecture


def build_record(
    prepared: PreparedRun,
    options: PruneOptions,
    goal: Goal,
    slim: DecoderModel,
    winner: EvaluatedArchitecture,
    choice: SelectedPredictor | None,
    stored: torch.dtype,
) -> dict[str, Any]:
    """Everything worth knowing about a pruning run but its perplexities and seconds."""
    model, source, pairs, budget = prepared.model, prepared.source, prepared.study.pairs, goal.budget
    corpora = (*prepared.corpora, *prepared.reserved)
    dense_count, slim_count = count_parameters(model), count_parameters(slim)
    config, _ = describe(slim)
    return {
        "model": {
            "reference": options.model,
            "path": str(source.path.absolute()),
            "fingerprint": source.fingerprint,
        },
        "out": str(options.out),
        "parameters": dense_count.to_json(),
        "kept": slim_count.to_json(),
        "kept_fraction": _fraction(slim_count, dense_count),
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
            "pairs": len(pairs),
            "evaluations": sum(pair.round > 0 for pair in pairs.values()),
            "sampler": options.sampler,
            "predictor": choice.predictor.name if choice else None,
            "predictor_quality": _quality(choice),
            **_reported(prepared, goal),
        },
        "seed": options.seed,
        "window": options.window,
        "corpora": [corpus.name for corpus in corpora],
        "corpus_digests": {corpus.name: corpus.digest for corpus in corpora},
        "calibration_tokens": options.evaluation_budget.calibration_tokens,
        "criterion": options.criterion,
        "dtype": str(stored).removeprefix("torch."),
        "versions": versions(),
    }


def _budget(budget: Budget, keep: Mapping[str, float]) -> dict[str, Any]:
    """The first limit; and every one by its kind under ``limits``."""
    limits = {
        limit.kind: {"keep": keep[limit.kind], "limit": limit.max_value, "unit": limit.cost.unit}
        for limit in budget.limits
    }
    kind = budget.limits[0].kind
    return {"kind": kind, **limits[kind], "limits": limits}


def _quality(choice: SelectedPredictor | None) -> dict[str, dict[str, float]]:
    """Cross-validated rank quality of every regressor tried, best first; empty with too few pairs."""
    quality = choice.quality if choice else {}
    return {name: {"tau": found.tau, "top_10_recall": found.recall} for name, found in quality.items()}


def _reported(prepared: PreparedRun, goal: Goal) -> dict[str, Any]:
    """What the paper's sampler had to say for this budget, if it was the one."""
    rounds = prepared.study.get_attr("rounds") or ()
    reports = [note["report"] for note in rounds if note["goal"] == goal.name and note.get("report")]
    return {"paper": reports[-1]} if reports else {}


def _fraction(slim: ParameterCount, dense: ParameterCount) -> dict[str, float]:
    return {
        "total": round(slim.total / dense.total, 5),
        "non_embedding": round(slim.non_embedding / dense.non_embedding, 5),
    }
