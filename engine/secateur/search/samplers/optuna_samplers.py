"""Optuna's samplers: general optimisers that know nothing of models, as rivals.

Each searches the cube of kept fractions; a point is worth the KL of the architecture on the budget
that `sampler.project` finds for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import optuna
from optuna.samplers import BaseSampler
from optuna.study import Study as OptunaStudy
from optuna.trial import Trial

from secateur.model.architecture import Architecture
from secateur.search.samplers.sampler import Problem, Proposal, Round, project
from secateur.study.trial import EvaluatedArchitecture

_TRIES = 50  # per round, where points fall on architectures already seen
POPULATION = 24  # NSGA-II: Optuna's 50 would leave a search of 150 evaluations three generations


OPTIMISERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=24),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=24),
}


class BlackboxSampler:
    """One of Optuna's samplers, asked for one architecture at a time.

    Args:
        name: one of `OPTIMISERS`.
    """

    round_size = 1

    def __init__(self, problem: Problem, name: str) -> None:
        self._problem = problem
        self._name = name
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study: OptunaStudy = optuna.create_study(sampler=OPTIMISERS[name](problem.seed))
        self._asked: list[tuple[Trial, Architecture]] = []

    def propose(self, done: Sequence[EvaluatedArchitecture], number: int, count: int) -> Round:
        """Tell what came of the last round, ask for the next; points seen before are told at once."""
        kl = {evaluated.architecture: evaluated.measurement.kl for evaluated in done}
        for trial, candidate in self._asked:
            self._study.tell(trial, kl[candidate])
        self._asked = []
        for _ in range(_TRIES):
            trial = self._study.ask()
            candidate = self._architecture(trial)
            if candidate in kl:
                self._study.tell(trial, kl[candidate])
                continue
            self._asked.append((trial, candidate))
            if len(self._asked) == count:
                break
        return Round([Proposal(candidate, self._name) for _, candidate in self._asked])

    def _architecture(self, trial: Trial) -> Architecture:
        space = self._problem.space
        fractions = [trial.suggest_float(f"{layer}.{kind}", 0.0, 1.0) for layer, kind in space.slots]
        return self._problem.conform(project(space, self._problem.budget, fractions))
