"""Ours: an accuracy predictor guides an evolution within the budget.

Round 1 are seeds (the additive optimum at several sharpness values, with and without attention cuts,
even trims with and without protected ends). A later round breeds thousands of children of the best
trials (`breeding`), ranks them with the predictor, breeds the best of those again, and picks the most
promising and the most uncertain, none too like another. Widths that the predictor is sure are worse than what
they cost are not moved to any more: the space shrinks, as the paper's does (arXiv 2309.09507, section 2).

Where one study is for several budgets, the best trials of the others are parents too, trimmed or widened to
this one's edge, and the predictor learns from all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from secateur.model.architecture import Architecture, Slot
from secateur.search.predictor import Features, Predictor, select_predictor
from secateur.search.samplers.breeding import Breeder
from secateur.search.samplers.even import uniform_prunings
from secateur.search.samplers.sampler import ROUND_SIZE, Problem, Proposal, Round, new_proposals
from secateur.search.samplers.shrinking import allowed_widths
from secateur.space.grid import Grid
from secateur.space.knapsack import Values, solve
from secateur.study.trial import EvaluatedArchitecture, best_first

SHARPNESS = (1.0, 0.8, 0.65, 0.5, 1.25)
EVEN_TRIMS = 3
PARENTS = 10
CHILDREN = 2500  # per generation
SHAPE_LIMIT_SLOWDOWN = 10  # how many times fewer children where the number of layer shapes is limited
GENERATIONS = 4  # bred from predictions before anything is evaluated
ELITE_SIZE = 30  # predicted best that the next generation is bred from
EXPLORATION_FRACTION = 0.25  # share of a round that goes to the most uncertain
MIN_BUDGET_USE = 0.97  # share of a limit; what spends less was made for another budget
MIN_DISTANCE = 3  # sub-blocks in which two proposals of a round differ, where there are such


class GuidedSampler:
    """Proposes architectures that fit the budget and spend it."""

    round_size = ROUND_SIZE

    def __init__(self, problem: Problem) -> None:
        assert problem.table is not None
        self._problem = problem
        self._space, self._budget, self._table = problem.space, problem.budget, problem.table
        self._features = Features(problem.space, problem.table)
        self._grid = Grid(problem.space)
        self._values_SW = self._grid.values(problem.table.kl)
        self._costs_LSW = self._grid.costs(problem.budget)

    def propose(self, done: Sequence[EvaluatedArchitecture], number: int, count: int) -> Round:
        """Seeds, then children of the best trials."""
        if number == 1:
            return Round(new_proposals(self.seeds(), {trial.architecture for trial in done})[:count])
        ranked = best_first(done)
        candidates = [trial.architecture for trial in ranked]
        kl = [trial.measurement.kl for trial in ranked]
        in_budget = [self._budget.fits(item) and self._nearly_spends_budget(item) for item in candidates]
        selected_predictor = select_predictor(
            self._features, candidates, kl, self._problem.seed, self._problem.predictor, in_budget
        )
        rng = np.random.default_rng((self._problem.seed, number))
        allowed_SW = allowed_widths(
            self._grid, self._costs_LSW, self._parents(candidates), selected_predictor.predictor, len(ranked)
        )
        proposals = self.children(candidates, selected_predictor.predictor, rng, count, allowed_SW)
        return Round(proposals, selected_predictor, float(allowed_SW.sum() / (self._grid.top_S + 1).sum()))

    def seeds(self) -> list[Proposal]:
        """The first round, best guess first."""
        proposals = [
            Proposal(self._solved(self._table.sharpened(power)), f"knapsack^{power}") for power in SHARPNESS
        ]
        for power in (1.0, 0.65):
            values = self._without_attention_cuts(self._table.sharpened(power))
            proposals.append(Proposal(self._solved(values), f"knapsack^{power}, ffn only"))
        proposals += list(uniform_prunings(self._problem))[:EVEN_TRIMS]
        fitting = [p for p in proposals if self._budget.fits(p.architecture)]
        return new_proposals(fitting, evaluated=())

    def _solved(self, values: Values) -> Architecture:
        return self._problem.conform(solve(self._space, self._budget, values))

    def children(
        self,
        ranked: Sequence[Architecture],
        predictor: Predictor,
        rng: np.random.Generator,
        count: int,
        allowed_SW: np.ndarray | None = None,
    ) -> list[Proposal]:
        """Up to `count` new architectures.

        Args:
            ranked: evaluated architectures, best first.
            allowed_SW: widths to move to, by slot; all of them for None.
        """
        if allowed_SW is None:
            allowed_SW = np.ones(self._values_SW.shape, dtype=bool)
        breeder = Breeder(self._grid, self._values_SW, self._costs_LSW, allowed_SW)
        parents_PS = self._grid.encode(self._parents(ranked))
        pool: dict[Architecture, tuple[float, float]] = {}
        known_architectures = set(ranked)
        for _ in range(GENERATIONS):
            bred = self._bred(breeder, parents_PS, rng)
            fresh = [
                c for c in bred if c not in known_architectures and c not in pool and self._budget.fits(c)
            ]
            if fresh:
                prediction = predictor.predict(fresh)
                pool |= dict(
                    zip(
                        fresh,
                        zip(prediction.mean.tolist(), prediction.std.tolist(), strict=True),
                        strict=True,
                    )
                )
            elite = sorted(pool, key=lambda item: (pool[item][0], item))[:ELITE_SIZE]
            parents_PS = self._grid.encode([*elite, *self._parents(ranked)])
        explore = int(count * EXPLORATION_FRACTION)
        promising = sorted(pool, key=lambda item: (pool[item][0], item))
        hopeful = sorted(pool, key=lambda item: (pool[item][0] - 2.0 * pool[item][1], item))
        chosen = _select_diverse(promising, count - explore, [])
        proposals = [Proposal(item, "promising", pool[item][0]) for item in chosen]
        for item in _select_diverse(hopeful, count - len(chosen), chosen):
            proposals.append(Proposal(item, "uncertain", pool[item][0]))
        return proposals

    def _bred(self, breeder: Breeder, parents_PS: np.ndarray, rng: np.random.Generator) -> list[Architecture]:
        """Distinct children; fewer where each has to be brought down to few layer shapes one by one."""
        if not self._space.limits_shapes:
            return self._grid.decode(np.unique(breeder.breed(parents_PS, CHILDREN, rng), axis=0))
        children = self._grid.decode(breeder.breed(parents_PS, CHILDREN // SHAPE_LIMIT_SLOWDOWN, rng))
        return sorted({self._problem.conform(child) for child in children})

    def _parents(self, ranked: Sequence[Architecture]) -> list[Architecture]:
        """The best that spend the budget, and the best of other budgets fitted to this one."""
        near = [item for item in ranked if self._budget.fits(item) and self._nearly_spends_budget(item)]
        near_set = set(near)
        far = [item for item in ranked if item not in near_set]
        breeder = Breeder(
            self._grid, self._values_SW, self._costs_LSW, np.ones(self._values_SW.shape, dtype=bool)
        )
        projected_parents = self._grid.decode(breeder.fit(self._grid.encode(far[:PARENTS]))) if far else []
        return list(dict.fromkeys([*near[:PARENTS], *projected_parents])) or [self._space.dense]

    def _nearly_spends_budget(self, candidate: Architecture) -> bool:
        """Whether it spends the budget."""
        index_S = self._grid.encode([candidate])[0]
        spent_L = [costs_SW[np.arange(len(index_S)), index_S].sum() for costs_SW in self._costs_LSW]
        return bool(max(spent_L) > MIN_BUDGET_USE)

    def _without_attention_cuts(self, values: Values) -> Values:
        def guarded(slot: Slot, row: Mapping[int, float]) -> Mapping[int, float]:
            full = self._space.dense.width(*slot)
            if slot[1] == "ffn":
                return row
            return {w: kl if w == full else kl + 1e6 for w, kl in row.items()}

        return {slot: guarded(slot, row) for slot, row in values.items()}


def _select_diverse(
    ordered: Sequence[Architecture], count: int, chosen: Sequence[Architecture]
) -> list[Architecture]:
    """The first `count` that differ from each other and from `chosen` in at least `MIN_DISTANCE` sub-blocks.

    Filled up with the first of the others where there are too few.
    """
    selected: list[Architecture] = []
    paths = [np.array(item.path) for item in chosen]
    for item in ordered:
        if len(selected) == count:
            break
        path = np.array(item.path)
        if all(np.count_nonzero(path != other) >= MIN_DISTANCE for other in paths):
            selected.append(item)
            paths.append(path)
    already_selected = {*selected, *chosen}
    rest = (item for item in ordered if item not in already_selected)
    return [*selected, *(item for item, _ in zip(rest, range(count - len(selected)), strict=False))]
