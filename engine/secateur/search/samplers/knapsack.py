"""Additive knapsack: the architecture of least summed table entries, at many sharpness values.

Puzzle (arXiv 2411.19146) solves one such problem over block scores; sweeping the exponent of the
scores gives it as many answers as there are evaluations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from secateur.search.samplers.sampler import (
    ROUND_SIZE,
    Problem,
    Proposal,
    Round,
    architectures,
    new_proposals,
)
from secateur.space.knapsack import solve
from secateur.study.trial import EvaluatedArchitecture

_STEPS = 8  # distinct exponents tried per architecture wanted, as many give the same


class KnapsackSampler:
    """Exponents around 1, nearest first."""

    round_size = ROUND_SIZE

    def __init__(self, problem: Problem) -> None:
        assert problem.table is not None
        self._problem, self._table = problem, problem.table
        self._untried = _sharpness(_STEPS * problem.evaluations)

    def propose(self, done: Sequence[EvaluatedArchitecture], number: int, count: int) -> Round:
        """The next exponents' optima."""
        evaluated, proposals = architectures(done), list[Proposal]()
        for power in self._untried:
            values = self._table.sharpened(power)
            candidate = self._problem.conform(solve(self._problem.space, self._problem.budget, values))
            proposals = new_proposals([*proposals, Proposal(candidate, f"knapsack^{power:.3g}")], evaluated)
            if len(proposals) >= count:
                break
        return Round(proposals)


def _sharpness(count: int) -> Iterator[float]:
    """1, then ever further from it on both sides, up to 4 and down to 1/4."""
    yield 1.0
    for step in range(1, count // 2 + 1):
        power = 4.0 ** (2 * step / count)
        yield power
        yield 1 / power
