"""The accuracy predictor: gradient-boosted trees that rank candidates before they are evaluated.

Fitted on the log of the ratio between the measured KL and what the additive table says, so that the
trees only have to learn where errors do not add up. An ensemble over seeds and subsamples gives the
uncertainty. Source: arXiv 2309.09507, section 2 (gradient-boosted trees on architecture-accuracy pairs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.stats import kendalltau

from secateur.search.architecture import Architecture
from secateur.search.space import Space
from secateur.search.table import AdditiveTable

MIN_PAIRS = 8
ENSEMBLE = 5
_FOLDS = 5


@dataclass(frozen=True)
class Prediction:
    """Predicted log KL of some candidates, and how much the ensemble disagrees."""

    mean: np.ndarray
    std: np.ndarray


class Predictor(Protocol):
    """Learns from pairs, predicts log KL."""

    def fit(self, candidates: Sequence[Architecture], kl: Sequence[float]) -> None:
        """Learn from evaluated architectures; KL in nats per token."""

    def predict(self, candidates: Sequence[Architecture]) -> Prediction:
        """Log KL for each candidate."""


class Features:
    """Architectures as rows of numbers.

    Kept fraction per sub-block; the additive table's log sum (also of square roots, which weighs
    many small cuts against few deep ones); removed sub-blocks; mean kept fraction per third of the depth.
    """

    def __init__(self, space: Space, table: AdditiveTable) -> None:
        self._table = table
        self._full = np.array(space.dense.path, dtype=np.float64)

    def prior(self, candidates: Sequence[Architecture]) -> np.ndarray:
        """Log of the additive table's KL."""
        return np.log([max(self._table.of(candidate), 1e-9) for candidate in candidates])

    def matrix(self, candidates: Sequence[Architecture]) -> np.ndarray:
        """One row per candidate."""
        paths = np.array([candidate.path for candidate in candidates], dtype=np.float64)
        kept = np.divide(paths, self._full, out=np.ones_like(paths), where=self._full > 0)
        prior = self.prior(candidates)[:, None]
        roots = np.log([[max(self._table.of(candidate, 0.5), 1e-9)] for candidate in candidates])
        removed = np.stack([(paths[:, 0::2] == 0).sum(1), (paths[:, 1::2] == 0).sum(1)], axis=1)
        thirds = [
            part.mean(1, keepdims=True)
            for half in (kept[:, 0::2], kept[:, 1::2])
            for part in np.array_split(half, 3, axis=1)
            if part.shape[1]
        ]
        return np.hstack([kept, prior, roots, removed, *thirds])


class BoostedTrees:
    """XGBoost on the residual of the additive table; deterministic for a seed."""

    def __init__(self, features: Features, seed: int) -> None:
        self._features = features
        self._seed = seed
        self._models: list[Any] = []

    def fit(self, candidates: Sequence[Architecture], kl: Sequence[float]) -> None:
        """Learn from pairs; with fewer than `MIN_PAIRS` the additive table alone predicts."""
        self._models = []
        self._offset = 0.0
        if not candidates:
            return
        residual = np.log(np.maximum(kl, 1e-9)) - self._features.prior(candidates)
        self._offset = float(residual.mean())
        if len(candidates) < MIN_PAIRS:
            return
        matrix = self._features.matrix(candidates)
        for member in range(ENSEMBLE):
            model = _trees(self._seed * 1000 + member)
            model.fit(matrix, residual - self._offset)
            self._models.append(model)

    def predict(self, candidates: Sequence[Architecture]) -> Prediction:
        """Log KL: the additive prior plus what the trees learned."""
        prior = self._features.prior(candidates) + self._offset
        if not self._models:
            return Prediction(prior, np.zeros_like(prior))
        matrix = self._features.matrix(candidates)
        votes = np.stack([model.predict(matrix) for model in self._models])
        return Prediction(prior + votes.mean(0), votes.std(0))


def cross_validated_tau(
    features: Features, candidates: Sequence[Architecture], kl: Sequence[float], seed: int
) -> float | None:
    """Kendall's tau between predicted and measured KL over held-out folds; None with too few pairs."""
    if len(candidates) < 2 * MIN_PAIRS:
        return None
    predicted = np.empty(len(candidates))
    fold_of = np.random.default_rng(seed).permutation(len(candidates)) % _FOLDS
    for fold in range(_FOLDS):
        train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        predictor = BoostedTrees(features, seed)
        predictor.fit([candidates[i] for i in train], [kl[i] for i in train])
        predicted[test] = predictor.predict([candidates[i] for i in test]).mean
    tau = float(kendalltau(predicted, kl).statistic)
    return tau if np.isfinite(tau) else None


def _trees(seed: int) -> Any:
    from xgboost import XGBRegressor

    return XGBRegressor(
        n_estimators=120,
        max_depth=3,
        learning_rate=0.08,
        subsample=0.7,
        colsample_bytree=0.5,
        min_child_weight=2.0,
        reg_lambda=2.0,
        tree_method="hist",
        random_state=seed,
        n_jobs=1,  # sums in one order: the same trees on every run
    )
