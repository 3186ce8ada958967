"""A study as one document: its protocol, its best architectures, and the data of every figure.

Plain JSON values; the page (`study_page`) and the tables (`study_tables`) are drawn from it alone.
KL in nats per token to the dense model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from secateur.report.removal import removal, sensitivity, sensitivity_sentence, summary
from secateur.report.study_front import DEFAULT_COST, kept_fraction, pair_document, pareto_pairs
from secateur.search.predictor import rank_quality
from secateur.space.budget import Goal, Limit
from secateur.study.trial import EvaluatedArchitecture
from secateur.study.view import StudyView


def study_report(view: StudyView) -> dict[str, Any]:
    """The document of a study; parts that it has no data for are empty and named under ``missing``."""
    ranked = sensitivity(view)
    best = {goal.name: view.best(goal) for goal in view.goals}
    return {
        "study": view.location,
        "protocol": _protocol(view),
        "counts": _counts(view),
        "goals": [_goal(view, goal, best[goal.name]) for goal in view.goals],
        "figures": {
            "front": _front(view),
            "widths": _widths(view, best),
            "predictor": _predictor(view),
            "progress": _progress(view),
            "removal": _removal(view, best, ranked),
            "seconds": dict(view.seconds),
        },
        "missing": _missing(view),
    }


def _protocol(view: StudyView) -> dict[str, Any]:
    """Everything that the numbers depend on; None where the study does not say."""
    identity, dense = view.identity, view.about.get("dense") or {}
    fields = ("seed", "window", "search_windows", "calibration_tokens", "criterion", "compute_dtype")
    nll = view.dense_nll
    chosen = {**identity, **(view.about.get("options") or {})}  # older studies have them in their identity
    return {
        "model": view.about.get("model"),
        "fingerprint": identity.get("model"),
        "layers": view.dense.num_layers,
        "widest": {"groups": max(view.dense.groups), "channels": max(view.dense.channels)},
        "quantum": (identity.get("space") or {}).get("quantum"),
        "parameters": dense.get("parameters"),
        "dense_nll": nll,
        "dense_perplexity": None if nll is None else math.exp(nll),
        "corpora": view.about.get("corpora"),
        "corpus_digests": identity.get("corpus"),
        "search_tokens": dense.get("search_tokens", view.trials[0].measurement.tokens),
        **{field: identity.get(field) for field in fields},
        "sampler": chosen.get("sampler"),
        "predictor": chosen.get("predictor"),
        "machine": view.about.get("machine"),
        "versions": view.about.get("versions"),
    }


def _counts(view: StudyView) -> dict[str, int]:
    searched = view.searched
    return {
        "pairs": len(view.trials),
        "single_cuts": len(view.trials) - len(searched),
        "evaluations": len(searched),
        "rounds": len({pair.round for pair in searched}),
    }


def _goal(view: StudyView, goal: Goal, best: EvaluatedArchitecture | None) -> dict[str, Any]:
    return {
        "name": goal.name,
        "limits": [
            limit.to_json() | {"dense": limit.cost.of(view.dense), "keep": _share(view, limit)}
            for limit in goal.budget.limits
        ],
        "best": None if best is None else _best(view, best),
    }


def _best(view: StudyView, pair: EvaluatedArchitecture) -> dict[str, Any]:
    return pair_document(view, pair) | {
        "costs": {kind: cost.of(pair.architecture) for kind, cost in view.costs.items()},
        "kept": {kind: kept_fraction(view, cost, pair) for kind, cost in view.costs.items()},
        "architecture": pair.architecture.to_json(),
    }


def _front(view: StudyView) -> dict[str, Any]:
    """Every pair with what it keeps, per kind of cost that a goal limits, and who is on the front."""
    limited = [limit.kind for goal in view.goals for limit in goal.budget.limits]
    kinds = list(dict.fromkeys(limited)) or [kind for kind in (DEFAULT_COST,) if kind in view.costs]
    points = [
        pair_document(view, pair)
        | {
            "cost": {kind: view.costs[kind].of(pair.architecture) for kind in kinds},
            "kept": {kind: kept_fraction(view, view.costs[kind], pair) for kind in kinds},
        }
        for pair in view.trials
    ]
    return {
        "costs": {
            kind: {
                "unit": view.costs[kind].unit,
                "dense": view.costs[kind].of(view.dense),
                "front": [pair.architecture.digest for pair in pareto_pairs(view.trials, view.costs[kind])],
                "limits": [
                    {"goal": goal.name, "kept": _share(view, limit)}
                    for goal in view.goals
                    for limit in goal.budget.limits
                    if limit.kind == kind
                ],
            }
            for kind in kinds
        },
        "points": points,
    }


def _share(view: StudyView, limit: Limit) -> float:
    """A limit as a fraction of what the dense model costs."""
    return round(limit.max_value / limit.cost.of(view.dense), 6)


def _widths(view: StudyView, best: Mapping[str, EvaluatedArchitecture | None]) -> dict[str, Any]:
    return {
        "dense": view.dense.to_json(),
        "goals": [
            {"goal": name, "id": pair.architecture.digest, **pair.architecture.to_json()}
            for name, pair in best.items()
            if pair is not None
        ],
    }


def _predictor(view: StudyView) -> dict[str, Any]:
    """Predicted against measured log KL, and how well each round's predictor ranked.

    ``tau`` and ``top_10_recall`` are cross-validated before the round is evaluated; ``proposals_tau``
    says how the round's own proposals, unseen when they were predicted, came out.
    """
    points = [
        {
            "id": pair.architecture.digest,
            "round": pair.round,
            "predicted": pair.predicted,
            "measured": math.log(max(pair.measurement.kl, 1e-12)),
        }
        for pair in view.searched
        if pair.predicted is not None
    ]
    rounds = [_round(document, points) for document in view.rounds]
    return {"points": points, "tau": _tau(points), "rounds": rounds}


def _round(document: Mapping[str, Any], points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    quality = document.get("quality") or {}
    chosen = quality.get(document.get("predictor")) or {}
    round_points = [point for point in points if point["round"] == document["number"]]
    return {
        "round": document["number"],
        "goal": document.get("goal"),
        "predictor": document.get("predictor"),
        "tau": chosen.get("tau"),
        "top_10_recall": chosen.get("top_10_recall"),
        "proposals_tau": _tau(round_points),
        "rivals": quality,
        "proposals": document.get("proposals"),
        "seconds": document.get("seconds"),
        "best_kl": document.get("best_kl"),
    }


def _tau(points: Sequence[dict[str, Any]]) -> float | None:
    if len(points) < 3:  # of two points any order is perfect or perfectly wrong
        return None
    predicted = np.array([point["predicted"] for point in points])
    quality = rank_quality(predicted, np.array([point["measured"] for point in points]))
    return None if quality is None else quality.tau


def _progress(view: StudyView) -> dict[str, Any]:
    """Evaluations of the rounds in order, and the best so far of every goal after each."""
    points = [
        {
            "evaluation": number,
            "id": pair.architecture.digest,
            "round": pair.round,
            "kl": pair.measurement.kl,
            "origin": pair.origin,
            "family": family(pair.origin),
            "fits": [goal.name for goal in view.goals if goal.budget.fits(pair.architecture)],
        }
        for number, pair in enumerate(view.searched, start=1)
    ]
    best = [{"goal": goal.name, "steps": _steps(points, goal.name)} for goal in view.goals]
    return {"points": points, "best": best}


def _steps(points: Sequence[dict[str, Any]], goal: str) -> list[dict[str, Any]]:
    """Where the best KL of a goal changed."""
    steps: list[dict[str, Any]] = []
    for point in points:
        if goal in point["fits"] and (not steps or point["kl"] < steps[-1]["kl"]):
            steps.append({"evaluation": point["evaluation"], "kl": point["kl"]})
    return steps


def family(origin: str) -> str:
    """Who proposed, without the particulars: ``knapsack`` of ``knapsack^0.5, ffn only``."""
    return re.split(r"\^| of |,|\s+\d", origin)[0].strip() or origin


def _removal(
    view: StudyView, best: Mapping[str, EvaluatedArchitecture | None], ranked: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    goals = []
    for name, pair in best.items():
        if pair is not None:
            rows = removal(view, pair.architecture, ranked)
            goals.append(
                {"goal": name, "id": pair.architecture.digest, "summary": summary(rows), "rows": rows}
            )
    return {"sensitivity": list(ranked), "sentence": sensitivity_sentence(ranked), "goals": goals}


def _missing(view: StudyView) -> list[str]:
    """What the study does not say, for its reader to know."""
    missing_parts = {
        "costs of the pairs, so no front and no budgets can be drawn": not view.costs,
        "the table of single cuts": not view.table,
        "its rounds, so nothing is known of the predictor's quality": not view.rounds,
        "what was predicted of the pairs": all(pair.predicted is None for pair in view.trials),
        "the dense model's loss, so perplexity ratios are unknown": view.dense_nll is None,
        "seconds per stage": not view.seconds,
    }
    return [what for what, absent in missing_parts.items() if absent]
