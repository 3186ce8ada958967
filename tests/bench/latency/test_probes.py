"""What is timed, and the fit: exact where costs add up, steady where the machine is not.

Proven: rows of a made-up additive engine are found again from its times; rows never fall, whatever the
noise; times relative to their round survive a machine that slows down and neighbours that come and go.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.bench.latency.probes import (
    build_probes,
    fit_table,
    predict_nanoseconds,
    relative_iqr,
    remove_drift,
)
from secateur.model.architecture import Architecture
from secateur.space.costs.latency import ModelShape
from secateur.space.space import Space

SHAPE = ModelShape("llama", 30, 576, 64, 3, 3, 1536, 49152)


def engine(candidate: Architecture) -> float:
    """Nanoseconds of an engine whose costs add up, each line with a constant of its own."""
    attention = sum(90_000 + 60_000 * g if g else 0 for g in candidate.groups)
    return 4e6 + attention + sum(50_000 + 300 * c if c else 0 for c in candidate.channels)


def test_probes_can_be_built_and_differ() -> None:
    wanted = build_probes(SHAPE)
    space = Space(wanted.uniform[0], 64)
    assert wanted.uniform[0] == Architecture((3,) * 30, (1536,) * 30)
    assert all(space.contains(item) for item in wanted.all)
    assert len(set(wanted.all)) == len(wanted.all) == 11


@pytest.mark.parametrize("groups", [1, 2, 8, 32])
@pytest.mark.parametrize("channels", [5, 96, 14336])
def test_probes_of_other_models(groups: int, channels: int) -> None:
    shape = ModelShape("qwen2", 4, 64, 32, 2, groups, channels, 300)
    wanted = build_probes(shape)
    assert all(Space(wanted.uniform[0], 1).contains(item) for item in wanted.all)
    _, rows = fit_table(wanted.all, [engine(item) for item in wanted.all])
    assert max(rows["attention"]) == groups and max(rows["ffn"]) == channels


def test_an_additive_engine_is_found_again() -> None:
    wanted = build_probes(SHAPE)
    fixed, rows = fit_table(wanted.uniform, [engine(item) for item in wanted.uniform])
    for item in wanted.uniform:
        assert predict_nanoseconds(fixed, rows, item) == pytest.approx(engine(item), rel=1e-4)
    narrow = Architecture((2,) * 30, (1152,) * 30)
    assert predict_nanoseconds(fixed, rows, narrow) == pytest.approx(engine(narrow), rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), noise=st.floats(0.0, 0.5))
def test_rows_never_fall(seed: int, noise: float) -> None:
    wanted = build_probes(SHAPE)
    rng = np.random.default_rng(seed)
    times = [engine(item) * float(np.exp(rng.normal(0, noise))) for item in wanted.all]
    fixed, rows = fit_table(wanted.all, times)
    assert fixed >= 0
    for row in rows.values():
        heights = [row[width] for width in sorted(row)]
        assert heights[0] == 0 and heights == sorted(heights)


def test_a_machine_that_slows_down() -> None:
    """Half as fast in the second half, and one turn in five disturbed: ratios stay."""
    truth = np.array([10e6, 7e6, 5e6])
    rng = np.random.default_rng(0)
    times = [[[int(t * (1 + (turn > 4)))] * 8 for turn in range(9)] for t in truth]
    for turn in range(9):
        if rng.random() < 0.2:
            own = int(rng.integers(3))
            times[own][turn] = [3 * ns for ns in times[own][turn]]
    found = np.array(remove_drift(times))
    assert found / found[0] == pytest.approx(truth / truth[0], rel=0.02)


def test_spread() -> None:
    assert relative_iqr([[10], [10], [10]]) == 0.0
    assert relative_iqr([[8], [10], [12]]) == pytest.approx(0.2)
