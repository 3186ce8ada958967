"""Samplers by name. The command line, which imports none of them, has the names from `config.prune`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from secateur.config.prune import GUIDED, PAPER
from secateur.search.samplers.even import UniformPruningSampler
from secateur.search.samplers.greedy import GreedySampler
from secateur.search.samplers.guided import GuidedSampler
from secateur.search.samplers.knapsack import KnapsackSampler
from secateur.search.samplers.optuna_samplers import OPTIMISERS, BlackboxSampler
from secateur.search.samplers.paper import PaperSampler
from secateur.search.samplers.random_search import RandomSampler
from secateur.search.samplers.sampler import Problem, Sampler

SAMPLERS: dict[str, Callable[[Problem], Sampler]] = {
    GUIDED: GuidedSampler,
    "random": RandomSampler,
    **{name: partial(BlackboxSampler, name=name) for name in OPTIMISERS},
    "knapsack": KnapsackSampler,
    "greedy": GreedySampler,
    "even": UniformPruningSampler,
    PAPER: PaperSampler,
}
_WITH_TABLE = (GUIDED, "knapsack", "greedy")


def needs_table(name: str) -> bool:
    """Whether the sampler asks for the additive table."""
    return name in _WITH_TABLE


def learns_from_all(name: str) -> bool:
    """Whether the sampler makes use of trials that were proposed for other budgets."""
    return name == GUIDED
