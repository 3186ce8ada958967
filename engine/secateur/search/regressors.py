"""The regressors an accuracy predictor may be made of, by name.

All are non-neural, learn from a few dozen to a few hundred rows in well under a second, say how unsure
they are, and give the same numbers for the same seed. Source: arXiv 2309.09507, section 2 (gradient-boosted
trees); the others are rivals that cross-validation may prefer (`predictor.select_predictor`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

ENSEMBLE = 5
_FOREST = 100
_MAX_SEED = 2**32 - 1  # of numpy's and scikit-learn's generators


class Regressor(Protocol):
    """Learns a number per row, predicts it with a standard deviation."""

    def fit(self, rows: np.ndarray, target: np.ndarray) -> None:
        """Learn from rows [trials, features] and their targets [trials]."""

    def predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation for each row."""


class _Ensemble:
    """Regressors that differ by their seed; their disagreement is the uncertainty.

    Args:
        members: not fitted yet.
        bootstrap: seed by which each gets rows drawn with replacement; None fits all on every row.
    """

    def __init__(self, members: Sequence[Any], bootstrap: int | None = None) -> None:
        self._members = members
        self._bootstrap = bootstrap

    def fit(self, rows: np.ndarray, target: np.ndarray) -> None:
        rng = np.random.default_rng(self._bootstrap)
        drawn = np.arange(len(rows))
        for member in self._members:
            if self._bootstrap is not None:
                drawn = rng.integers(len(rows), size=len(rows))
            member.fit(rows[drawn], target[drawn])

    def predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The members' mean and disagreement."""
        votes = np.stack([member.predict(rows) for member in self._members]).astype(np.float64)
        return votes.mean(0), votes.std(0)


class RandomForest(_Ensemble):
    """scikit-learn's random forest; its trees' disagreement is the uncertainty."""

    def __init__(self, seed: int) -> None:
        from sklearn.ensemble import RandomForestRegressor

        self._forest = RandomForestRegressor(
            _FOREST, min_samples_leaf=2, max_features=0.5, random_state=seed % _MAX_SEED
        )

    def fit(self, rows: np.ndarray, target: np.ndarray) -> None:
        self._members = self._forest.fit(rows, target).estimators_


class _Standardised:
    """A scikit-learn regressor with `return_std` on rows of zero mean and unit variance."""

    def __init__(self, regressor: Any) -> None:
        from sklearn.preprocessing import StandardScaler

        self._scaler = StandardScaler()
        self._regressor = regressor

    def fit(self, rows: np.ndarray, target: np.ndarray) -> None:
        """Learn the scale, then the target."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            # A length scale at its bound is an answer too: that feature says nothing.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._regressor.fit(self._scaler.fit_transform(rows), target)

    def predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The posterior mean and standard deviation."""
        mean, std = self._regressor.predict(self._scaler.transform(rows), return_std=True)
        return mean, std


def _ridge(seed: int) -> Regressor:
    """Bayesian ridge: the strength of the penalty comes out of the evidence."""
    from sklearn.linear_model import BayesianRidge

    return _Standardised(BayesianRidge())


def _gaussian_process(seed: int) -> Regressor:
    """A smooth function of all features at one length scale, with noise."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(0.1, (1e-4, 1e2)) * Matern(10.0, (1.0, 1e3), nu=2.5)
    kernel += WhiteKernel(0.01, (1e-6, 1.0))
    return _Standardised(GaussianProcessRegressor(kernel, random_state=seed % _MAX_SEED))


def _xgboost(seed: int) -> Regressor:
    """XGBoost with several seeds and subsamples."""
    from xgboost import XGBRegressor

    settings = {
        "n_estimators": 120,
        "max_depth": 3,
        "learning_rate": 0.08,
        "subsample": 0.7,
        "colsample_bytree": 0.5,
        "min_child_weight": 2.0,
        "reg_lambda": 2.0,
        "tree_method": "hist",
        "n_jobs": 1,  # sums in one order: the same trees on every run
    }
    seeds = range(seed * 1000, seed * 1000 + ENSEMBLE)
    return _Ensemble([XGBRegressor(**settings, random_state=each) for each in seeds])


def _histogram_trees(seed: int) -> Regressor:
    """scikit-learn's histogram gradient boosting on bootstrap samples."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    members = [
        HistGradientBoostingRegressor(
            max_iter=80, learning_rate=0.1, max_leaf_nodes=8, min_samples_leaf=5, l2_regularization=2.0,
            early_stopping=False, random_state=seed % _MAX_SEED,
        )
        for _ in range(3)
    ]  # fmt: skip
    return _Ensemble(members, bootstrap=seed % _MAX_SEED)


REGRESSORS: Mapping[str, Callable[[int], Regressor]] = {
    "xgboost": _xgboost,
    "hist-gbdt": _histogram_trees,
    "random-forest": RandomForest,
    "ridge": _ridge,
    "gaussian-process": _gaussian_process,
}
