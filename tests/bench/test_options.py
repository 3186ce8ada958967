"""What was asked for is what is measured."""

from __future__ import annotations

import pytest

from secateur.bench.load.stage import ClosedLoop, Extent, Replay
from secateur.bench.options import BenchOptions, SubjectSpec


def options(extent: Extent, rounds: int) -> BenchOptions:
    return BenchOptions((SubjectSpec("m", "localhost:1"),), extent=extent, rounds=rounds)


@pytest.mark.parametrize(
    ("requests", "shares"), [(8, [2, 2, 1, 1, 1, 1]), (12, [2] * 6), (3, [1, 1, 1]), (1, [1])]
)
def test_requests_are_dealt_out_over_the_rounds(requests: int, shares: list[int]) -> None:
    found = options(Extent(requests=requests), rounds=6).shares(ClosedLoop(1))
    assert [share.requests for share in found] == shares and sum(shares) == requests


def test_seconds_are_dealt_out_over_the_rounds() -> None:
    assert options(Extent(seconds=30), rounds=6).shares(ClosedLoop(1)) == [Extent(seconds=5)] * 6


def test_a_trace_is_replayed_whole_in_every_round() -> None:
    found = options(Extent(requests=2), rounds=3).shares(Replay((0.0, 0.5)))
    assert found == [Extent(requests=2)] * 3
