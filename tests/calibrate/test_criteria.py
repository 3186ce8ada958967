"""Ranking criteria: orders of units that put what can be spared last.

Proven: every criterion returns a permutation (property); dead channels come last; OBS cost is the
error that re-fitting leaves (brute force); greedy elimination is the naive greedy algorithm step by
step, and does not throw away both of a pair of duplicates.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.calibrate.criteria import CRITERIA, SubBlockStats, obs, obs_greedy
from secateur.calibrate.least_squares import damped, factorise
from secateur.errors import BadInput
from secateur.model.decoder import AttentionWeights, FfnWeights
from secateur.model.units import expand_units

HIDDEN = 6
SHRINKAGE = 0.01
every_criterion = pytest.mark.parametrize("name", CRITERIA)


def random_stats(seed: int, units: int, span: int = 1, *, gram_NN: Tensor | None = None) -> SubBlockStats:
    """Random weights and correlated activations of a sub-block; attention when a unit spans channels."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
    channels = units * span
    weight = draw(HIDDEN, channels)
    block: AttentionWeights | FfnWeights
    if span > 1:
        block = AttentionWeights(
            draw(HIDDEN), draw(channels, HIDDEN), draw(units, HIDDEN), draw(units, HIDDEN), weight
        )
    else:
        block = FfnWeights(draw(HIDDEN), draw(channels, HIDDEN), draw(channels, HIDDEN), weight)
    if gram_NN is None:
        x = draw(300, max(1, channels // 2)) @ draw(max(1, channels // 2), channels) + draw(300, channels)
        gram_NN = x.T @ x
    scores, gradients = draw(channels).abs(), draw(40, HIDDEN)
    return SubBlockStats(block, weight, gram_NN, span, scores, gradients.T @ gradients)


def rank(name: str, given: SubBlockStats) -> list[int]:
    return CRITERIA[name](given, shrinkage=SHRINKAGE).tolist()


def refit_error(given: SubBlockStats, kept: list[int]) -> float:
    """Output error of a re-fitted projection that keeps only those units."""
    span = given.span
    removed = [unit for unit in range(given.num_units) if unit not in kept]
    order = expand_units(torch.tensor([*kept, *removed]), span)
    factor = factorise(given.gram_NN, order, SHRINKAGE)
    keep = len(kept) * span
    rest_HR = given.weight_HN[:, order][:, keep:].to(factor.dtype)
    return float((rest_HR @ factor[keep:, keep:]).square().sum())


def naive_greedy(given: SubBlockStats) -> list[int]:
    """Remove, one at a time, the unit whose removal leaves least error once all others are re-fitted."""
    kept, removed = list(range(given.num_units)), []
    while len(kept) > 1:
        costs = {unit: refit_error(given, [other for other in kept if other != unit]) for unit in kept}
        loser = min(costs, key=lambda unit: costs[unit])
        kept.remove(loser)
        removed.append(loser)
    return [*kept, *reversed(removed)]


class TestEvery:
    @every_criterion
    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 2**16), units=st.integers(1, 14), span=st.sampled_from([1, 3]))
    def test_permutation(self, name: str, seed: int, units: int, span: int) -> None:
        assert sorted(rank(name, random_stats(seed, units, span))) == list(range(units))

    @pytest.mark.parametrize("units", [95, 96, 192, 200, 385])
    def test_permutation_of_many_channels(self, units: int) -> None:
        """Greedy elimination takes several per step from 192 units up."""
        assert sorted(rank("obs-greedy", random_stats(0, units))) == list(range(units))

    @every_criterion
    @pytest.mark.parametrize("span", [1, 3])
    def test_dead_units_come_last(self, name: str, span: int) -> None:
        """No weight reads them, nothing activates them, no gradient reaches them."""
        given, dead = random_stats(1, 8, span), [2, 5]
        channels = expand_units(torch.tensor(dead), span)
        given.weight_HN[:, channels] = 0
        given.gram_NN[channels] = 0
        given.gram_NN[:, channels] = 0
        given.taylor_N[channels] = 0
        block = given.block
        if isinstance(block, AttentionWeights):
            block.query_QH[channels] = 0
            block.key_KH[dead] = 0
            block.value_KH[dead] = 0
        else:
            block.gate_CH[channels] = 0
            block.up_CH[channels] = 0
        assert set(rank(name, given)[-2:]) == set(dead)

    @pytest.mark.parametrize("name", ["activation", "obs", "obs-greedy"])
    def test_never_activated_comes_last(self, name: str) -> None:
        """However large its weights."""
        given = random_stats(2, 10)
        given.gram_NN[4] = 0
        given.gram_NN[:, 4] = 0
        assert rank(name, given)[-1] == 4

    @every_criterion
    def test_evidence_is_not_changed(self, name: str) -> None:
        given = random_stats(3, 9)
        before = (given.weight_HN.clone(), given.gram_NN.clone())
        rank(name, given)
        assert torch.equal(given.weight_HN, before[0]) and torch.equal(given.gram_NN, before[1])

    @every_criterion
    def test_bf16_weights(self, name: str) -> None:
        given = random_stats(4, 9)
        half = replace(given, weight_HN=given.weight_HN.bfloat16())
        assert sorted(rank(name, half)) == list(range(9))


class TestFisher:
    def test_an_even_metric_is_none(self) -> None:
        """Errors felt alike in every direction: the order of greedy OBS."""
        given = replace(random_stats(5, 12), fisher_HH=3.0 * torch.eye(HIDDEN))
        assert rank("obs-fisher", given) == rank("obs-greedy", given)

    def test_what_nobody_feels_is_spared_last(self) -> None:
        """The largest weights of one channel go where the output feels hardly anything."""
        felt = torch.full((HIDDEN,), 100.0)
        felt[0] = 0.0
        given = replace(random_stats(6, 10, gram_NN=torch.eye(10)), fisher_HH=torch.diag(felt))
        given.weight_HN[:, 4] = 0.0
        given.weight_HN[0, 4] = 4.0
        assert rank("obs-greedy", given)[0] == 4
        assert rank("obs-fisher", given)[0] != 4

    def test_without_gradients(self) -> None:
        with pytest.raises(BadInput, match="criterion: got obs-fisher: needs gradients"):
            rank("obs-fisher", replace(random_stats(0, 3), fisher_HH=None))


class TestObs:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 2**16), units=st.integers(2, 9), span=st.sampled_from([1, 2, 4]))
    def test_ranks_by_the_error_that_refitting_leaves(self, seed: int, units: int, span: int) -> None:
        given = random_stats(seed, units, span)
        alone = [refit_error(given, [u for u in range(units) if u != unit]) for unit in range(units)]
        costs = [alone[unit] for unit in obs(given, shrinkage=SHRINKAGE).tolist()]
        # Sorted, up to the fp32 of the factor.
        assert all(costs[i] >= costs[i + 1] * (1 - 1e-3) for i in range(units - 1))


class TestObsGreedy:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 2**16), units=st.integers(2, 9), span=st.sampled_from([1, 2, 4]))
    def test_is_the_naive_greedy_algorithm(self, seed: int, units: int, span: int) -> None:
        given = random_stats(seed, units, span)
        found, naive = rank("obs-greedy", given), naive_greedy(given)
        # Near-ties may fall either way: compare what every prefix leaves, not the names of the units.
        for keep in range(1, units):
            left = refit_error(given, found[:keep])
            assert left == pytest.approx(refit_error(given, naive[:keep]), rel=1e-2)

    def test_orthogonal_activations_need_no_greed(self) -> None:
        given = random_stats(5, 12, gram_NN=torch.diag(torch.arange(1.0, 13.0)))
        assert rank("obs-greedy", given) == rank("obs", given)

    def test_of_two_duplicates_one_stays(self) -> None:
        """Each can stand in for the other, so one is worthless and then the other is worth both."""
        given = random_stats(6, 8, gram_NN=torch.eye(8) * 100)
        given.gram_NN[3, 5] = given.gram_NN[5, 3] = 100.0
        given.weight_HN[:, 3] *= 4
        given.weight_HN[:, 5] = given.weight_HN[:, 3]
        order = rank("obs-greedy", given)
        assert {order[0], order[-1]} == {3, 5}
        assert set(rank("obs", given)[-2:]) == {3, 5}  # what greed is there to avoid

    def test_steps_leave_little_on_the_table(self) -> None:
        """Several channels per step: the error at half width stays near that of one at a time."""
        given = random_stats(7, 200)
        found = obs_greedy(given, shrinkage=SHRINKAGE).tolist()
        by_activation = rank("activation", given)
        assert refit_error(given, found[:100]) < refit_error(given, by_activation[:100])

    def test_singular_gram(self) -> None:
        """Fewer tokens than channels."""
        x = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
        given = random_stats(8, 30, gram_NN=x.T @ x)
        assert sorted(rank("obs-greedy", given)) == list(range(30))


class TestOthers:
    def test_magnitude_by_hand(self) -> None:
        ones = torch.ones(3, 2)
        block = FfnWeights(torch.ones(2), ones, torch.tensor([[1.0, 1], [3, 0], [0, 0]]), torch.ones(2, 3))
        given = SubBlockStats(block, block.down_HC, torch.eye(3), 1)
        assert rank("magnitude", given) == [1, 0, 2]

    def test_activation_by_hand(self) -> None:
        weight = torch.tensor([[1.0, 2.0, 3.0]])
        block = FfnWeights(torch.ones(1), torch.ones(3, 1), torch.ones(3, 1), weight)
        given = SubBlockStats(block, weight, torch.diag(torch.tensor([100.0, 4.0, 1.0])), 1)
        assert rank("activation", given) == [0, 1, 2]

    def test_taylor_sums_over_a_unit(self) -> None:
        given = replace(random_stats(0, 3, 2), taylor_N=torch.tensor([5.0, 0.0, 3.0, 3.0, 0.0, 1.0]))
        assert rank("taylor", given) == [1, 0, 2]

    def test_taylor_without_gradients(self) -> None:
        with pytest.raises(BadInput, match="gradients"):
            rank("taylor", replace(random_stats(0, 3), taylor_N=None))

    def test_damping_is_a_share_of_the_mean_diagonal(self) -> None:
        gram = torch.diag(torch.tensor([1.0, 3.0]))
        assert torch.allclose(damped(gram, 0.5).diagonal(), torch.tensor([2.0, 4.0], dtype=torch.float64))
