"""The paper's way: random pairs, one fit of boosted trees, a narrowed space, the few that it predicts best.

Source: "Pruning Large Language Models via Accuracy Predictor" (arXiv 2309.09507), section 2: 525 pairs
(400 with groups of 4 neighbouring layers sharing a ratio, 125 free), split 7:3, gradient-boosted trees
on the vector of ratios, the space narrowed by what they find important, 10,000 random candidates
predicted, 18 evaluated. Beside them the paper's baseline, the same ratio everywhere (LLM-Pruner).

What differs: targets are the log KL to the dense model and the NLL of the search windows, standardised (the
paper: perplexities and MMLU, normalised), as perplexities of small models span decades; candidates are
moved to the edge of the budget; which sub-blocks are narrowed is decided by thirds of importance.

Shape suffixes: N pairs, S prunable sub-blocks (slots), K targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from secateur.search.predictor import rank_quality
from secateur.search.samplers.even import prune_uniformly
from secateur.search.samplers.ratios import RatioSpace
from secateur.search.samplers.sampler import Problem, Proposal, Round, architectures, new_proposals
from secateur.study.trial import EvaluatedArchitecture

PAIRS, FINALISTS = 525, 18
GROUPED = 400 / 525
TRAIN = 0.7
CANDIDATES = 10_000
BASELINE = "uniform baseline"
FINALIST = "predicted best"


@dataclass(frozen=True)
class PaperReport:
    """What the paper reports of its predictor, and the rank correlation that it does not.

    Attributes:
        train, held_out: pairs of the 7:3 split.
        mse, rmse, mae, r2: on the held-out pairs, standardised targets, averaged over targets; None with
            fewer than two pairs. (The paper's RMSE is not the root of its MSE: it averages as well.)
        tau, top_10_recall: of the predicted KL on the held-out pairs; None where undefined.
        importance: share of the trees' gain, by sub-block.
        ranges: tenths pruned, least and most, by sub-block, after narrowing.
        candidates: how many were predicted.
    """

    train: int
    held_out: int
    mse: float | None
    rmse: float | None
    mae: float | None
    r2: float | None
    tau: float | None
    top_10_recall: float | None
    importance: dict[str, float]
    ranges: dict[str, tuple[int, int]]
    candidates: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class PaperSampler:
    """One round of random pairs, within the budget or not; then one of finalists within it."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._whole = RatioSpace.whole(problem.space)
        finals = min(FINALISTS + 1, max(1, problem.evaluations // 4))
        self.round_size = max(1, problem.evaluations - finals)

    def propose(self, done: Sequence[EvaluatedArchitecture], number: int, count: int) -> Round:
        """Round 1: pairs. Round 2: the baseline, and the best of what was predicted."""
        if number == 1:
            return Round(self._random(count))
        return self._finalists(done, count) if number == 2 else Round([])

    def _random(self, count: int) -> list[Proposal]:
        rng = np.random.default_rng((self._problem.seed, 1))
        chosen: list[Proposal] = []
        for origin, target_count in (("grouped", round(count * GROUPED)), ("free", count)):
            drawn = self._whole.draw(rng, 4 * count, grouped=origin == "grouped")
            proposals = (Proposal(self._whole.architecture(tenths_S), origin) for tenths_S in drawn)
            chosen = new_proposals([*chosen, *proposals], evaluated=())[:target_count]
        return chosen

    def _finalists(self, done: Sequence[EvaluatedArchitecture], count: int) -> Round:
        fit = FittedPredictor(self._whole, done, self._problem.seed)
        narrowed = self._whole.narrowed(fit.importance_S)
        rng = np.random.default_rng((self._problem.seed, 2))
        tenths_NS = narrowed.fitted(narrowed.draw(rng, CANDIDATES), self._problem.budget, rng)
        best_first = np.argsort(fit.predicted_kl(narrowed.kept(tenths_NS)), kind="stable")
        # Several times as many as wanted: different ratios may be the same widths.
        predicted = [narrowed.architecture(tenths_NS[row]) for row in best_first[: 8 * count]]
        proposals = [*self._baseline(), *(Proposal(candidate, FINALIST) for candidate in predicted)]
        report = fit.report(narrowed, len(tenths_NS))
        return Round(new_proposals(proposals, architectures(done))[:count], report=report)

    def _baseline(self) -> list[Proposal]:
        """The same ratio in every layer that the paper prunes; in all layers where that is not enough."""
        everywhere = range(self._problem.space.dense.num_layers)
        for layers in (self._whole.layers, everywhere):
            candidate = prune_uniformly(self._problem, layers, ("attention", "ffn"))
            if candidate is not None:
                return [Proposal(candidate, BASELINE)]
        return []


class FittedPredictor:
    """Boosted trees from kept fractions to the log KL and the NLL of pairs, on seven tenths of them."""

    def __init__(self, ratios: RatioSpace, trials: Sequence[EvaluatedArchitecture], seed: int) -> None:
        dense = ratios.space.dense
        full_S = np.array([max(dense.width(*slot), 1) for slot in ratios.slots])
        widths = [[trial.architecture.width(*slot) for slot in ratios.slots] for trial in trials]
        rows_NS = np.array(widths) / full_S
        targets = [(np.log(max(trial.measurement.kl, 1e-9)), trial.measurement.nll) for trial in trials]
        order = np.random.default_rng((seed, 3)).permutation(len(trials))
        train, held = np.split(order, [max(1, round(TRAIN * len(trials)))])
        targets_NK = _standardised(np.array(targets), train)
        self._trees = boosted_trees(seed).fit(rows_NS[train], targets_NK[train])
        self._num_train = len(train)
        self._held_NK = targets_NK[held]
        self._predicted_NK = np.asarray(self._trees.predict(rows_NS[held])) if len(held) else self._held_NK

    @property
    def importance_S(self) -> np.ndarray:
        """Share of the trees' gain."""
        return np.asarray(self._trees.feature_importances_, dtype=np.float64)

    def predicted_kl(self, kept_NS: np.ndarray) -> np.ndarray:
        """Standardised log KL [N] of kept fractions."""
        return np.asarray(self._trees.predict(kept_NS))[:, 0] if len(kept_NS) else np.empty(0)

    def report(self, narrowed: RatioSpace, candidates: int) -> PaperReport:
        """How well held-out pairs are predicted, and what the space became."""
        names = [f"layer {layer} {kind}" for layer, kind in narrowed.slots]
        ranges = zip(narrowed.low_S.tolist(), narrowed.high_S.tolist(), strict=True)
        enough = len(self._held_NK) > 1
        quality = rank_quality(self._predicted_NK[:, 0], self._held_NK[:, 0]) if enough else None
        return PaperReport(
            train=self._num_train,
            held_out=len(self._held_NK),
            **_errors(self._held_NK, self._predicted_NK),
            tau=quality.tau if quality else None,
            top_10_recall=quality.recall if quality else None,
            importance=dict(zip(names, self.importance_S.round(5).tolist(), strict=True)),
            ranges=dict(zip(names, ranges, strict=True)),
            candidates=candidates,
        )


def boosted_trees(seed: int) -> Any:
    """The paper's kind of regressor; it says nothing of its settings."""
    from xgboost import XGBRegressor

    return XGBRegressor(
        n_estimators=300,
        max_depth=4,
        learning_rate=0.05,
        subsample=0.8,
        random_state=seed % 2**31,
        n_jobs=1,  # sums in one order: the same trees on every run
    )


def _standardised(targets_NK: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the training pairs; one that does not vary is only centred."""
    std_K = targets_NK[train].std(0)
    return (targets_NK - targets_NK[train].mean(0)) / np.where(std_K > 0, std_K, 1.0)


def _errors(truth_NK: np.ndarray, predicted_NK: np.ndarray) -> dict[str, float | None]:
    from sklearn import metrics

    errors = {
        "mse": metrics.mean_squared_error,
        "rmse": metrics.root_mean_squared_error,
        "mae": metrics.mean_absolute_error,
        "r2": metrics.r2_score,
    }
    if len(truth_NK) < 2:
        return dict.fromkeys(errors)
    return {name: float(error(truth_NK, predicted_NK)) for name, error in errors.items()}
