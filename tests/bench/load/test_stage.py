"""Arrivals have the rate that was asked for."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.bench.load.stage import ClosedLoop, OpenLoop


def test_constant_arrivals_are_evenly_spaced() -> None:
    arrivals = list(islice(OpenLoop(4, poisson=False).arrivals(10, 0), 8))
    assert arrivals == pytest.approx([0.25 * (place + 1) for place in range(8)])


def test_poisson_arrivals_are_exponential() -> None:
    arrivals = np.array(list(islice(OpenLoop(20).arrivals(1e9, 3), 20_000)))
    gaps = np.diff(arrivals)
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 20, rel=0.05)
    assert np.corrcoef(gaps[1:], gaps[:-1])[0, 1] == pytest.approx(0, abs=0.03)


def test_arrivals_are_those_of_their_seed() -> None:
    first, again, other = (list(islice(OpenLoop(5).arrivals(10, seed), 20)) for seed in (1, 1, 2))
    assert first == again != other


@given(st.floats(0.1, 50), st.floats(0.1, 50), st.booleans())
def test_a_ramp_goes_from_one_rate_to_the_other(low: float, high: float, poisson: bool) -> None:
    seconds = 400.0
    arrivals = []
    for at in OpenLoop(low, high, poisson).arrivals(seconds, 0):
        if at > 2 * seconds:
            break
        arrivals.append(at)
    assert arrivals == sorted(arrivals)
    times = np.array(arrivals)
    for begin in np.arange(0, 400, 100):
        rate = low + (high - low) * (begin + 50) / seconds
        count = ((times >= begin) & (times < begin + 100)).sum()
        assert count == pytest.approx(100 * rate, abs=2 + (5 * (100 * rate) ** 0.5 if poisson else 0))
    after = (times >= seconds).sum()  # it stays what it was at the end
    assert after == pytest.approx(400 * high, abs=2 + (5 * (400 * high) ** 0.5 if poisson else 0))


def test_warm_up_is_two_waves_at_first_and_one_later() -> None:
    assert (ClosedLoop(8).warmup(True), ClosedLoop(8).warmup(False), ClosedLoop(1).warmup(False)) == (
        16,
        8,
        2,
    )
