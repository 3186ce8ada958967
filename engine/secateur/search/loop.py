"""The search loop: single cuts if the sampler wants a table, then rounds of proposals.

Deterministic for a seed, and resumable at any point: a round's proposals depend only on the pairs of
earlier rounds, so a search that was killed proposes the same round again and skips what it finds in
the study. With several goals (budgets) the rounds go to each in turn, and every pair serves all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from secateur.calibrate.library import BlockLibrary
from secateur.evaluation.measurement import Evaluator, Measurement
from secateur.model.architecture import Architecture, slot_name
from secateur.search.predictor import AUTO_SELECT, RankQuality, SelectedPredictor
from secateur.search.samplers.registry import GUIDED, SAMPLERS, learns_from_all, needs_table
from secateur.search.samplers.sampler import Problem, Proposal, Round, Sampler
from secateur.search.table import AdditiveTable, build_table, single_cuts
from secateur.space.budget import Budget
from secateur.space.goal import Goal
from secateur.space.space import Space
from secateur.study.cooperation import evaluate_shared
from secateur.study.study import EvaluatedArchitecture, Study, best_first

PATIENCE_ROUNDS = 4  # rounds of a goal
MIN_IMPROVEMENT = 0.005  # of the best KL: what counts as progress


@dataclass(frozen=True)
class SearchProgress:
    """One step of the search.

    Attributes:
        stage: ``table`` or ``search``.
        done, total: evaluations of this stage.
        pair: what was just evaluated.
        goal: the name of the goal that it was proposed for.
        best: the best pair that fits this goal's budget, once there is one.
        quality: how the predictor of this round ranks held-out pairs.
        predictor: the regressor it is made of.
    """

    stage: str
    done: int
    total: int
    pair: EvaluatedArchitecture
    best: EvaluatedArchitecture | None
    goal: str | None = None
    quality: RankQuality | None = None
    predictor: str | None = None


class Search:
    """One search over a space, towards one or several budgets.

    Args:
        goals: the budgets; with several the evaluations are shared among them.
        evaluations: how many proposals are evaluated (single cuts come on top).
        seed: of everything random.
        sampler: one of `registry.SAMPLERS`.
        predictor: a regressor, or `predictor.AUTO_SELECT` for the one that ranks held-out pairs best.
        patience: a goal is given up after so many of its rounds without a gain of `MIN_IMPROVEMENT` in its
            best KL, and the search ends when all are; None goes on until the evaluations are spent.

    Attributes:
        choice: the predictor of the last round, and how its rivals did; None without one.
        table: the additive table; None before it is built, or where the sampler needs none.
    """

    def __init__(
        self,
        space: Space,
        goals: Sequence[Goal],
        library: BlockLibrary,
        evaluator: Evaluator,
        study: Study,
        *,
        evaluations: int,
        seed: int,
        sampler: str = GUIDED,
        predictor: str = AUTO_SELECT,
        patience: int | None = None,
    ) -> None:
        self._space = space
        self._goals = tuple(goals)
        self._library = library
        self._evaluator = evaluator
        self._study = study
        self._evaluations = evaluations
        self._seed = seed
        self._sampler = sampler
        self._predictor = predictor
        self._patience = patience
        self.table: AdditiveTable | None = None
        self.choice: SelectedPredictor | None = None

    def run(self) -> Iterator[SearchProgress]:
        """Evaluate until the evaluations are spent, or no goal has anything left to propose."""
        if needs_table(self._sampler):
            yield from self._fill_table()
        self._study.set_attr("goals", [goal.to_json() for goal in self._goals])
        goal_states = [
            _GoalState(goal, SAMPLERS[self._sampler](self._problem(goal)), self._patience)
            for goal in self._goals
        ]
        done: list[EvaluatedArchitecture] = []
        earlier = {note["number"]: note["seconds"] for note in self._study.get_attr("rounds") or ()}
        rounds: list[dict[str, Any]] = []
        for number in count(1):
            goal_states = [goal_state for goal_state in goal_states if not goal_state.over]
            if not goal_states or len(done) >= self._evaluations:
                return
            goal_state = goal_states.pop(0)
            goal_states.append(goal_state)
            found = goal_state.propose(done, self._evaluations - len(done), learns_from_all(self._sampler))
            self.choice = found.choice or self.choice
            started = time.perf_counter()
            yield from self._evaluate(found, number, goal_state.goal, done)
            goal_state.judge(done)
            # A round that is gone through again after an interruption takes no time.
            seconds = max(round(time.perf_counter() - started, 2), earlier.get(number, 0.0))
            rounds.append(_round_attrs(number, goal_state, found, seconds))
            self._study.set_attr("rounds", rounds)

    def ranked(self, goal: Goal) -> list[EvaluatedArchitecture]:
        """Pairs of the space that fit a budget, single cuts included, best first."""
        pairs = self._study.pairs.values()
        contained = (pair for pair in pairs if self._space.contains(pair.architecture))
        return best_first(pair for pair in contained if goal.budget.admits(pair.architecture))

    def _problem(self, goal: Goal) -> Problem:
        budget = goal.budget
        return Problem(self._space, budget, self.table, self._evaluations, self._seed, self._predictor)

    def _fill_table(self) -> Iterator[SearchProgress]:
        cuts = single_cuts(self._space)
        pairs = self._study.pairs
        missing = [cut for cut in cuts if cut not in pairs]
        done = len(cuts) - len(missing)
        recorded = evaluate_shared(
            self._study,
            self._evaluator,
            missing,
            lambda cut, found: EvaluatedArchitecture(cut, found, 0, "single cut"),
        )
        for pair in recorded:
            done += 1
            yield SearchProgress("table", done, len(cuts), pair, None)
        measured = {cut: pairs[cut].measurement.kl for cut in cuts}
        self.table = build_table(self._space, self._library, measured)
        rows = self.table.kl.items()
        self._study.set_attr(
            "table", {slot_name(*slot): {str(w): kl for w, kl in row.items()} for slot, row in rows}
        )

    def _evaluate(
        self, found: Round, number: int, goal: Goal, done: list[EvaluatedArchitecture]
    ) -> Iterator[SearchProgress]:
        """Evaluate one round; `done` grows by its pairs, in the same order with and without interruptions."""
        wanted: dict[Architecture, Proposal] = {item.architecture: item for item in found.proposals}
        pairs = self._study.pairs
        known = [pairs[item] for item in wanted if item in pairs]
        finished: dict[Architecture, EvaluatedArchitecture] = {pair.architecture: pair for pair in known}
        missing = [item for item in wanted if item not in pairs]
        best = _best(goal.budget, [*done, *known])

        def pair_of(item: Architecture, measurement: Measurement) -> EvaluatedArchitecture:
            return EvaluatedArchitecture(
                item, measurement, number, wanted[item].origin, wanted[item].predicted
            )

        recorded = evaluate_shared(self._study, self._evaluator, missing, pair_of)
        for new, pair in enumerate(recorded, start=1):
            finished[pair.architecture] = pair
            best = _best(goal.budget, [pair, *([best] if best else [])])
            total_done = len(done) + len(known) + new
            name = found.choice.predictor.name if found.choice else None
            quality = found.choice.best if found.choice else None
            yield SearchProgress(
                "search", total_done, self._evaluations, pair, best, goal.name, quality, name
            )
        there = {pair.architecture for pair in done}  # proposed for another goal before
        done += [finished[item] for item in wanted if item not in there]


class _GoalState:
    """How far one goal has come: its sampler, its rounds, its best."""

    def __init__(self, goal: Goal, sampler: Sampler, patience: int | None) -> None:
        self.goal = goal
        self.over = False
        self.rounds = 0
        self.best_kl = math.inf
        self._own: set[Architecture] = set()
        self._sampler = sampler
        self._patience = patience
        self._idle = 0

    def propose(self, done: Sequence[EvaluatedArchitecture], left: int, from_all: bool) -> Round:
        """Its next round; over when there is none."""
        known = list(done) if from_all else [pair for pair in done if pair.architecture in self._own]
        self.rounds += 1
        found = self._sampler.propose(known, self.rounds, min(self._sampler.round_size, left))
        self.over = not found.proposals
        self._own |= {item.architecture for item in found.proposals}
        return found

    def judge(self, done: Sequence[EvaluatedArchitecture]) -> None:
        """Look whether the last round brought anything."""
        best = _best(self.goal.budget, done)
        gained = best is not None and best.measurement.kl < self.best_kl * (1 - MIN_IMPROVEMENT)
        self._idle = 0 if gained else self._idle + 1
        if gained and best is not None:
            self.best_kl = best.measurement.kl
        self.over |= self._patience is not None and self._idle >= self._patience


def _round_attrs(number: int, goal_state: _GoalState, found: Round, seconds: float) -> dict[str, Any]:
    """What a study says of a round."""
    quality = found.choice.quality if found.choice else {}
    return {
        "number": number,
        "goal": goal_state.goal.name,
        "predictor": found.choice.predictor.name if found.choice else None,
        "quality": {name: {"tau": q.tau, "top_10_recall": q.recall} for name, q in quality.items()},
        "space_share": found.space_share,
        "proposals": len(found.proposals),
        "seconds": seconds,
        "report": found.report.to_json() if found.report else None,
        "best_kl": goal_state.best_kl if math.isfinite(goal_state.best_kl) else None,
    }


def _best(budget: Budget, pairs: Sequence[EvaluatedArchitecture]) -> EvaluatedArchitecture | None:
    fitting = best_first(pair for pair in pairs if budget.admits(pair.architecture))
    return fitting[0] if fitting else None
