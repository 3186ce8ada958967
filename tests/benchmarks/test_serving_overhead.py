"""How the overhead benchmark asks and reckons."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from benchmarks.serving_overhead.__main__ import _added, _with_interval
from benchmarks.serving_overhead.load import Ask, Timed, asks, drive


class Instant:
    """Answers at once, two tokens a message; counts how many ask at the same time."""

    def __init__(self, short: int = 0) -> None:
        self.now = self.most = 0
        self.short = short

    async def ask(self, ask: Ask) -> AsyncIterator[tuple[int, float | None]]:
        self.now += 1
        self.most = max(self.most, self.now)
        left = ask.tokens - self.short
        while left > 0:
            await asyncio.sleep(0)
            yield min(2, left), (0.5 if left <= 2 else None)
            left -= 2
        self.now -= 1


def test_requests_are_unlike_and_repeatable() -> None:
    made = asks(50, prompt=8, tokens=40, vocabulary=100, seed=1)
    assert made == asks(50, prompt=8, tokens=40, vocabulary=100, seed=1)
    assert len({tuple(ask.token_ids) for ask in made}) == 50
    lengths = {ask.tokens for ask in made}
    assert min(lengths) >= 30 and max(lengths) <= 50 and len(lengths) > 5


async def test_a_closed_loop_asks_everything_over_so_many_streams() -> None:
    way = Instant()
    answers = await drive(way, asks(20, 4, 8, 100, seed=0), streams=3)
    assert len(answers) == 20 and way.most == 3
    assert {answer.engine_ttft_ms for answer in answers} == {0.5}


async def test_an_answer_too_short_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="asked for"):
        await drive(Instant(short=1), asks(1, 4, 8, 100, seed=0), streams=1)


def test_times_are_those_after_the_first_message() -> None:
    timed = Timed([(0.1, 1), (0.2, 2), (0.4, 1)])
    assert timed.ttft_ms == pytest.approx(100)
    assert timed.tpot_ms == pytest.approx(100)
    assert Timed.read(timed.to_json()) == timed


def test_differences_are_taken_round_by_round() -> None:
    def run(first: float, step: float) -> tuple[list[Timed], float]:
        return [Timed([(first, 1), (first + step, 1)], engine_ttft_ms=10.0)], 0.0

    rounds = [
        {"in_process": run(0.02 * n, 0.01 * n), "grpc": run(0.02 * n + 0.001, 0.0102 * n)} for n in (1, 2, 3)
    ]
    added = _added(rounds, "grpc")
    assert added["added_ttft_ms"]["p50"] == pytest.approx(1.0)
    assert added["added_outside_engine_ttft_ms"]["p50"] == pytest.approx(1.0)
    assert added["added_tpot_percent"]["rounds"] == pytest.approx([2.0, 2.0, 2.0])


def test_intervals_hold_the_median() -> None:
    found = _with_interval([1.0, 2.0, 3.0, 4.0, 100.0])
    low, high = found["interval"]
    assert low <= found["p50"] == 3.0 <= high <= 100.0
