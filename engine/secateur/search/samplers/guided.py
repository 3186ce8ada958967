"""Ours: an accuracy predictor guides an evolution within the budget.

Round 1 are seeds (the additive optimum at several sharpness values, with and without attention cuts,
even trims with and without protected ends); later rounds mutate and cross the best pairs within the
budget, rank thousands of such children with the predictor, and pick the most promising and the most
uncertain. A child keeps its parent's widths up to a random depth, the deeper of two draws, and what
it shares with its parent and its siblings need not be evaluated again (`prefixes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from secateur.search.architecture import Architecture
from secateur.search.features import Features
from secateur.search.knapsack import Values, solve, spend_slack
from secateur.search.predictor import Predictor, choose
from secateur.search.samplers.even_trim import even_trims
from secateur.search.samplers.sampler import ROUND_SIZE, Problem, Proposal, Round, best_first, distinct
from secateur.search.space import Slot
from secateur.search.study import Pair

SHARPNESS = (1.0, 0.8, 0.65, 0.5, 1.25)
EVEN_TRIMS = 3
PARENTS = 10
CHILDREN = 1500
CROSSOVER = 0.3
EXPLORE = 0.25  # share of a round that goes to the most uncertain


class GuidedSampler:
    """Proposes architectures that fit the budget and spend it."""

    round_size = ROUND_SIZE

    def __init__(self, problem: Problem) -> None:
        assert problem.table is not None
        self._problem = problem
        self._space, self._budget, self._table = problem.space, problem.budget, problem.table
        self._features = Features(problem.space, problem.table)

    def propose(self, done: Sequence[Pair], number: int, count: int) -> Round:
        """Seeds, then children of the best pairs."""
        if number == 1:
            return Round(self.seeds()[:count])
        ranked = best_first(done)
        candidates = [pair.architecture for pair in ranked]
        kl = [pair.measurement.kl for pair in ranked]
        choice = choose(self._features, candidates, kl, self._problem.seed, self._problem.predictor)
        rng = np.random.default_rng((self._problem.seed, number))
        return Round(self.children(candidates, choice.predictor, rng, count), choice)

    def seeds(self) -> list[Proposal]:
        """The first round, best guess first."""
        proposals = [
            Proposal(solve(self._space, self._budget, self._table.sharpened(power)), f"knapsack^{power}")
            for power in SHARPNESS
        ]
        for power in (1.0, 0.65):
            values = self._without_attention_cuts(self._table.sharpened(power))
            proposals.append(
                Proposal(solve(self._space, self._budget, values), f"knapsack^{power}, ffn only")
            )
        proposals += list(even_trims(self._problem))[:EVEN_TRIMS]
        fitting = [p for p in proposals if self._budget.admits(p.architecture)]
        return distinct(fitting, known=())

    def children(
        self, ranked: Sequence[Architecture], predictor: Predictor, rng: np.random.Generator, count: int
    ) -> list[Proposal]:
        """Up to `count` new architectures.

        Args:
            ranked: evaluated architectures that fit the budget, best first.
        """
        parents = list(ranked[:PARENTS])
        known = set(ranked)
        children = {
            child: None
            for _ in range(CHILDREN)
            if (child := self._child(parents, rng)) not in known and self._budget.admits(child)
        }
        pool = list(children)
        if not pool:
            return []
        prediction = predictor.predict(pool)
        explore = int(count * EXPLORE)
        promising = np.argsort(prediction.mean, kind="stable")[: count - explore]
        hopeful = np.argsort(prediction.mean - 2.0 * prediction.std, kind="stable")
        chosen = [Proposal(pool[i], "promising") for i in promising]
        chosen += [Proposal(pool[i], "uncertain") for i in hopeful[:count]]
        return distinct(chosen, known)[:count]

    def _child(self, parents: Sequence[Architecture], rng: np.random.Generator) -> Architecture:
        """A parent changed from a random depth on; what lies before it has been evaluated with the parent."""
        slots = self._space.slots
        tail = slots[int(rng.integers(len(slots), size=2).max()) :]
        child = parents[_rank_weighted(len(parents), rng)]
        if len(parents) > 1 and rng.random() < CROSSOVER:
            child = _cross(child, parents[int(rng.integers(len(parents)))], tail)
        for _ in range(int(rng.integers(1, 4))):
            child = self._move(child, tail, rng)
        child = self._shrink_to_fit(child, tail, rng)
        values = self._jitter(rng)
        child = spend_slack(self._space, self._budget, values, child, tail)
        return spend_slack(self._space, self._budget, values, child)  # where the tail is full already

    def _move(self, child: Architecture, slots: Sequence[Slot], rng: np.random.Generator) -> Architecture:
        slot = slots[int(rng.integers(len(slots)))]
        widths = self._space.widths(*slot)
        here = widths.index(child.width(*slot))
        reach = 1 if slot[1] == "attention" else 4
        there = int(np.clip(here + rng.integers(-reach, reach + 1), 0, len(widths) - 1))
        return child.with_width(*slot, widths[there])

    def _shrink_to_fit(
        self, child: Architecture, tail: Sequence[Slot], rng: np.random.Generator
    ) -> Architecture:
        """Narrow sub-blocks of the tail until the budget holds, others where the tail has nothing left.

        Those that hurt least by the table with noise go first.
        """
        values = self._jitter(rng)
        while not self._budget.admits(child):
            narrower = self._narrower(child, tail) or self._narrower(child, self._space.slots)
            slot, width = min(narrower, key=lambda step: self._loss_per_cost(child, values, *step))
            child = child.with_width(*slot, width)
        return child

    def _narrower(self, child: Architecture, slots: Sequence[Slot]) -> list[tuple[Slot, int]]:
        return [(slot, width) for slot in slots if (width := self._below(child, slot)) is not None]

    def _below(self, child: Architecture, slot: Slot) -> int | None:
        widths = self._space.widths(*slot)
        here = widths.index(child.width(*slot))
        return widths[here - 1] if here > 0 else None

    def _loss_per_cost(self, child: Architecture, values: Values, slot: Slot, width: int) -> float:
        cost = self._budget.cost
        saved = cost.block(slot, child.width(*slot)) - cost.block(slot, width)
        return (values[slot][width] - values[slot][child.width(*slot)]) / max(saved, 1)

    def _jitter(self, rng: np.random.Generator) -> Values:
        """The table with every row scaled by a random factor, so that children of one parent differ."""
        scale = np.exp(rng.normal(0.0, 0.35, len(self._table.kl)))
        rows = zip(self._table.kl.items(), scale, strict=True)
        return {slot: {w: kl * factor for w, kl in row.items()} for (slot, row), factor in rows}

    def _without_attention_cuts(self, values: Values) -> Values:
        def guarded(slot: Slot, row: Mapping[int, float]) -> Mapping[int, float]:
            full = self._space.dense.width(*slot)
            if slot[1] == "ffn":
                return row
            return {w: kl if w == full else kl + 1e6 for w, kl in row.items()}

        return {slot: guarded(slot, row) for slot, row in values.items()}


def _cross(left: Architecture, right: Architecture, tail: Sequence[Slot]) -> Architecture:
    """One parent with the tail of another."""
    for slot in tail:
        left = left.with_width(*slot, right.width(*slot))
    return left


def _rank_weighted(count: int, rng: np.random.Generator) -> int:
    weights = 1.0 / (1.0 + np.arange(count))
    return int(rng.choice(count, p=weights / weights.sum()))
