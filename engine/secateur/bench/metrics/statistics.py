"""Percentiles with intervals, and ratios of models that took turns.

Requests that run together are alike: they wait for the same prefill and share the same steps. So what is
drawn in a bootstrap is not single requests but blocks of neighbours, and what is compared between models is
whole rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 1000
MIN_BLOCKS = 8  # fewer say too little about their spread
PERCENTILES = (50.0, 90.0, 95.0, 99.0)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ConfidenceInterval:
    """Where a value lies with 95 % confidence."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class DistributionSummary:
    """A distribution.

    Attributes:
        count: values.
        intervals: by the name of the statistic; those that the values are too few for are missing.
    """

    count: int
    mean: float
    std: float
    median: float
    p90: float
    p95: float
    p99: float
    intervals: dict[str, ConfidenceInterval]


def summarise(groups: Sequence[Sequence[float]], block: int = 1, seed: int = 0) -> DistributionSummary | None:
    """Describe values that come in groups: one value or many of each request, in order of sending.

    Args:
        groups: values of each request.
        block: neighbours that are alike.
        seed: of the bootstrap.

    Returns:
        None if there is no value.
    """
    nonempty_groups = [np.asarray(group, dtype=np.float64) for group in groups if len(group)]
    if not nonempty_groups:
        return None
    values = np.concatenate(nonempty_groups)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(values, PERCENTILES))
    return DistributionSummary(
        count=len(values),
        mean=float(values.mean()),
        std=float(values.std()),
        median=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        intervals=_intervals(nonempty_groups, values, block, seed),
    )


def _intervals(
    groups: list[FloatArray], values: FloatArray, block: int, seed: int
) -> dict[str, ConfidenceInterval]:
    size = max(1, min(block, len(groups) // MIN_BLOCKS))
    blocks = math.ceil(len(groups) / size)
    if blocks < MIN_BLOCKS:
        return {}
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    owner = np.repeat(np.arange(len(groups)) // size, [len(group) for group in groups])[order]
    rng = np.random.default_rng(seed)
    draws = RESAMPLES if len(values) * RESAMPLES <= 2e8 else 200
    bootstrap_statistics = np.array([_bootstrap_sample(ordered, owner, blocks, rng) for _ in range(draws)])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(bootstrap_statistics, [tail, 1 - tail], axis=0)
    names = ("mean", "median", "p90", "p95", "p99")
    min_counts = (0, 0, 10, 20, 100)  # with fewer requests, a percentile is no more than the largest value
    return {
        name: ConfidenceInterval(float(low[index]), float(high[index]))
        for index, name in enumerate(names)
        if len(groups) >= min_counts[index]
    }


def _bootstrap_sample(
    ordered: FloatArray, owner: NDArray[np.int64], blocks: int, rng: np.random.Generator
) -> FloatArray:
    """Statistics of one draw of blocks: each value counts as often as its block was drawn."""
    weights = np.bincount(rng.integers(blocks, size=blocks), minlength=blocks)[owner]
    total = np.cumsum(weights)
    count = total[-1]
    if count == 0:
        return np.full(5, np.nan)
    places = np.searchsorted(total, np.array(PERCENTILES) / 100 * (count - 1), side="right")
    return np.concatenate([[np.dot(ordered, weights) / count], ordered[np.minimum(places, len(ordered) - 1)]])


@dataclass(frozen=True)
class Ratio:
    """One model's value as a multiple of another's.

    Attributes:
        value: over all rounds.
        interval: None if there were fewer than three rounds.
        differ: whether they differ for certain; None if that cannot be said.
    """

    value: float
    interval: ConfidenceInterval | None
    differ: bool | None


def ratio_of_rounds(first: Sequence[float], second: Sequence[float]) -> Ratio | None:
    """Compare two models by what each had in each round; neighbours in time are compared with each other.

    The logarithm of a ratio is taken to be normal over rounds. Returns None without a round that both have.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a > 0 and b > 0]
    if not pairs:
        return None
    logs = np.log([b / a for a, b in pairs])
    middle = float(logs.mean())
    if len(logs) < 3:
        return Ratio(math.exp(middle), None, None)
    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1)) * error
    interval = ConfidenceInterval(math.exp(middle - reach), math.exp(middle + reach))
    return Ratio(math.exp(middle), interval, 1.0 not in interval)


def mean_with_interval(values: Sequence[float]) -> tuple[float, ConfidenceInterval | None]:
    """A mean and where it lies, of values taken to be normal."""
    mean = float(np.mean(values))
    if len(values) < 3:
        return mean, None
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean, ConfidenceInterval(mean - reach, mean + reach)
