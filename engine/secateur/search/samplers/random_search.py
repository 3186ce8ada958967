"""Random search within the budget: what any sampler has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from secateur.model.architecture import Architecture
from secateur.search.samplers.sampler import (
    ROUND_SIZE,
    Problem,
    Proposal,
    Round,
    architectures,
    new_proposals,
)
from secateur.space.budget import Budget
from secateur.space.space import Space
from secateur.study.trial import EvaluatedArchitecture


def random_architecture(space: Space, budget: Budget, rng: np.random.Generator) -> Architecture:
    """An architecture narrowed step by step at random sub-blocks until it fits the budget.

    How often a sub-block is drawn is itself random (Dirichlet): some are cut much, others hardly.
    """
    candidate = space.dense
    weights = rng.dirichlet(np.ones(len(space.slots))) + 1e-12
    counts = np.array([[limit.counts(slot) for slot in space.slots] for limit in budget.limits])
    while not budget.fits(candidate):
        exceeded = np.array(budget.slack(candidate)) < 0
        useful = weights * counts[exceeded].any(0)
        index = int(rng.choice(len(space.slots), p=useful / useful.sum()))
        slot = space.slots[index]
        narrower = [width for width in space.widths(*slot) if width < candidate.width(*slot)]
        if narrower:
            candidate = candidate.with_width(*slot, narrower[-1])
        else:
            weights[index] = 0.0
    return candidate


class RandomSampler:
    """Independent draws."""

    round_size = ROUND_SIZE

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def propose(self, done: Sequence[EvaluatedArchitecture], number: int, count: int) -> Round:
        """Draws that were not made before; fewer where the space has hardly more."""
        return Round(new_proposals(self._draws(number, count), architectures(done))[:count])

    def _draws(self, number: int, count: int) -> Iterator[Proposal]:
        rng = np.random.default_rng((self._problem.seed, number))
        for _ in range(4 * count):
            drawn = random_architecture(self._problem.space, self._problem.budget, rng)
            yield Proposal(self._problem.conform(drawn), "random")
