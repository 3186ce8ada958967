"""A race drops who is beaten, never the best, and spends less.

Proven on made-up losses whose truth is known, and on a real evaluator: the winner is the full
evaluation's, order changes nothing, block counts are what they should be, bad arguments are refused.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

import pytest
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.evaluation.measurement import Losses, Measurement
from secateur.evaluation.race import Rung, is_significantly_worse, race
from secateur.model.architecture import Architecture
from secateur.space.space import Space
from tests.evaluation.conformance import random_architectures

WINDOWS = 4


class MadeUp:
    """Candidate i has true KL i/10; blocks share their difficulty, candidates add noise."""

    def __init__(self, blocks: int, noise: float = 0.02) -> None:
        self.num_chunks = blocks
        self._noise = noise
        self.calls: list[tuple[int, int]] = []

    def losses(
        self, candidates: Sequence[Architecture], blocks: Iterable[int] | None = None
    ) -> Iterator[tuple[Architecture, Losses]]:
        for candidate in candidates:
            for_all: list[float] = []
            for block in range(self.num_chunks) if blocks is None else blocks:
                self.calls.append((candidate.channels[0], block))
                for window in range(WINDOWS):
                    common = random.Random(block * WINDOWS + window).uniform(0, 2)
                    own = random.Random(hash((candidate.channels[0], block, window))).gauss(0, self._noise)
                    for_all.append(common + candidate.channels[0] / 10 + own)
            yield candidate, Losses(tuple(for_all), tuple(for_all), 15)

    def evaluate(self, candidates: Sequence[Architecture]) -> Iterator[tuple[Architecture, Measurement]]:
        for candidate, losses in self.losses(candidates):
            yield candidate, losses.measurement()


def contestants(count: int) -> list[Architecture]:
    return [Architecture((1,), (quality,)) for quality in range(count)]


def last(rungs: Iterator[Rung]) -> Rung:
    return list(rungs)[-1]


class TestMadeUp:
    def test_finds_the_best_with_a_fraction_of_the_blocks(self) -> None:
        evaluator = MadeUp(blocks=16)
        final = last(race(evaluator, contestants(20)))
        assert final.best == contestants(1)[0]
        assert len(evaluator.calls) < 20 * 16 / 4

    def test_ranking_is_complete_and_dropped_come_last(self) -> None:
        final = last(race(MadeUp(16), contestants(12), survivors=3))
        assert sorted(final.losses) == contestants(12)
        assert set(list(final.losses)[:3]) == set(contestants(3))
        assert final.running >= 3

    def test_no_block_is_run_twice(self) -> None:
        evaluator = MadeUp(16)
        list(race(evaluator, contestants(10)))
        assert len(evaluator.calls) == len(set(evaluator.calls))

    def test_equals_run_to_the_end(self) -> None:
        evaluator = MadeUp(8, noise=5.0)
        final = last(race(evaluator, contestants(2), confidence=0.9999))
        assert final.running == 2 and final.chunks == 8

    def test_order_changes_nothing(self) -> None:
        straight = list(race(MadeUp(16), contestants(10)))
        assert list(race(MadeUp(16), contestants(10)[::-1])) == straight

    def test_one_candidate_is_measured_once(self) -> None:
        assert [rung.chunks for rung in race(MadeUp(16), contestants(1))] == [1]

    def test_the_best_is_hardly_ever_dropped(self) -> None:
        """Over many small races: each drops the best about as often as the confidence allows."""
        lost = 0
        for start in range(0, 2000, 10):
            rivals = [Architecture((1,), (start,)), Architecture((1,), (start + 1,))]
            whole = dict(MadeUp(8, noise=0.1).losses(rivals))
            best = min(rivals, key=lambda item: fmean(whole[item].kl))
            lost += last(race(MadeUp(8, noise=0.1), rivals)).best != best
        assert lost <= 6


@pytest.mark.parametrize(
    ("kl", "bar", "worse"),
    [
        ([2.0, 3.0, 4.0], [1.0, 2.0, 3.0], True),  # always by the same
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], False),
        ([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], False),
        ([2.0], [1.0], False),  # one window says nothing
        ([1.1, 0.9, 1.2, 0.95], [1.0, 1.0, 1.0, 1.0], False),
    ],
)
def test_surely_worse(kl: list[float], bar: list[float], worse: bool) -> None:
    assert is_significantly_worse(kl, bar, 0.99) is worse


def test_on_real_evaluations(library: BlockLibrary, space: Space, windows: Tensor) -> None:
    shapes = random_architectures(space, 12, seed=5)
    evaluator = PrefixEvaluator(library, windows)
    final = last(race(evaluator, shapes))
    whole = dict(evaluator.losses(shapes))
    assert final.best == min(whole, key=lambda item: fmean(whole[item].kl))
    for shape, losses in final.losses.items():
        assert losses.kl == whole[shape].kl[: len(losses.kl)]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"candidates": []}, "candidates"),
        ({"survivors": 0}, "survivors"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_bad_arguments(changes: dict[str, object], named: str) -> None:
    arguments = {"candidates": contestants(2), **changes}
    with pytest.raises(ValueError, match=named):
        next(race(MadeUp(2), **arguments))  # type: ignore[arg-type]
