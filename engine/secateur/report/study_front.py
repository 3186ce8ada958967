"""The pairs of a study that no other pair beats in both cost and KL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from secateur.space.costs.cost import Cost
from secateur.study.pareto import front
from secateur.study.trial import EvaluatedArchitecture
from secateur.study.view import StudyView

DEFAULT_COST = "params"
_STEEPEST = 700.0  # nats; the exponential of more is no float


def study_front(view: StudyView, kind: str = DEFAULT_COST) -> dict[str, Any]:
    """What ``secateur study front`` prints as JSON: pairs on the front of cost and KL, cheapest first.

    Raises:
        BadInput: the study does not know such a cost.
    """
    cost = view.cost(kind)
    return {
        "study": view.location,
        "cost": {"kind": kind, "unit": cost.unit, "dense": cost.of(view.dense)},
        "pairs": len(view.trials),
        "front": [
            pair_document(view, pair)
            | {
                "cost": cost.of(pair.architecture),
                "kept": kept_fraction(view, cost, pair),
                "architecture": pair.architecture.to_json(),
            }
            for pair in pareto_pairs(view.trials, cost)
        ],
    }


def pareto_pairs(pairs: Sequence[EvaluatedArchitecture], cost: Cost) -> list[EvaluatedArchitecture]:
    """Pairs that no other beats in both cost and KL, cheapest first."""
    return [pairs[i] for i in front([(cost.of(pair.architecture), pair.measurement.kl) for pair in pairs])]


def pair_document(view: StudyView, pair: EvaluatedArchitecture) -> dict[str, Any]:
    """One pair: its id, what was measured (nats per token), and who proposed it."""
    return {
        "id": pair.architecture.digest,
        "kl": pair.measurement.kl,
        "kl_stderr": pair.measurement.kl_stderr,
        "perplexity_ratio": perplexity_ratio(view, pair),
        "origin": pair.origin,
        "round": pair.round,
    }


def perplexity_ratio(view: StudyView, pair: EvaluatedArchitecture) -> float | None:
    """Perplexity on the search windows over that of the dense model; None where that is unknown."""
    dense = view.dense_nll
    return None if dense is None else math.exp(min(pair.measurement.nll - dense, _STEEPEST))


def kept_fraction(view: StudyView, cost: Cost, pair: EvaluatedArchitecture) -> float:
    """The fraction of the dense model's cost."""
    return round(cost.of(pair.architecture) / cost.of(view.dense), 6)
