"""The search loop: evaluate single cuts, then rounds of proposals, until the evaluations are spent.

Deterministic for a seed, and resumable at any point: a round's proposals depend only on the pairs of
earlier rounds, so a search that was killed proposes the same round again and skips what it finds in
the study.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from secateur.calibrate.library import BlockLibrary
from secateur.search.architecture import Architecture
from secateur.search.budget import Budget
from secateur.search.features import Features
from secateur.search.measurement import Evaluator
from secateur.search.predictor import AUTO, Choice, RankQuality, choose
from secateur.search.sampler import Proposal, Sampler
from secateur.search.space import Space
from secateur.search.study import Pair, Study
from secateur.search.table import AdditiveTable, build_table, single_cuts

ROUND_SIZE = 12


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
        evaluations: how many architectures that fit the budget are evaluated (single cuts come on top).
        seed: of everything random.
        predictor: a regressor, or `predictor.AUTO` for the one that ranks held-out pairs best.

    Attributes:
        choice: the predictor of the last round, and how its rivals did.
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
        predictor: str = AUTO,
    ) -> None:
        self._space = space
        self._budget = budget
        self._library = library
        self._evaluator = evaluator
        self._study = study
        self._evaluations = evaluations
        self._seed = seed
        self.table: AdditiveTable | None = None
        self._predictor = predictor
        self.choice: Choice | None = None

    def run(self) -> Iterator[Progress]:
        """Evaluate until the evaluations are spent; yields after every evaluation."""
        yield from self._fill_table()
        sampler = Sampler(self._space, self._budget, self.table_built)
        features = Features(self._space, self.table_built)
        done: list[Pair] = []
        for number in range(1, self._evaluations + 1):
            wanted = min(ROUND_SIZE, self._evaluations - len(done))
            proposals = (
                sampler.seeds() if number == 1 else self._proposals(sampler, features, done, number, wanted)
            )
            proposals = proposals[:wanted]
            if not proposals:
                return
            yield from self._evaluate(proposals, number, done)
            if len(done) >= self._evaluations:
                return

    @property
    def table_built(self) -> AdditiveTable:
        """The additive table; there once the single cuts are evaluated."""
        assert self.table is not None
        return self.table

    def ranked(self) -> list[Pair]:
        """Pairs that fit the budget, single cuts included, best first."""
        pairs = self._study.pairs.values()
        return _ranked([pair for pair in pairs if self._budget.admits(pair.architecture)])

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

    def _proposals(
        self, sampler: Sampler, features: Features, done: list[Pair], number: int, count: int
    ) -> list[Proposal]:
        ranked = _ranked(done)
        candidates = [pair.architecture for pair in ranked]
        kl = [pair.measurement.kl for pair in ranked]
        self.choice = choose(features, candidates, kl, self._seed, self._predictor)
        rng = np.random.default_rng((self._seed, number))
        return sampler.propose(candidates, self.choice.predictor, rng, count)

    def _evaluate(self, proposals: list[Proposal], number: int, done: list[Pair]) -> Iterator[Progress]:
        """Evaluate one round; `done` grows by its pairs, in the same order with and without interruptions."""
        origin = {proposal.architecture: proposal.origin for proposal in proposals}
        pairs = self._study.pairs
        known = [pairs[item] for item in origin if item in pairs]
        finished: dict[Architecture, Pair] = {pair.architecture: pair for pair in known}
        missing = [item for item in origin if item not in pairs]
        best = _best([*done, *known])
        for count, (architecture, measurement) in enumerate(self._evaluator.evaluate(missing), start=1):
            pair = Pair(architecture, measurement, number, origin[architecture])
            self._study.add(pair)
            finished[architecture] = pair
            best = _best([pair, *([best] if best else [])])
            total_done = len(done) + len(known) + count
            name = self.choice.predictor.name if self.choice else None
            quality = self.choice.best if self.choice else None
            yield Progress("search", total_done, self._evaluations, pair, best, quality, name)
        done += [finished[item] for item in origin]


def _ranked(pairs: list[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: (pair.measurement.kl, pair.architecture))


def _best(pairs: list[Pair]) -> Pair | None:
    ranked = _ranked(pairs)
    return ranked[0] if ranked else None
