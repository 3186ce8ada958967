"""The predictor learns what the additive table cannot say, and says the same every time.

Proven on a planted law: errors that multiply within a layer. Held-out rank correlation beats that
of the additive prior; uncertainty is larger far from the trials; a seed gives the same numbers.
"""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy.stats import kendalltau

from secateur.model.architecture import Architecture
from secateur.search.predictor import (
    MIN_PAIRS,
    Features,
    Predictor,
    RankQuality,
    cross_validated,
    rank_quality,
    select_predictor,
)
from secateur.search.regressors import REGRESSORS
from secateur.search.table import AdditiveTable
from secateur.space.space import Space

SPACE = Space(Architecture((2,) * 4, (128,) * 4), 32)
TABLE = AdditiveTable(
    {
        slot: {width: 0.1 * (1 - width / SPACE.dense.width(*slot)) for width in SPACE.widths(*slot)}
        for slot in SPACE.slots
    }
)
FEATURES = Features(SPACE, TABLE)


def random_architectures(count: int, seed: int) -> list[Architecture]:
    chance = random.Random(seed)
    layers = range(SPACE.dense.num_layers)
    found: dict[Architecture, None] = {}
    while len(found) < count:
        groups = tuple(chance.choice(SPACE.widths(layer, "attention")) for layer in layers)
        channels = tuple(chance.choice(SPACE.widths(layer, "ffn")) for layer in layers)
        if (shape := Architecture(groups, channels)) != SPACE.dense:
            found[shape] = None
    return list(found)


def planted(shape: Architecture) -> float:
    """Additive, but cutting both halves of layer 1 hurts eight times over."""
    both = shape.groups[1] < 2 and shape.channels[1] < 96
    return TABLE.of(shape) * (8.0 if both else 1.0)


def tau(predicted: np.ndarray, truth: list[float]) -> float:
    return float(kendalltau(predicted, truth).statistic)


def fitted(trials: list[Architecture], seed: int = 0) -> Predictor:
    predictor = Predictor(FEATURES, seed)
    predictor.fit(trials, [planted(shape) for shape in trials])
    return predictor


class TestLearning:
    def test_beats_the_additive_prior_on_a_planted_law(self) -> None:
        shapes = random_architectures(320, seed=1)
        train, test = shapes[:120], shapes[120:]
        truth = [planted(shape) for shape in test]
        prior = tau(FEATURES.prior(test), truth)
        learned = tau(fitted(train).predict(test).mean, truth)
        assert learned > 0.85
        assert learned > prior + 0.15

    def test_predicts_log_kl_in_nats(self) -> None:
        shapes = random_architectures(200, seed=2)
        prediction = fitted(shapes[:150]).predict(shapes[150:]).mean
        truth = np.log([planted(shape) for shape in shapes[150:]])
        assert float(np.abs(prediction - truth).mean()) < 0.35

    def test_disagrees_more_about_what_it_has_not_seen(self) -> None:
        shapes = random_architectures(200, seed=3)
        seen = [shape for shape in shapes if shape.groups[1] == 2][:60]
        unseen = [shape for shape in shapes if shape.groups[1] < 2][:60]
        predictor = fitted([*seen, *unseen[:6]])
        assert predictor.predict(unseen[6:]).std.mean() > predictor.predict(seen).std.mean()

    @pytest.mark.parametrize("count", [0, 1, MIN_PAIRS - 1])
    def test_with_few_pairs_the_table_speaks(self, count: int) -> None:
        shapes = random_architectures(30, seed=4)
        prediction = fitted(shapes[:count]).predict(shapes)
        offsets = prediction.mean - FEATURES.prior(shapes)
        assert np.allclose(offsets, offsets[0])
        assert not prediction.std.any()

    def test_offset_of_few_pairs(self) -> None:
        shapes = random_architectures(4, seed=5)
        predictor = Predictor(FEATURES, 0)
        predictor.fit(shapes, [3.0 * TABLE.of(shape) for shape in shapes])
        assert np.allclose(predictor.predict(shapes).mean, FEATURES.prior(shapes) + math.log(3.0))

    def test_fitting_again_forgets(self) -> None:
        shapes = random_architectures(60, seed=6)
        predictor = fitted(shapes)
        predictor.fit(shapes[:2], [planted(shape) for shape in shapes[:2]])
        assert not predictor.predict(shapes).std.any()

    def test_a_kl_of_zero(self) -> None:
        """The dense architecture among the trials: no logarithm of zero."""
        shapes = [SPACE.dense, *random_architectures(20, seed=7)]
        predictor = Predictor(FEATURES, 0)
        predictor.fit(shapes, [0.0, *(planted(shape) for shape in shapes[1:])])
        assert np.isfinite(predictor.predict(shapes).mean).all()


class TestDeterminism:
    def test_same_seed_same_numbers(self) -> None:
        shapes = random_architectures(80, seed=8)
        first, second = fitted(shapes[:50]).predict(shapes), fitted(shapes[:50]).predict(shapes)
        assert np.array_equal(first.mean, second.mean) and np.array_equal(first.std, second.std)

    def test_another_seed_other_numbers(self) -> None:
        shapes = random_architectures(80, seed=8)
        first, second = (fitted(shapes[:50], seed).predict(shapes).mean for seed in (0, 1))
        assert not np.array_equal(first, second)

    @pytest.mark.parametrize("seed", [2**31, 10**9, 2**40])
    def test_large_seeds(self, seed: int) -> None:
        shapes = random_architectures(20, seed=9)
        assert np.isfinite(fitted(shapes, seed).predict(shapes).mean).all()


class TestCrossValidation:
    def test_of_a_learnable_law(self) -> None:
        shapes = random_architectures(100, seed=10)
        found = cross_validated(FEATURES, shapes, [planted(shape) for shape in shapes], seed=0)
        assert found is not None and 0.7 < found.tau <= 1.0 and found.recall > 0.3

    def test_of_noise(self) -> None:
        shapes, chance = random_architectures(100, seed=11), random.Random(0)
        found = cross_validated(FEATURES, shapes, [chance.random() for _ in shapes], seed=0)
        assert found is not None and abs(found.tau) < 0.3

    def test_needs_enough_pairs(self) -> None:
        shapes = random_architectures(2 * MIN_PAIRS - 1, seed=12)
        assert cross_validated(FEATURES, shapes, [1.0] * len(shapes), seed=0) is None

    def test_all_equal(self) -> None:
        """No rank correlation is defined; None, not NaN."""
        shapes = random_architectures(30, seed=13)
        found = cross_validated(FEATURES, shapes, [1.0] * len(shapes), seed=0)
        assert found is None or math.isfinite(found.tau)


class TestChoice:
    @pytest.mark.parametrize("name", REGRESSORS)
    def test_every_regressor_learns_the_law_and_repeats_itself(self, name: str) -> None:
        shapes = random_architectures(150, seed=15)
        truth = [planted(shape) for shape in shapes]
        found = [select_predictor(FEATURES, shapes[:100], truth[:100], 0, name).predictor for _ in range(2)]
        first, second = (predictor.predict(shapes[100:]) for predictor in found)
        assert tau(first.mean, truth[100:]) > 0.6
        assert np.array_equal(first.mean, second.mean) and np.array_equal(first.std, second.std)
        assert (first.std > 0).all()

    def test_the_best_ranker_is_chosen(self) -> None:
        shapes = random_architectures(60, seed=16)
        selected_predictor = select_predictor(FEATURES, shapes, [planted(shape) for shape in shapes], 0)
        assert selected_predictor.quality.keys() == REGRESSORS.keys()
        assert selected_predictor.best is not None
        assert selected_predictor.best.tau == max(
            quality.tau for quality in selected_predictor.quality.values()
        )

    def test_recall_of_the_best(self) -> None:
        truth = np.arange(30.0)
        assert rank_quality(truth, truth) == RankQuality(1.0, 1.0)
        swapped = np.concatenate([truth[5:10], truth[20:25], truth[10:20], truth[:5], truth[25:]])
        found = rank_quality(swapped, truth)
        assert found is not None and found.recall < 1.0


class TestFeatures:
    def test_one_finite_row_each(self) -> None:
        shapes = [SPACE.dense, *random_architectures(10, seed=14)]
        matrix = FEATURES.matrix(shapes)
        assert len(matrix) == len(shapes) and np.isfinite(matrix).all()
        assert len({tuple(row) for row in matrix}) == len(shapes)

    @pytest.mark.parametrize("layers", [1, 2, 3, 7])
    def test_any_depth(self, layers: int) -> None:
        space = Space(Architecture((2,) * layers, (64,) * layers), 32)
        rows = {slot: dict.fromkeys(space.widths(*slot), 0.1) for slot in space.slots}
        assert np.isfinite(Features(space, AdditiveTable(rows)).matrix([space.dense])).all()
