"""The guided sampler: whatever it is fed, its proposals fit, lie in the space, are new, and repeat.

Proven over random budgets, parents and seeds (property).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.model.architecture import Architecture
from secateur.search.predictor import Features, Prediction, Predictor
from secateur.search.samplers import guided as guided_module
from secateur.search.samplers.guided import MIN_DISTANCE, GuidedSampler
from secateur.search.samplers.random_search import random_architecture
from secateur.search.samplers.sampler import Problem, Proposal
from secateur.search.table import AdditiveTable
from secateur.space.budget import Budget, Limit
from secateur.space.costs.cost import Cost
from secateur.space.space import Space

SPACE = Space(Architecture((3,) * 4, (160,) * 4), 32)
COST = Cost(
    "units",
    7,
    {
        slot: {width: width * (40 if slot[1] == "attention" else 3) for width in SPACE.widths(*slot)}
        for slot in SPACE.slots
    },
)
TABLE = AdditiveTable(
    {
        slot: {
            width: (1 + index) * (1 - width / SPACE.dense.width(*slot)) ** 1.5
            for width in SPACE.widths(*slot)
        }
        for index, slot in enumerate(SPACE.slots)
    }
)


@pytest.fixture(autouse=True)
def few_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided_module, "CHILDREN", 80)


def budget(keep: float) -> Budget:
    return Budget((Limit("params", COST, int(keep * COST.of(SPACE.dense))),))


def made(limit: Budget) -> GuidedSampler:
    return GuidedSampler(Problem(SPACE, limit, TABLE, 150, 0))


class Prior:
    """Predicts by the additive table; the uncertainty is made up."""

    def fit(self, candidates: Sequence[Architecture], kl: Sequence[float]) -> None: ...

    def predict(self, candidates: Sequence[Architecture]) -> Prediction:
        mean = np.log([TABLE.of(candidate) + 1e-9 for candidate in candidates])
        return Prediction(mean, np.array([candidate.groups[0] / 9 for candidate in candidates]))


def fitting(limit: Budget, count: int, seed: int) -> list[Architecture]:
    """Random architectures within the budget, as the trials so far."""
    rng = np.random.default_rng(seed)
    return list({random_architecture(SPACE, limit, rng): None for _ in range(count)})


def check(proposals: Sequence[Proposal], limit: Budget, known: Sequence[Architecture]) -> None:
    shapes = [proposal.architecture for proposal in proposals]
    assert all(SPACE.contains(shape) and limit.fits(shape) for shape in shapes)
    assert len(set(shapes)) == len(shapes)
    assert not set(shapes) & set(known)


class TestSeeds:
    @settings(max_examples=40, deadline=None)
    @given(keep=st.floats(0.05, 1.0))
    def test_fit_the_budget(self, keep: float) -> None:
        limit = budget(keep)
        proposals = made(limit).seeds()
        assert proposals
        check(proposals, limit, [])

    def test_spend_the_budget(self) -> None:
        limit = budget(0.7)
        for proposal in made(limit).seeds():
            assert COST.of(proposal.architecture) > 0.95 * limit.limits[0].max_value, proposal.origin

    def test_of_several_kinds(self) -> None:
        proposals = made(budget(0.7)).seeds()
        assert proposals[0].origin == "knapsack^1.0"
        assert any(SPACE.dense.groups == proposal.architecture.groups for proposal in proposals)

    def test_the_whole_budget_is_the_dense_model(self) -> None:
        proposals = made(budget(1.0)).seeds()
        assert [proposal.architecture for proposal in proposals] == [SPACE.dense]


class TestRounds:
    @settings(max_examples=25, deadline=None)
    @given(
        keep=st.floats(0.1, 0.95),
        trials=st.integers(1, 30),
        seed=st.integers(0, 2**16),
        count=st.integers(1, 16),
    )
    def test_within_the_budget_new_and_not_too_many(
        self, keep: float, trials: int, seed: int, count: int
    ) -> None:
        limit = budget(keep)
        known = fitting(limit, trials, seed)
        proposals = made(limit).children(known, Prior(), np.random.default_rng(seed), count)
        assert len(proposals) <= count
        check(proposals, limit, known)

    def test_full_rounds(self) -> None:
        limit = budget(0.6)
        known = fitting(limit, 10, 0)
        proposals = made(limit).children(known, Prior(), np.random.default_rng(0), 12)
        assert len(proposals) == 12
        assert {proposal.origin for proposal in proposals} == {"promising", "uncertain"}

    def test_promising_ones_are_the_best_predicted(self) -> None:
        limit = budget(0.6)
        known = fitting(limit, 10, 0)
        proposals = made(limit).children(known, Prior(), np.random.default_rng(0), 12)
        promising = [TABLE.of(p.architecture) for p in proposals if p.origin == "promising"]
        assert promising == sorted(promising)
        assert promising[0] < min(TABLE.of(shape) for shape in known)
        for proposal in proposals:
            assert proposal.predicted == pytest.approx(np.log(TABLE.of(proposal.architecture) + 1e-9))

    def test_those_of_a_round_are_apart(self) -> None:
        limit = budget(0.6)
        proposals = made(limit).children(fitting(limit, 10, 0), Prior(), np.random.default_rng(0), 6)
        paths = [np.array(proposal.architecture.path) for proposal in proposals]
        for index, path in enumerate(paths):
            assert all(np.count_nonzero(path != other) >= MIN_DISTANCE for other in paths[:index])

    def test_parents_of_other_budgets_are_fitted(self) -> None:
        """Too wide ones are trimmed, too narrow ones widened."""
        limit = budget(0.6)
        others = [*fitting(budget(0.9), 5, 0), *fitting(budget(0.3), 5, 1)]
        parents = made(limit)._parents(others)
        assert len(parents) > 1
        assert all(
            0.85 * limit.limits[0].max_value < COST.of(item) <= limit.limits[0].max_value for item in parents
        )

    def test_same_seed_same_proposals(self) -> None:
        limit = budget(0.6)
        known = fitting(limit, 12, 0)
        predictor = Predictor(Features(SPACE, TABLE), 3)
        predictor.fit(known, [TABLE.of(shape) for shape in known])
        rounds = [
            made(limit).children(known, predictor, np.random.default_rng((seed, 2)), 12) for seed in (5, 5, 6)
        ]
        assert rounds[0] == rounds[1] != rounds[2]

    def test_nothing_new_left(self) -> None:
        """A space of two architectures, both known."""
        space = Space(Architecture((1,), (8,)), 8)
        cost = Cost("units", 0, {slot: {w: w for w in space.widths(*slot)} for slot in space.slots})
        table = AdditiveTable({slot: {w: 8.0 - w for w in space.widths(*slot)} for slot in space.slots})
        sampler = GuidedSampler(Problem(space, Budget((Limit("params", cost, 9),)), table, 12, 0))
        known = [Architecture((1,), (0,)), Architecture((1,), (8,))]
        assert sampler.children(known, Prior(), np.random.default_rng(0), 12) == []
