"""Greedy removal of whole sub-blocks, the one that hurts least first.

Source: BlockPruner (arXiv 2406.10594), which tries all that are left before every removal. Here only
the most promising are tried, as many as the evaluations allow: what a removal added to the loss when
it was last tried says what is promising.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from secateur.model.architecture import Architecture, Slot
from secateur.search.samplers.sampler import Problem, Proposal, Round, new_proposals
from secateur.space.budget import Limit
from secateur.study.trial import EvaluatedArchitecture, best_first


class GreedySampler:
    """Removes one sub-block per round; proposals are over the budget until the last."""

    def __init__(self, problem: Problem) -> None:
        assert problem.table is not None
        self._problem = problem
        self._added = {slot: row[min(row)] for slot, row in problem.table.kl.items()}
        self._current, self._loss = problem.space.dense, 0.0
        self._tried: dict[Architecture, Slot] = {}
        self.round_size = max(1, problem.evaluations // self._removals())

    def propose(self, done: Sequence[EvaluatedArchitecture], number: int, count: int) -> Round:
        """The most promising removals from what the best of the last round left."""
        tried = [trial for trial in done if trial.architecture in self._tried]
        if tried:  # none, too, where the first removal would already make too many layer shapes
            self._take_best(tried)
        if self._problem.budget.fits(self._current):
            return Round([])
        space = self._problem.space
        removable_slots = [
            slot for slot in self._removable(self._current) if space.contains(self._without(slot))
        ]
        if not removable_slots:
            return self._conformed({trial.architecture for trial in done})
        promising = sorted(removable_slots, key=lambda slot: (self._added[slot], slot))[:count]
        self._tried = {self._without(slot): slot for slot in promising}
        return Round(
            [Proposal(item, f"without {kind} {layer}") for item, (layer, kind) in self._tried.items()]
        )

    def _conformed(self, evaluated: Collection[Architecture]) -> Round:
        """The last proposal where removing anything more would make too many layer shapes."""
        self._current = self._problem.conform(self._current)
        last = [Proposal(self._current, "without any more shapes")]
        return Round(new_proposals(last, evaluated) if self._problem.space.limits_shapes else [])

    def _take_best(self, tried: Sequence[EvaluatedArchitecture]) -> None:
        for trial in tried:
            self._added[self._tried[trial.architecture]] = trial.measurement.kl - self._loss
        best = best_first(tried)[0]
        self._current, self._loss = best.architecture, best.measurement.kl

    def _removable(self, candidate: Architecture) -> list[Slot]:
        return [slot for slot in self._problem.space.slots if candidate.width(*slot) > self._least(slot)]

    def _without(self, slot: Slot) -> Architecture:
        return self._current.with_width(*slot, self._least(slot))

    def _least(self, slot: Slot) -> int:
        return self._problem.space.widths(*slot)[0]

    def _removals(self) -> int:
        """About how many removals the budget asks for."""
        return max(1, *(self._removals_for(limit) for limit in self._problem.budget.limits))

    def _removals_for(self, limit: Limit) -> int:
        counted = [max(row.values()) for row in limit.cost.table.values() if max(row.values())]
        mean = sum(counted) / len(counted)
        return math.ceil((limit.cost.of(self._problem.space.dense) - limit.max_value) / mean)
