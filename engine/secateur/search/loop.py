"""The search loop: single cuts if the sampler wants a table, then rounds of proposals.

Deterministic for a seed, and resumable at any point: a round's proposals depend only on the trials of
earlier rounds, so a search that was killed proposes the same round again and skips what it finds in
the study. With several goals (budgets) the rounds go to each in turn, and every trial serves all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from secateur.calibrate.block_library import BlockLibrary
from secateur.evaluation.measurement import Evaluator, Measurement
from secateur.model.architecture import Architecture, slot_name
from secateur.search.predictor import AUTO_SELECT, RankQuality, SelectedPredictor
from secateur.search.samplers.registry import GUIDED, SAMPLERS, learns_from_all, needs_table
from secateur.search.samplers.sampler import Problem, Round, Sampler
from secateur.search.table import AdditiveTable, build_table, single_cuts
from secateur.space.budget import Budget, Goal
from secateur.space.space import Space
from secateur.study.shared_evaluation import evaluate_shared
from secateur.study.study import Study
from secateur.study.trial import EvaluatedArchitecture, best_first

MIN_IMPROVEMENT = 0.005  # of the best KL: what counts as progress


@dataclass(frozen=True)
class SearchProgress:
    """One step of the search.

    Attributes:
        stage: ``table`` or ``search``.
        done, total: evaluations of this stage.
        trial: what was just evaluated.
        goal: the name of the goal that it was proposed for.
        best: the best trial that fits this goal's budget, once there is one.
        quality: how the predictor of this round ranks held-out trials.
        predictor: the regressor it is made of.
    """

    stage: str
    done: int
    total: int
    trial: EvaluatedArchitecture
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
        predictor: a regressor, or `predictor.AUTO_SELECT` for the one that ranks held-out trials best.
        patience: a goal is given up after so many of its rounds without a gain of `MIN_IMPROVEMENT` in its
            best KL, and the search ends when all are; None goes on until the evaluations are spent.

    Attributes:
        selected_predictor: the predictor of the last round, and how its rivals did; None without one.
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
        self.selected_predictor: SelectedPredictor | None = None

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
        earlier_seconds = {
            attrs["number"]: attrs["seconds"] for attrs in self._study.get_attr("rounds") or ()
        }
        rounds: list[dict[str, Any]] = []
        for number in count(1):
            goal_states = [goal_state for goal_state in goal_states if not goal_state.finished]
            evaluations_left = self._evaluations - len(done)
            if not goal_states or evaluations_left <= 0:
                return
            goal_state = goal_states.pop(0)
            goal_states.append(goal_state)
            proposed = goal_state.propose(done, evaluations_left, learns_from_all(self._sampler))
            self.selected_predictor = proposed.selected_predictor or self.selected_predictor
            started = time.perf_counter()
            yield from self._evaluate(proposed, number, goal_state.goal, done)
            goal_state.update(done)
            # A round that is gone through again after an interruption takes no time.
            seconds = max(round(time.perf_counter() - started, 2), earlier_seconds.get(number, 0.0))
            rounds.append(_round_attrs(number, goal_state, proposed, seconds))
            self._study.set_attr("rounds", rounds)

    def _problem(self, goal: Goal) -> Problem:
        budget = goal.budget
        return Problem(self._space, budget, self.table, self._evaluations, self._seed, self._predictor)

    def _fill_table(self) -> Iterator[SearchProgress]:
        cuts = single_cuts(self._space)
        trials = self._study.trials
        missing = [cut for cut in cuts if cut not in trials]
        recorded = evaluate_shared(
            self._study,
            self._evaluator,
            missing,
            lambda cut, measurement: EvaluatedArchitecture(cut, measurement, 0, "single cut"),
        )
        for done, trial in enumerate(recorded, start=len(cuts) - len(missing) + 1):
            yield SearchProgress("table", done, len(cuts), trial, None)
        measured = {cut: trials[cut].measurement.kl for cut in cuts}
        self.table = build_table(self._space, self._library, measured)
        rows = self.table.kl.items()
        self._study.set_attr(
            "table", {slot_name(*slot): {str(w): kl for w, kl in row.items()} for slot, row in rows}
        )

    def _evaluate(
        self, proposed: Round, number: int, goal: Goal, done: list[EvaluatedArchitecture]
    ) -> Iterator[SearchProgress]:
        """Evaluate one round; `done` grows by its trials, in one order with and without interruptions."""
        proposals = {proposal.architecture: proposal for proposal in proposed.proposals}
        trials = self._study.trials
        finished = {candidate: trials[candidate] for candidate in proposals if candidate in trials}
        missing = [candidate for candidate in proposals if candidate not in trials]
        best = _best(goal.budget, [*done, *finished.values()])
        selected = proposed.selected_predictor
        name, quality = (selected.name, selected.best) if selected else (None, None)

        def to_trial(candidate: Architecture, measurement: Measurement) -> EvaluatedArchitecture:
            proposal = proposals[candidate]
            return EvaluatedArchitecture(candidate, measurement, number, proposal.origin, proposal.predicted)

        for trial in evaluate_shared(self._study, self._evaluator, missing, to_trial):
            finished[trial.architecture] = trial
            best = _best(goal.budget, [trial, *([best] if best else [])])
            total_done = len(done) + len(finished)
            yield SearchProgress(
                "search", total_done, self._evaluations, trial, best, goal.name, quality, name
            )
        already_done = {trial.architecture for trial in done}  # proposed for another goal before
        done += [finished[candidate] for candidate in proposals if candidate not in already_done]


class _GoalState:
    """How far one goal has come: its sampler, its rounds, its best."""

    def __init__(self, goal: Goal, sampler: Sampler, patience: int | None) -> None:
        self.goal = goal
        self.finished = False
        self.rounds = 0
        self.best_kl = math.inf
        self._proposed: set[Architecture] = set()
        self._sampler = sampler
        self._patience = patience
        self._rounds_without_gain = 0

    def propose(self, done: Sequence[EvaluatedArchitecture], evaluations_left: int, from_all: bool) -> Round:
        """Its next round; it is finished when there is none."""
        usable = [trial for trial in done if from_all or trial.architecture in self._proposed]
        self.rounds += 1
        count = min(self._sampler.round_size, evaluations_left)
        proposed = self._sampler.propose(usable, self.rounds, count)
        self.finished = not proposed.proposals
        self._proposed |= {proposal.architecture for proposal in proposed.proposals}
        return proposed

    def update(self, done: Sequence[EvaluatedArchitecture]) -> None:
        """Look whether the last round brought anything."""
        best = _best(self.goal.budget, done)
        gained = best is not None and best.measurement.kl < self.best_kl * (1 - MIN_IMPROVEMENT)
        self._rounds_without_gain = 0 if gained else self._rounds_without_gain + 1
        if gained and best is not None:
            self.best_kl = best.measurement.kl
        self.finished |= self._patience is not None and self._rounds_without_gain >= self._patience


def _round_attrs(number: int, goal_state: _GoalState, proposed: Round, seconds: float) -> dict[str, Any]:
    """What a study says of a round."""
    selected = proposed.selected_predictor
    return {
        "number": number,
        "goal": goal_state.goal.name,
        "predictor": selected.name if selected else None,
        "quality": selected.quality_to_json() if selected else {},
        "space_share": proposed.space_share,
        "proposals": len(proposed.proposals),
        "seconds": seconds,
        "report": proposed.report.to_json() if proposed.report else None,
        "best_kl": goal_state.best_kl if math.isfinite(goal_state.best_kl) else None,
    }


def _best(budget: Budget, trials: Iterable[EvaluatedArchitecture]) -> EvaluatedArchitecture | None:
    return next(iter(best_first(trial for trial in trials if budget.fits(trial.architecture))), None)
