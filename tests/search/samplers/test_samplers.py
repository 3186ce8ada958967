"""Every sampler by name keeps its promises, fed with random losses over random budgets.

Proven (property): proposals lie in the space and are new, fit the budget (of greedy and paper the
last one does), are no more than asked for, obey every constraint and limit, and come again exactly when
the search is played again from its trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secateur.evaluation.measurement import Measurement
from secateur.model.architecture import Architecture
from secateur.search.samplers import guided as guided_module
from secateur.search.samplers import paper as paper_module
from secateur.search.samplers.registry import SAMPLERS
from secateur.search.samplers.sampler import Problem, Round
from secateur.search.table import AdditiveTable
from secateur.space.budget import Budget, Limit
from secateur.space.costs.cost import Cost
from secateur.space.space import Space
from secateur.study.trial import EvaluatedArchitecture

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
        slot: {w: (1 + index) * (1 - w / SPACE.dense.width(*slot)) ** 1.5 for w in SPACE.widths(*slot)}
        for index, slot in enumerate(SPACE.slots)
    }
)
EVALUATIONS = 30


@pytest.fixture(autouse=True)
def few_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided_module, "CHILDREN", 50)
    monkeypatch.setattr(paper_module, "CANDIDATES", 300)


def problem(keep: float, seed: int) -> Problem:
    limit = Budget((Limit("params", COST, int(keep * COST.of(SPACE.dense))),))
    return Problem(SPACE, limit, TABLE, EVALUATIONS, seed, predictor="ridge")


def truth(candidate: Architecture) -> float:
    """The table with an interaction that it does not know."""
    return TABLE.of(candidate) * (1.2 if candidate.groups[1] < candidate.groups[2] else 1.0) + 1e-3


def play(
    name: str, given_problem: Problem, loss: Callable[[Architecture], float] = truth
) -> Iterator[tuple[Round, list[EvaluatedArchitecture]]]:
    """Rounds with all trials so far, until the evaluations are spent or nothing is proposed."""
    sampler = SAMPLERS[name](given_problem)
    done: list[EvaluatedArchitecture] = []
    for number in range(1, given_problem.evaluations + 1):
        wanted = min(sampler.round_size, given_problem.evaluations - len(done))
        if not wanted:
            return
        found = sampler.propose(tuple(done), number, wanted)
        assert len(found.proposals) <= wanted
        if not found.proposals:
            return
        for item in found.proposals:
            kl = loss(item.architecture)
            done.append(
                EvaluatedArchitecture(
                    item.architecture, Measurement(kl, 0.0, kl, 0.0, 1), number, item.origin
                )
            )
        yield found, list(done)


# Its Gaussian process takes longer than all the others together.
SLOW_ONE = pytest.param("gp", marks=pytest.mark.slow)
EVERY = [SLOW_ONE if name == "gp" else name for name in SAMPLERS]


@pytest.mark.parametrize("name", EVERY)
class TestEvery:
    @settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(keep=st.floats(0.1, 0.95), seed=st.integers(0, 2**16))
    def test_in_the_space_new_and_within_the_budget(self, name: str, keep: float, seed: int) -> None:
        asked = problem(keep, seed)
        last = list(play(name, asked))[-1][1]
        shapes = [trial.architecture for trial in last]
        assert len(set(shapes)) == len(shapes)
        assert all(SPACE.contains(shape) for shape in shapes)
        if name in ("greedy", "paper"):
            assert asked.budget.fits(shapes[-1]) or len(shapes) == EVALUATIONS
        else:
            assert all(asked.budget.fits(shape) for shape in shapes)

    def test_played_again_it_is_the_same(self, name: str) -> None:
        first = [found.proposals for found, _ in play(name, problem(0.6, 3))]
        again = [found.proposals for found, _ in play(name, problem(0.6, 3))]
        assert first == again

    def test_says_where_proposals_come_from(self, name: str) -> None:
        assert all(item.origin for found, _ in play(name, problem(0.6, 0)) for item in found.proposals)


def cost_over(space: Space, attention: int, ffn: int) -> Cost:
    each = {"attention": attention, "ffn": ffn}
    return Cost(
        "units", 7, {slot: {w: w * each[slot[1]] for w in space.widths(*slot)} for slot in space.slots}
    )


@st.composite
def constrained(draw: st.DrawFn) -> Problem:
    """Ranks, whole layers, few shapes, one or two limits, in any combination that something fits."""
    tp = draw(st.sampled_from([1, 1, 2]))
    protected = draw(st.frozensets(st.integers(0, 3), max_size=1))
    dense = Architecture((4,) * 4, (160,) * 4)
    space = Space(dense, 16, tp, 1, protected, draw(st.sampled_from([None, 1, 2, 3])))
    limits = []
    for kind, cost in (("params", cost_over(space, 40, 3)), ("kv", cost_over(space, 7, 0))):
        least = max(cost.of(item) for item in space.narrowest)
        span = cost.of(dense) - least
        limits.append(Limit(kind, cost, least + int(draw(st.floats(0.1, 0.95)) * span)))
    kept = draw(st.sampled_from([limits, limits[:1], limits[1:]]))
    table = AdditiveTable(
        {
            slot: {w: (1 + n) * (1 - w / dense.width(*slot)) ** 1.5 for w in space.widths(*slot)}
            for n, slot in enumerate(space.slots)
        }
    )
    return Problem(space, Budget(tuple(kept)), table, 16, draw(st.integers(0, 99)), predictor="ridge")


@pytest.mark.parametrize("name", [name for name in EVERY if name != "paper"])  # its space is its own
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked=constrained())
def test_constraints_and_all_limits_hold(name: str, asked: Problem) -> None:
    rounds = list(play(name, asked, lambda item: asked.table.of(item) + 1e-3))
    assert rounds or name in ("even", "greedy")
    for trial in rounds[-1][1] if rounds else ():
        assert asked.space.contains(trial.architecture), trial
        assert name == "greedy" or asked.budget.fits(trial.architecture), trial


@pytest.mark.parametrize("name", ["guided", "random", "tpe", "nsga2", SLOW_ONE, "paper"])
def test_another_seed_is_another_search(name: str) -> None:
    first, second = (list(play(name, problem(0.6, seed)))[-1][1] for seed in (0, 1))
    assert {trial.architecture for trial in first} != {trial.architecture for trial in second}


@pytest.mark.parametrize("name", ["guided", "random", "tpe", "nsga2", SLOW_ONE, "paper"])
def test_all_evaluations_are_used(name: str) -> None:
    assert len(list(play(name, problem(0.6, 0)))[-1][1]) == EVALUATIONS


def test_knapsack_starts_with_the_table_as_it_is() -> None:
    first, _ = next(play("knapsack", problem(0.6, 0)))
    assert first.proposals[0].origin == "knapsack^1"


def test_greedy_follows_the_least_loss() -> None:
    """Every round removes from what the best of the round before left."""
    rounds = list(play("greedy", problem(0.6, 0)))
    for (_, before), (found, _) in pairwise(rounds):
        number = before[-1].round
        base = min((p for p in before if p.round == number), key=lambda p: p.measurement.kl).architecture
        for item in found.proposals:
            changed = [a for a, b in zip(base.path, item.architecture.path, strict=True) if a != b]
            assert len(changed) == 1


def test_even_trims_are_even() -> None:
    first, _ = next(play("even", problem(0.6, 0)))
    channels = first.proposals[0].architecture.channels
    assert max(channels) - min(channels) <= SPACE.quantum
    assert first.proposals[0].architecture.groups == SPACE.dense.groups
