"""Intervals cover the truth as often as they say, and equal models do not differ."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.bench.metrics import statistics
from secateur.bench.metrics.statistics import ratio_of_rounds, summarise


def covered(draw, truth: float, name: str, block: int = 1, runs: int = 120) -> float:
    hits = 0
    for run in range(runs):
        summary = summarise(draw(np.random.default_rng(run)), block, seed=run)
        assert summary is not None
        hits += truth in summary.intervals[name]
    return hits / runs


@pytest.mark.parametrize(("name", "truth"), [("mean", 1.0), ("median", np.log(2)), ("p90", np.log(10))])
def test_intervals_cover(name: str, truth: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    share = covered(lambda rng: rng.exponential(size=(150, 1)), truth, name)
    assert 0.88 <= share <= 1.0


def test_blocks_cover_where_neighbours_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of a wave share their time: taken for independent, they say far more than they know."""
    monkeypatch.setattr(statistics, "RESAMPLES", 300)

    def waves(rng: np.random.Generator) -> np.ndarray:
        return np.repeat(rng.normal(10, 1, 30), 8)[:, None] + rng.normal(0, 0.05, (240, 1))

    assert covered(waves, 10.0, "mean", block=8) >= 0.85
    assert covered(waves, 10.0, "mean", block=1) <= 0.75


def test_gaps_of_a_request_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    groups = [list(rng.normal(level, 0.1, 50)) for level in rng.normal(10, 2, 40)]
    summary = summarise(groups)
    assert summary is not None
    apart = summarise([[value] for group in groups for value in group])
    assert apart is not None
    width, narrow = (s.intervals["median"].high - s.intervals["median"].low for s in (summary, apart))
    assert width > 3 * narrow


def test_too_few_say_nothing_of_their_spread() -> None:
    summary = summarise([[1.0]] * 5)
    assert summary is not None and summary.median == 1.0 and not summary.intervals
    more = summarise([[float(value)] for value in range(50)])
    assert more is not None and set(more.intervals) == {"mean", "median", "p90", "p95"}
    assert summarise([]) is None and summarise([[], []]) is None


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(1).exponential(size=500)
    summary = summarise(values[:, None])
    assert summary is not None
    assert (summary.median, summary.p99) == pytest.approx(tuple(np.percentile(values, [50, 99])))


def test_equal_models_differ_as_rarely_as_they_should() -> None:
    found = 0
    for run in range(400):
        rng = np.random.default_rng(run)
        drift = rng.normal(1, 0.2, 6)  # hits both models of a round alike
        first, second = drift * rng.normal(1, 0.03, 6), drift * rng.normal(1, 0.03, 6)
        ratio = ratio_of_rounds(list(first), list(second))
        assert ratio is not None
        found += bool(ratio.differ)
    assert found / 400 <= 0.08


def test_a_real_difference_is_found_through_drift() -> None:
    rng = np.random.default_rng(5)
    drift = rng.normal(1, 0.2, 6)
    ratio = ratio_of_rounds(list(drift), list(0.8 * drift * rng.normal(1, 0.02, 6)))
    assert ratio is not None and ratio.differ and ratio.interval is not None
    assert 0.8 in ratio.interval and ratio.value == pytest.approx(0.8, rel=0.05)


def test_two_rounds_are_too_few() -> None:
    ratio = ratio_of_rounds([1.0, 1.0], [2.0, 2.0])
    assert ratio is not None and ratio.value == 2.0 and ratio.interval is None and ratio.differ is None
    assert ratio_of_rounds([0.0], [1.0]) is None
