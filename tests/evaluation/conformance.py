"""What every evaluator must satisfy; a test module subclasses it and provides the fixture `evaluator`.

class TestMine(EvaluatorConformance):
    @pytest.fixture
    def evaluator(self, library, windows): return MyEvaluator(library, windows)
"""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from secateur.calibrate.block_library import BlockLibrary
from secateur.evaluation.measurement import Evaluator
from secateur.model.architecture import Architecture
from secateur.space.space import Space


def random_architectures(space: Space, count: int, seed: int = 0) -> list[Architecture]:
    chance = random.Random(seed)
    layers = range(space.dense.num_layers)
    return [
        Architecture(
            tuple(chance.choice(space.widths(layer, "attention")) for layer in layers),
            tuple(chance.choice(space.widths(layer, "ffn")) for layer in layers),
        )
        for _ in range(count)
    ]


class EvaluatorConformance:
    """Laws of an evaluator. Shared prefixes, duplicates, removed sub-blocks and the dense model are in it."""

    @pytest.fixture
    def shapes(self, space: Space) -> list[Architecture]:
        some = random_architectures(space, 4, seed=3)
        bare = Architecture((1, 0, 0), (0, 64, 0))
        return [*some, *(shape.with_width(2, "ffn", 96) for shape in some[:2]), bare, space.dense]

    def test_every_distinct_candidate_once(self, evaluator: Evaluator, shapes: list[Architecture]) -> None:
        found = [candidate for candidate, _ in evaluator.evaluate([*shapes, *shapes])]
        assert sorted(found) == sorted(set(shapes))

    def test_order_and_company_change_nothing(self, evaluator: Evaluator, shapes: list[Architecture]) -> None:
        together = dict(evaluator.losses(shapes))
        assert dict(evaluator.losses(shapes[::-1])) == together
        assert {shape: dict(evaluator.losses([shape]))[shape] for shape in shapes} == together

    def test_chunks_add_up(self, evaluator: Evaluator, shapes: list[Architecture]) -> None:
        whole = dict(evaluator.losses(shapes))
        assert evaluator.num_chunks > 1
        for shape in shapes:
            parts = [dict(evaluator.losses([shape], [c]))[shape] for c in range(evaluator.num_chunks)]
            assert sum(parts[1:], parts[0]) == whole[shape]

    def test_measurement_is_the_mean_of_losses(
        self, evaluator: Evaluator, shapes: list[Architecture]
    ) -> None:
        losses = dict(evaluator.losses(shapes))
        for shape, measurement in evaluator.evaluate(shapes):
            assert measurement.kl == pytest.approx(fmean(losses[shape].kl), rel=1e-12, abs=1e-15)
            assert measurement.nll == pytest.approx(fmean(losses[shape].nll), rel=1e-12)
            assert measurement.tokens == len(losses[shape].kl) * losses[shape].window_tokens
            assert measurement.kl_stderr > 0 or measurement.kl == 0

    def test_kl_is_zero_for_dense_and_positive_for_others(
        self, evaluator: Evaluator, shapes: list[Architecture], space: Space
    ) -> None:
        for shape, losses in evaluator.losses(shapes):
            if shape == space.dense:
                assert all(kl == 0 for kl in losses.kl)
            else:
                assert all(kl > 0 for kl in losses.kl)

    def test_agrees_with_the_judge(
        self, evaluator: Evaluator, judge: Evaluator, library: BlockLibrary, shapes: list[Architecture]
    ) -> None:
        judged = dict(judge.losses(shapes))
        for shape, losses in evaluator.losses(shapes):
            assert losses.kl == pytest.approx(judged[shape].kl, rel=2e-3, abs=1e-5)
            assert losses.nll == pytest.approx(judged[shape].nll, abs=1e-4)

    def test_no_blocks_are_refused(self, evaluator: Evaluator, shapes: list[Architecture]) -> None:
        with pytest.raises(ValueError, match=r"chunks: none given"):
            list(evaluator.losses(shapes, []))
        with pytest.raises(ValueError, match=rf"chunks: {evaluator.num_chunks} given; allowed are 0 to"):
            list(evaluator.losses(shapes, [0, evaluator.num_chunks]))

    def test_no_candidates_give_nothing(self, evaluator: Evaluator) -> None:
        assert list(evaluator.evaluate([])) == []
