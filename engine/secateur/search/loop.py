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
from secateur.model.architecture import Architecture
from secateur.search.predictor import AUTO, Choice, RankQuality
from secateur.search.samplers.registry import GUIDED, SAMPLERS, learns_from_all, needs_table
from secateur.search.samplers.sampler import Problem, Proposal, Round, Sampler, best_first
from secateur.search.table import AdditiveTable, build_table, single_cuts
from secateur.space.budget import Budget
from secateur.space.goal import Goal
from secateur.space.space import Space, slot_name
from secateur.study.cooperation import evaluate_together
from secateur.study.study import Pair, Study

PATIENCE = 4  # rounds of a goal
GAIN = 0.005  # of the best KL: what counts as progress


@dataclass(frozen=True)
class Progress:
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
    pair: Pair
    best: Pair | None
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
        predictor: a regressor, or `predictor.AUTO` for the one that ranks held-out pairs best.
        patience: a goal is given up after so many of its rounds without a gain of `GAIN` in its best
            KL, and the search ends when all are; None goes on until the evaluations are spent.

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
        predictor: str = AUTO,
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
        self.choice: Choice | None = None

    def run(self) -> Iterator[Progress]:
        """Evaluate until the evaluations are spent, or no goal has anything left to propose."""
        if needs_table(self._sampler):
            yield from self._fill_table()
        self._study.note("goals", [goal.to_json() for goal in self._goals])
        courses = [
            _Course(goal, SAMPLERS[self._sampler](self._problem(goal)), self._patience)
            for goal in self._goals
        ]
        done: list[Pair] = []
        earlier = {note["number"]: note["seconds"] for note in self._study.noted("rounds") or ()}
        rounds: list[dict[str, Any]] = []
        for number in count(1):
            courses = [course for course in courses if not course.over]
            if not courses or len(done) >= self._evaluations:
                return
            course = courses.pop(0)
            courses.append(course)
            found = course.propose(done, self._evaluations - len(done), learns_from_all(self._sampler))
            self.choice = found.choice or self.choice
            started = time.perf_counter()
            yield from self._evaluate(found, number, course.goal, done)
            course.judge(done)
            # A round that is gone through again after an interruption takes no time.
            seconds = max(round(time.perf_counter() - started, 2), earlier.get(number, 0.0))
            rounds.append(_note_of(number, course, found, seconds))
            self._study.note("rounds", rounds)

    def ranked(self, goal: Goal) -> list[Pair]:
        """Pairs of the space that fit a budget, single cuts included, best first."""
        pairs = self._study.pairs.values()
        contained = (pair for pair in pairs if self._space.contains(pair.architecture))
        return best_first(pair for pair in contained if goal.budget.admits(pair.architecture))

    def _problem(self, goal: Goal) -> Problem:
        budget = goal.budget
        return Problem(self._space, budget, self.table, self._evaluations, self._seed, self._predictor)

    def _fill_table(self) -> Iterator[Progress]:
        cuts = single_cuts(self._space)
        pairs = self._study.pairs
        missing = [cut for cut in cuts if cut not in pairs]
        done = len(cuts) - len(missing)
        recorded = evaluate_together(
            self._study, self._evaluator, missing, lambda cut, found: Pair(cut, found, 0, "single cut")
        )
        for pair in recorded:
            done += 1
            yield Progress("table", done, len(cuts), pair, None)
        measured = {cut: pairs[cut].measurement.kl for cut in cuts}
        self.table = build_table(self._space, self._library, measured)
        rows = self.table.kl.items()
        self._study.note(
            "table", {slot_name(*slot): {str(w): kl for w, kl in row.items()} for slot, row in rows}
        )

    def _evaluate(self, found: Round, number: int, goal: Goal, done: list[Pair]) -> Iterator[Progress]:
        """Evaluate one round; `done` grows by its pairs, in the same order with and without interruptions."""
        wanted: dict[Architecture, Proposal] = {item.architecture: item for item in found.proposals}
        pairs = self._study.pairs
        known = [pairs[item] for item in wanted if item in pairs]
        finished: dict[Architecture, Pair] = {pair.architecture: pair for pair in known}
        missing = [item for item in wanted if item not in pairs]
        best = _best(goal.budget, [*done, *known])

        def pair_of(item: Architecture, measurement: Measurement) -> Pair:
            return Pair(item, measurement, number, wanted[item].origin, wanted[item].predicted)

        recorded = evaluate_together(self._study, self._evaluator, missing, pair_of)
        for new, pair in enumerate(recorded, start=1):
            finished[pair.architecture] = pair
            best = _best(goal.budget, [pair, *([best] if best else [])])
            total_done = len(done) + len(known) + new
            name = found.choice.predictor.name if found.choice else None
            quality = found.choice.best if found.choice else None
            yield Progress("search", total_done, self._evaluations, pair, best, goal.name, quality, name)
        there = {pair.architecture for pair in done}  # proposed for another goal before
        done += [finished[item] for item in wanted if item not in there]


class _Course:
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

    def propose(self, done: Sequence[Pair], left: int, from_all: bool) -> Round:
        """Its next round; over when there is none."""
        known = list(done) if from_all else [pair for pair in done if pair.architecture in self._own]
        self.rounds += 1
        found = self._sampler.propose(known, self.rounds, min(self._sampler.round_size, left))
        self.over = not found.proposals
        self._own |= {item.architecture for item in found.proposals}
        return found

    def judge(self, done: Sequence[Pair]) -> None:
        """Look whether the last round brought anything."""
        best = _best(self.goal.budget, done)
        gained = best is not None and best.measurement.kl < self.best_kl * (1 - GAIN)
        self._idle = 0 if gained else self._idle + 1
        if gained and best is not None:
            self.best_kl = best.measurement.kl
        self.over |= self._patience is not None and self._idle >= self._patience


def _note_of(number: int, course: _Course, found: Round, seconds: float) -> dict[str, Any]:
    """What a study says of a round."""
    quality = found.choice.quality if found.choice else {}
    return {
        "number": number,
        "goal": course.goal.name,
        "predictor": found.choice.predictor.name if found.choice else None,
        "quality": {name: {"tau": q.tau, "top_10_recall": q.recall} for name, q in quality.items()},
        "space_share": found.space_share,
        "proposals": len(found.proposals),
        "seconds": seconds,
        "report": found.report.to_json() if found.report else None,
        "best_kl": course.best_kl if math.isfinite(course.best_kl) else None,
    }


def _best(budget: Budget, pairs: Sequence[Pair]) -> Pair | None:
    fitting = best_first(pair for pair in pairs if budget.admits(pair.architecture))
    return fitting[0] if fitting else None
