"""The accuracy predictor: ranks candidates before they are evaluated.

Fitted on the log of the ratio between the measured KL and what the additive table says, so that the
regressor only has to learn where errors do not add up. Which regressor is decided by cross-validated
rank correlation on the trials at hand. Source: arXiv 2309.09507, section 2 (a non-neural predictor
on architecture-accuracy trials); the paper reports squared errors only, a search needs ranks.

Shape suffixes: N candidates, S sub-blocks, W widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.model.architecture import Architecture
from secateur.search.regressors import REGRESSORS, Regressor
from secateur.search.table import AdditiveTable
from secateur.space.grid import Grid, at
from secateur.space.space import Space

MIN_PAIRS = 8
DEFAULT_REGRESSOR = "xgboost"
AUTO_SELECT = "auto"
TOP = 10
_FOLDS = 5
_MIN_KL = 1e-9  # nats; the dense model loses nothing, which has no logarithm


@dataclass(frozen=True)
class Prediction:
    """Predicted log KL of some candidates, and how unsure that is."""

    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class RankQuality:
    """How well predictions rank what was measured.

    Attributes:
        tau: Kendall's rank correlation.
        recall: share of the `TOP` truly best among the `TOP` predicted best (of few trials, a third of them).
    """

    tau: float
    recall: float


class Features:
    """Architectures as rows of numbers, which is what a regressor sees of them.

    Kept fraction per sub-block; the additive table's log sum (also of square roots, which weighs
    many small cuts against few deep ones); removed sub-blocks; mean kept fraction per third of the depth.
    """

    def __init__(self, space: Space, table: AdditiveTable) -> None:
        self._grid = Grid(space)
        self._values_SW = self._grid.values(table.kl)
        self._full_S = np.array(space.dense.path, dtype=np.float64)

    def prior(self, candidates: Sequence[Architecture]) -> np.ndarray:
        """Log of the additive table's KL."""
        return _log_sum(at(self._values_SW, self._grid.encode(candidates)))

    def matrix(self, candidates: Sequence[Architecture]) -> np.ndarray:
        """One row per candidate."""
        path_NS = np.array([candidate.path for candidate in candidates], dtype=np.float64)
        kept_NS = np.divide(path_NS, self._full_S, out=np.ones_like(path_NS), where=self._full_S > 0)
        lost_NS = at(self._values_SW, self._grid.encode(candidates))
        sums = np.stack([_log_sum(lost_NS), _log_sum(np.sqrt(lost_NS))], axis=1)
        removed = np.stack([(path_NS[:, 0::2] == 0).sum(1), (path_NS[:, 1::2] == 0).sum(1)], axis=1)
        thirds = [
            part.mean(1, keepdims=True)
            for half in (kept_NS[:, 0::2], kept_NS[:, 1::2])
            for part in np.array_split(half, 3, axis=1)
            if part.shape[1]
        ]
        return np.hstack([kept_NS, sums, removed, *thirds])


def _log_sum(lost_NS: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(lost_NS.sum(1), _MIN_KL))


class Predictor:
    """A regressor on the residual of the additive table; deterministic for a seed.

    Args:
        regressor: one of `regressors.REGRESSORS`.
    """

    def __init__(self, features: Features, seed: int, regressor: str = DEFAULT_REGRESSOR) -> None:
        self._features = features
        self._seed = seed
        self._regressor: Regressor | None = None
        self.name = regressor

    def fit(self, candidates: Sequence[Architecture], kl: Sequence[float]) -> None:
        """Learn from trials; with fewer than `MIN_PAIRS` the additive table alone predicts."""
        self._regressor = None
        self._offset = 0.0
        if not candidates:
            return
        residual = np.log(np.maximum(kl, _MIN_KL)) - self._features.prior(candidates)
        self._offset = float(residual.mean())
        if len(candidates) < MIN_PAIRS:
            return
        self._regressor = REGRESSORS[self.name](self._seed)
        self._regressor.fit(self._features.matrix(candidates), residual - self._offset)

    def predict(self, candidates: Sequence[Architecture]) -> Prediction:
        """Log KL: the additive prior plus what the regressor learned."""
        prior = self._features.prior(candidates) + self._offset
        if self._regressor is None:
            return Prediction(prior, np.zeros_like(prior))
        mean, std = self._regressor.predict(self._features.matrix(candidates))
        return Prediction(prior + mean, std)


@dataclass(frozen=True)
class SelectedPredictor:
    """A fitted predictor, and how each regressor that was tried ranked held-out trials.

    Attributes:
        quality: by regressor, best first; empty with too few trials to tell.
    """

    predictor: Predictor
    quality: Mapping[str, RankQuality]

    @property
    def name(self) -> str:
        """The regressor that the predictor is made of."""
        return self.predictor.name

    @property
    def best(self) -> RankQuality | None:
        """The quality of the predictor selected."""
        return self.quality.get(self.name)

    def quality_to_json(self) -> dict[str, dict[str, float]]:
        """Cross-validated rank quality of every regressor tried, best first; empty with too few trials."""
        return {name: {"tau": q.tau, "top_10_recall": q.recall} for name, q in self.quality.items()}


def select_predictor(
    features: Features,
    candidates: Sequence[Architecture],
    kl: Sequence[float],
    seed: int,
    name: str = AUTO_SELECT,
    own_proposals: Sequence[bool] | None = None,
) -> SelectedPredictor:
    """The predictor fitted on all trials, of the regressor that ranks held-out trials best.

    Args:
        name: a regressor, or `AUTO_SELECT` for the one with the highest cross-validated tau.
        own_proposals: which trials are of the budget that is searched; only they are ranked, as it is easy
            to rank trials of budgets far apart.
    """
    names = tuple(REGRESSORS) if name == AUTO_SELECT else (name,)
    quality_by_regressor = {
        each: cross_validated(features, candidates, kl, seed, each, own_proposals) for each in names
    }
    defined_quality = {each: quality for each, quality in quality_by_regressor.items() if quality is not None}
    ranked = dict(sorted(defined_quality.items(), key=lambda item: -item[1].tau))
    chosen = next(iter(ranked), DEFAULT_REGRESSOR if name == AUTO_SELECT else name)
    predictor = Predictor(features, seed, chosen)
    predictor.fit(candidates, kl)
    return SelectedPredictor(predictor, ranked)


def cross_validated(
    features: Features,
    candidates: Sequence[Architecture],
    kl: Sequence[float],
    seed: int,
    name: str = DEFAULT_REGRESSOR,
    own_proposals: Sequence[bool] | None = None,
) -> RankQuality | None:
    """How well held-out folds are ranked; None with too few trials, or none that differ.

    Args:
        own_proposals: which trials are ranked; learned from are all of them.
    """
    ranked = (
        np.ones(len(candidates), dtype=bool)
        if own_proposals is None
        else np.asarray(own_proposals, dtype=bool)
    )
    if ranked.sum() < 2 * MIN_PAIRS:
        return None
    predicted = np.empty(len(candidates))
    fold_of = np.random.default_rng(seed).permutation(len(candidates)) % _FOLDS
    for fold in range(_FOLDS):
        train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        predictor = Predictor(features, seed, name)
        predictor.fit([candidates[i] for i in train], [kl[i] for i in train])
        predicted[test] = predictor.predict([candidates[i] for i in test]).mean
    return rank_quality(predicted[ranked], np.asarray(kl)[ranked])


def rank_quality(predicted: np.ndarray, truth: np.ndarray) -> RankQuality | None:
    """Kendall's tau and the recall of the best; None where no rank correlation is defined."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(predicted, truth).statistic)
    if not np.isfinite(tau):
        return None
    top = max(1, min(TOP, len(truth) // 3))
    best = set(np.argsort(truth, kind="stable")[:top].tolist())
    recall = len(best & set(np.argsort(predicted, kind="stable")[:top].tolist())) / top
    return RankQuality(tau, recall)
