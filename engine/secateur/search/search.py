"""The search loop: single cuts if the sampler wants a table, then rounds of proposals.

Deterministic for a seed, and resumable at any point: a round's proposals depend only on the pairs of
earlier rounds, so a search that was killed proposes the same round again and skips what it finds in
the study.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from secateur.calibrate.library import BlockLibrary
from secateur.search.architecture import Architecture
from secateur.search.budget import Budget
from secateur.search.measurement import Evaluator
from secateur.search.predictor import AUTO, Choice, RankQuality
from secateur.search.samplers.registry import GUIDED, SAMPLERS, needs_table
from secateur.search.samplers.sampler import Problem, Proposal, best_first
from secateur.search.space import Space
from secateur.search.study import Pair, Study
from secateur.search.table import AdditiveTable, build_table, single_cuts


@dataclass(frozen=True)
class Progress:
    """One step of the search.

    Attributes:
        stage: ``table`` or ``search``.
        done, total: evaluations of this stage.
        pair: what was just evaluated.
        best: the best pair that fits the budget, once there is one.
        quality: how the predictor of this round ranks held-out pairs.
        predictor: the regressor it is made of.
    """

    stage: str
    done: int
    total: int
    pair: Pair
    best: Pair | None
    quality: RankQuality | None = None
    predictor: str | None = None


class Search:
    """One search over a space, towards a budget.

    Args:
        evaluations: how many proposals are evaluated (single cuts come on top).
        seed: of everything random.
        sampler: one of `registry.SAMPLERS`.
        predictor: a regressor, or `predictor.AUTO` for the one that ranks held-out pairs best.

    Attributes:
        choice: the predictor of the last round, and how its rivals did; None without one.
        table: the additive table; None before it is built, or where the sampler needs none.
    """

    def __init__(
        self,
        space: Space,
        budget: Budget,
        library: BlockLibrary,
        evaluator: Evaluator,
        study: Study,
        *,
        evaluations: int,
        seed: int,
        sampler: str = GUIDED,
        predictor: str = AUTO,
    ) -> None:
        self._space = space
        self._budget = budget
        self._library = library
        self._evaluator = evaluator
        self._study = study
        self._evaluations = evaluations
        self._seed = seed
        self._sampler = sampler
        self._predictor = predictor
        self.table: AdditiveTable | None = None
        self.choice: Choice | None = None

    def run(self) -> Iterator[Progress]:
        """Evaluate until the evaluations are spent or nothing is proposed; yields after every evaluation."""
        if needs_table(self._sampler):
            yield from self._fill_table()
        sampler = SAMPLERS[self._sampler](self._problem)
        done: list[Pair] = []
        for number in count(1):
            wanted = min(sampler.round_size, self._evaluations - len(done))
            found = sampler.propose(done, number, wanted) if wanted else None
            if found is None or not found.proposals:
                return
            self.choice = found.choice or self.choice
            yield from self._evaluate(found.proposals, number, done)

    @property
    def _problem(self) -> Problem:
        return Problem(self._space, self._budget, self.table, self._evaluations, self._seed, self._predictor)

    def ranked(self) -> list[Pair]:
        """Pairs that fit the budget, single cuts included, best first."""
        pairs = self._study.pairs.values()
        return best_first(pair for pair in pairs if self._budget.admits(pair.architecture))

    def _fill_table(self) -> Iterator[Progress]:
        cuts = single_cuts(self._space)
        pairs = self._study.pairs
        missing = [cut for cut in cuts if cut not in pairs]
        done = len(cuts) - len(missing)
        for architecture, measurement in self._evaluator.evaluate(missing):
            pair = Pair(architecture, measurement, 0, "single cut")
            self._study.add(pair)
            done += 1
            yield Progress("table", done, len(cuts), pair, None)
        measured = {cut: pairs[cut].measurement.kl for cut in cuts}
        self.table = build_table(self._space, self._library, measured)

    def _evaluate(self, proposals: Sequence[Proposal], number: int, done: list[Pair]) -> Iterator[Progress]:
        """Evaluate one round; `done` grows by its pairs, in the same order with and without interruptions."""
        origin = {proposal.architecture: proposal.origin for proposal in proposals}
        pairs = self._study.pairs
        known = [pairs[item] for item in origin if item in pairs]
        finished: dict[Architecture, Pair] = {pair.architecture: pair for pair in known}
        missing = [item for item in origin if item not in pairs]
        best = self._best([*done, *known])
        for new, (architecture, measurement) in enumerate(self._evaluator.evaluate(missing), start=1):
            pair = Pair(architecture, measurement, number, origin[architecture])
            self._study.add(pair)
            finished[architecture] = pair
            best = self._best([pair, *([best] if best else [])])
            total_done = len(done) + len(known) + new
            name = self.choice.predictor.name if self.choice else None
            quality = self.choice.best if self.choice else None
            yield Progress("search", total_done, self._evaluations, pair, best, quality, name)
        done += [finished[item] for item in origin]

    def _best(self, pairs: Sequence[Pair]) -> Pair | None:
        fitting = best_first(pair for pair in pairs if self._budget.admits(pair.architecture))
        return fitting[0] if fitting else None
