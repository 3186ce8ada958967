"""What was asked for is what is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.bench.load.stage import ClosedLoop, OpenLoop, StopCondition, TraceReplay
from secateur.bench.load.workload import Workload, read_workload
from secateur.config.bench import BenchOptions


@pytest.mark.parametrize(
    ("requests", "shares"), [(8, [2, 2, 1, 1, 1, 1]), (12, [2] * 6), (3, [1, 1, 1]), (1, [1])]
)
def test_requests_are_dealt_out_over_the_rounds(requests: int, shares: list[int]) -> None:
    found = Workload((), StopCondition(requests=requests), rounds=6).shares(ClosedLoop(1))
    assert [share.requests for share in found] == shares and sum(shares) == requests


def test_seconds_are_dealt_out_over_the_rounds() -> None:
    workload = Workload((), StopCondition(seconds=30), rounds=6)
    assert workload.shares(ClosedLoop(1)) == [StopCondition(seconds=5)] * 6


def test_a_trace_is_replayed_whole_in_every_round() -> None:
    found = Workload((), StopCondition(requests=2), rounds=3).shares(TraceReplay((0.0, 0.5)))
    assert found == [StopCondition(requests=2)] * 3


def test_read_from_options(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"timestamp": 0, "input_length": 1}\n{"timestamp": 500, "input_length": 1}\n', encoding="utf-8"
    )
    replay = TraceReplay((0.0, 0.5))
    for options, loads, stop in (
        (BenchOptions(), (ClosedLoop(1),), StopCondition(seconds=30)),
        (BenchOptions(concurrency=(1, 4), seconds=2), (ClosedLoop(1), ClosedLoop(4)), StopCondition(2)),
        (BenchOptions(sweep=True, requests=3), (), StopCondition(requests=3)),
        (
            BenchOptions(rate=(2,), arrivals="constant", max_concurrency=3),
            (OpenLoop(2, poisson=False, limit=3),),
            StopCondition(seconds=30),
        ),
        (BenchOptions(ramp=(1, 5)), (OpenLoop(1, 5),), StopCondition(seconds=30)),
        (BenchOptions(trace=trace), (replay,), StopCondition(requests=2)),
        (BenchOptions(trace=trace, concurrency=(2,)), (ClosedLoop(2),), StopCondition(requests=2)),
    ):
        workload = read_workload(options)
        assert (workload.loads, workload.stop) == (loads, stop)
