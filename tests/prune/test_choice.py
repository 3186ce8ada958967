"""The choice among finalists: the least loss where text can tell, else what is faster to serve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from secateur.evaluation.measurement import Evaluator, Losses, Measurement, resolve_chunks
from secateur.model.architecture import Architecture
from secateur.progress import SilentReporter
from secateur.prune.choice import FINALISTS, Choice, choose, finalists, paired_interval, serving_cost
from secateur.space.budget import Budget, Goal, Limit
from secateur.space.costs.cost import Cost
from secateur.study.trial import EvaluatedArchitecture

WIDE, DEEP, SHALLOW = (
    Architecture((1, 1), (9, 9)),
    Architecture((2, 1), (8, 8)),
    Architecture((2, 0), (16, 8)),
)
COST = Cost("parameters", 0, {})
GOAL = Goal("0.5", Budget((Limit("params", COST, 100),)))
NOISE = np.random.default_rng(0).normal(0, 0.02, (3, 64))


class MadeUp(Evaluator):
    """Losses of 64 windows in chunks of four, as given."""

    def __init__(self, losses: dict[Architecture, Any]) -> None:
        self._losses = losses

    @property
    def num_chunks(self) -> int:
        return 16

    def losses(
        self, candidates: Sequence[Architecture], chunks: Iterable[int] | None = None
    ) -> Iterator[tuple[Architecture, Losses]]:
        for item in candidates:
            kl = tuple(
                float(self._losses[item][4 * chunk + one])
                for chunk in resolve_chunks(chunks, self.num_chunks)
                for one in range(4)
            )
            yield item, Losses(kl, kl, 255)


def trial(shape: Architecture, turn: int = 2) -> EvaluatedArchitecture:
    return EvaluatedArchitecture(shape, Measurement(0.1, 0.0, 1.0, 0.0, 1), turn, "x")


def chosen(losses: dict[Architecture, Any]) -> Choice:
    evaluator: Any = MadeUp(losses)
    return choose(GOAL, [trial(shape) for shape in losses], evaluator, SilentReporter())


def test_the_least_loss_wins_where_text_can_tell() -> None:
    choice = chosen({SHALLOW: 0.5 + NOISE[0], DEEP: 0.3 + NOISE[1], WIDE: 0.4 + NOISE[2]})
    assert choice.architecture == DEEP and len(choice.alike) == 1
    assert choice.unseen.kl == pytest.approx(0.3, abs=0.01)


def test_what_is_faster_to_serve_where_it_cannot() -> None:
    """The second has one sub-block less, and on average 0.0005 more loss, of 0.02 by chance."""
    choice = chosen({DEEP: 0.3 + NOISE[0] - NOISE[0].mean(), SHALLOW: 0.3005 + NOISE[1] - NOISE[1].mean()})
    assert choice.architecture == SHALLOW
    best, taken = choice.to_json()["alike"]
    assert not best["taken"] and taken["taken"]
    assert taken["kl_above_least"] == pytest.approx(0.0005)
    assert taken["interval"][0] < 0 < taken["interval"][1]
    assert (best["sub_blocks"], taken["sub_blocks"]) == (4, 3)


def test_latency_says_what_is_faster_where_it_was_measured() -> None:
    table = {(i, kind): {w: 10 - w for w in range(20)} for i in range(2) for kind in ("attention", "ffn")}
    slow_if_narrow = Budget((Limit("latency", Cost("ns", 0, table), 100),))
    ordered = sorted((WIDE, DEEP, SHALLOW), key=lambda shape: serving_cost(shape, slow_if_narrow))
    assert ordered == sorted((WIDE, DEEP, SHALLOW), key=lambda shape: -sum(shape.path))


def test_an_interval_covers_the_difference() -> None:
    """Of 200 pairs with a known mean difference, about 95 % of intervals hold it."""
    draws = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        low, high = paired_interval(draws.normal(0.1, 0.3, 48), draws.normal(0.0, 0.3, 48))
        held += low <= 0.1 <= high
    assert 178 <= held <= 199


def test_finalists_include_the_best_seed() -> None:
    ranked = [trial(Architecture((1,), (n,)), 3) for n in range(6)]
    ranked += [trial(Architecture((1,), (n,)), 1) for n in (6, 7)]
    assert finalists(ranked) == [*ranked[:FINALISTS], ranked[6]]
    only_seeds = [trial(Architecture((1,), (n,)), 1) for n in range(3)]
    assert finalists(only_seeds) == only_seeds
