"""Even trims: the shapes people cut by hand, without measuring anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from secateur.model.architecture import Architecture
from secateur.search.samplers.sampler import (
    ROUND_SIZE,
    Problem,
    Proposal,
    Round,
    architectures,
    new_proposals,
    project,
    uniform_values,
)
from secateur.space.knapsack import spend_slack
from secateur.study.trial import EvaluatedArchitecture

PROTECTED_ENDS = ((0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (6, 2), (8, 2))  # layers kept whole at either end


class UniformPruningSampler:
    """The same fraction everywhere, of FFNs only or of attention too, with and without protected ends."""

    round_size = ROUND_SIZE

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def propose(self, done: Sequence[EvaluatedArchitecture], number: int, count: int) -> Round:
        """All shapes there are, simplest first."""
        return Round(new_proposals(uniform_prunings(self._problem), architectures(done))[:count])


def uniform_prunings(problem: Problem) -> Iterator[Proposal]:
    """The shapes that the budget allows."""
    layers = problem.space.dense.num_layers
    for first, last in PROTECTED_ENDS:
        for kinds in (("ffn",), ("attention", "ffn")):
            inside = range(first, layers - last)
            candidate = prune_uniformly(problem, inside, kinds)
            if candidate is not None:
                ends = f", {first}+{last} protected" if first else ""
                yield Proposal(candidate, f"even trim of {' and '.join(kinds)}{ends}")


def prune_uniformly(problem: Problem, inside: range, kinds: tuple[str, ...]) -> Architecture | None:
    """Sub-blocks inside start level, the others so far above that the shift that fits leaves them whole."""
    space, budget = problem.space, problem.budget
    fractions = [0.0 if slot[0] in inside and slot[1] in kinds else 2.0 for slot in space.slots]
    candidate = project(space, budget, fractions)
    if not budget.fits(candidate):
        return None
    # A width step everywhere at once is a coarse one.
    return problem.conform(spend_slack(space, budget, uniform_values(space), candidate))
