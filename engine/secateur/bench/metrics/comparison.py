"""Models that took turns under the same load, compared round by round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from secateur.bench.load.record import Phase, RequestRecord
from secateur.bench.metrics.row import METRICS, throughput
from secateur.bench.metrics.statistics import Ratio, ratio_of_rounds

COMPARED_METRICS = ("ttft", "tpot", "e2el")
MIN_DIFFERENCE = 0.01
"""A difference smaller than this is none for anybody, however certain it is."""


def compare(records: Sequence[RequestRecord], first: str, second: str) -> dict[str, Any]:
    """Ratios of two models under one load, `second` over `first`.

    Args:
        records: of that load, both models.
    """
    by_round: Mapping[str, list[list[RequestRecord]]] = {
        model: _rounds(records, model) for model in (first, second)
    }
    ratios = {}
    for name, value in _values().items():
        ratio = ratio_of_rounds(
            [value(part) for part in by_round[first]], [value(part) for part in by_round[second]]
        )
        if ratio is not None:
            ratios[name] = _to_json(ratio)
    return {"first": first, "second": second, "rounds": len(by_round[first]), "ratios": ratios}


def verdict(ratio: Ratio) -> str:
    """What may be said of a ratio."""
    if ratio.interval is None:
        return "too few rounds to say"
    if not ratio.differ or abs(ratio.value - 1) < MIN_DIFFERENCE:
        return "no difference beyond noise"
    return f"{ratio.value:.3g} times"


def _values() -> dict[str, Callable[[list[RequestRecord]], float]]:
    values: dict[str, Callable[[list[RequestRecord]], float]] = {}
    for metric in COMPARED_METRICS:
        values[f"median_{metric}_ms"] = lambda part, metric=metric: _median(part, metric)  # type: ignore[misc]
    values["output_throughput"] = lambda part: float(throughput(part, None)["output_throughput"])
    return values


def _rounds(records: Sequence[RequestRecord], model: str) -> list[list[RequestRecord]]:
    rounds = sorted({record.round for record in records})
    return [[r for r in records if r.round == number and r.model == model] for number in rounds]


def _median(part: Sequence[RequestRecord], metric: str) -> float:
    """0 where there is nothing."""
    values = [v for r in part if r.ok and r.phase is Phase.MEASURED for v in METRICS[metric](r)]
    return float(np.median(values)) if values else 0.0


def _to_json(ratio: Ratio) -> dict[str, Any]:
    return {
        "ratio": round(ratio.value, 5),
        "interval": ratio.interval and [round(ratio.interval.low, 5), round(ratio.interval.high, 5)],
        "differ": None if ratio.differ is None else ratio.differ and abs(ratio.value - 1) >= MIN_DIFFERENCE,
        "verdict": verdict(ratio),
    }
