"""What was asked for is what is measured."""

from __future__ import annotations

import pytest

from secateur.bench.load.stage import ClosedLoop, StopCondition, TraceReplay
from secateur.bench.options import BenchmarkTargetSpec, BenchOptions


def options(extent: StopCondition, rounds: int) -> BenchOptions:
    return BenchOptions((BenchmarkTargetSpec("m", "localhost:1"),), extent=extent, rounds=rounds)


@pytest.mark.parametrize(
    ("requests", "shares"), [(8, [2, 2, 1, 1, 1, 1]), (12, [2] * 6), (3, [1, 1, 1]), (1, [1])]
)
def test_requests_are_dealt_out_over_the_rounds(requests: int, shares: list[int]) -> None:
    found = options(StopCondition(requests=requests), rounds=6).shares(ClosedLoop(1))
    assert [share.requests for share in found] == shares and sum(shares) == requests


def test_seconds_are_dealt_out_over_the_rounds() -> None:
    assert (
        options(StopCondition(seconds=30), rounds=6).shares(ClosedLoop(1)) == [StopCondition(seconds=5)] * 6
    )


def test_a_trace_is_replayed_whole_in_every_round() -> None:
    found = options(StopCondition(requests=2), rounds=3).shares(TraceReplay((0.0, 0.5)))
    assert found == [StopCondition(requests=2)] * 3
