"""How many pairs a predictor needs: rank correlation on held-out pairs over the number of pairs.

Three sets of pairs, made by the searches of the contest: random ones within the budget (what a
predictor knows before a search), those of converging searches (nearly alike, hence hard to rank), and both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.samplers.contest import Contest
from secateur.search.predictor import Features, Predictor, rank_quality
from secateur.search.regressors import REGRESSORS
from secateur.search.samplers.paper import boosted_trees
from secateur.study.trial import EvaluatedArchitecture

SIZES = (10, 25, 50, 100, 150, 200)
SPLITS = 5
HELD_OUT = 60
PAPER = "trees on widths alone (the paper's)"


def learning_curves(contest: Contest, seeds: Sequence[int]) -> dict[str, Any]:
    """Mean and spread of tau and top-10 recall over random splits, by set of pairs and regressor."""
    if contest.table is None:
        return {}
    features = Features(contest.space, contest.table)
    drawn = _union(contest, ("random",), seeds)
    searched = _union(contest, ("guided",), seeds)
    sets = {"random": drawn, "guided": searched, "random and guided": drawn + searched}
    return {
        name: {"pairs": len(pairs), "curves": {r: _curve(features, pairs, r) for r in (*REGRESSORS, PAPER)}}
        for name, pairs in sets.items()
        if len(pairs) >= HELD_OUT + SIZES[0]
    }


def _residual(
    features: Features,
    train: Sequence[EvaluatedArchitecture],
    held: Sequence[EvaluatedArchitecture],
    seed: int,
    regressor: str,
) -> np.ndarray:
    predictor = Predictor(features, seed, regressor)
    predictor.fit([p.architecture for p in train], [p.measurement.kl for p in train])
    return predictor.predict([p.architecture for p in held]).mean


def _papers_way(
    features: Features,
    train: Sequence[EvaluatedArchitecture],
    held: Sequence[EvaluatedArchitecture],
    seed: int,
    regressor: str,
) -> np.ndarray:
    """Trees on widths alone, as arXiv 2309.09507 has them: no table behind them."""
    rows, unseen = (np.array([p.architecture.path for p in some], dtype=float) for some in (train, held))
    trees = boosted_trees(seed).fit(rows, np.log([p.measurement.kl for p in train]))
    return np.asarray(trees.predict(unseen))


def _union(contest: Contest, samplers: Sequence[str], seeds: Sequence[int]) -> list[EvaluatedArchitecture]:
    pairs = [pair for name in samplers for seed in seeds for pair in contest.pairs.get((name, seed), [])]
    return list({pair.architecture: pair for pair in pairs}.values())


def _curve(
    features: Features, pairs: Sequence[EvaluatedArchitecture], regressor: str
) -> list[dict[str, float]]:
    rows = []
    for size in SIZES:
        if size + HELD_OUT > len(pairs):
            break
        found = [_once(features, pairs, regressor, size, split) for split in range(SPLITS)]
        tau, recall = np.array(found).T
        rows.append(
            {
                "pairs": size,
                "tau": round(float(tau.mean()), 4),
                "tau_std": round(float(tau.std()), 4),
                "top_10_recall": round(float(recall.mean()), 4),
            }
        )
    return rows


def _once(
    features: Features, pairs: Sequence[EvaluatedArchitecture], regressor: str, size: int, split: int
) -> tuple[float, float]:
    order = np.random.default_rng(split).permutation(len(pairs))
    held, train = [pairs[i] for i in order[:HELD_OUT]], [pairs[i] for i in order[HELD_OUT:][:size]]
    predict = _papers_way if regressor == PAPER else _residual
    predicted = predict(features, train, held, split, regressor)
    quality = rank_quality(predicted, np.array([p.measurement.kl for p in held]))
    assert quality is not None
    return quality.tau, quality.recall
