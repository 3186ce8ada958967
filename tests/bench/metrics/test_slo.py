"""Service level objectives: met or not."""

from __future__ import annotations

from dataclasses import replace

from secateur.bench.metrics.slo import LatencySlo
from tests.bench.load.test_journal import FAILED, RECORD


def test_met() -> None:
    """The record's first token came after 500 ms, each other one after 167 ms, the last after 1 s."""
    assert LatencySlo({"ttft": 500, "tpot": 170, "e2el": 1000}).met_by(RECORD)
    assert not LatencySlo({"ttft": 499}).met_by(RECORD)
    assert not LatencySlo({"ttft": 1000, "tpot": 160}).met_by(RECORD)
    assert not LatencySlo({"ttft": 1000}).met_by(FAILED)
    one = replace(RECORD, times=(1.5,), tokens=(1,), output_tokens=1)
    assert LatencySlo({"tpot": 1}).met_by(one)  # nothing came after the first
