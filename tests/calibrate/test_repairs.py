"""Repairs: the panels give, at every width, what a direct ridge solve gives.

Proven (property): the repaired projection is the minimiser of the damped squared error around the
plain cut; the error it is said to leave is the error it leaves; it is never worse than the cut on
the data it was fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.calibrate.least_squares import damped, factorise
from secateur.calibrate.repairs import PANELS, Repairs

CPU = torch.device("cpu")


@dataclass
class Data:
    """Correlated activations X [M, N], a projection W [H, N], and an order of the channels."""

    x_MN: Tensor
    weight_HN: Tensor
    order_N: Tensor

    @classmethod
    def random(cls, seed: int, channels: int, rank: int, outputs: int = 5, tokens: int = 200) -> Data:
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
        x = draw(tokens, rank) @ draw(rank, channels) + 0.1 * draw(tokens, channels)
        return cls(x, draw(outputs, channels), torch.randperm(channels, generator=generator))

    @property
    def gram_NN(self) -> Tensor:
        return self.x_MN.T @ self.x_MN

    @property
    def sorted_x(self) -> Tensor:
        return self.x_MN[:, self.order_N]

    @property
    def sorted_weight(self) -> Tensor:
        return self.weight_HN[:, self.order_N]

    def ridge(self, keep: int, shrinkage: float) -> Tensor:
        """argmin ||X W^T - X_K V^T||^2 + d ||(W_K, W_R) - (V, 0)||^2, solved whole."""
        gram = damped(self.gram_NN, shrinkage)[self.order_N][:, self.order_N]
        right = self.sorted_weight @ gram[:, :keep]
        return torch.linalg.solve(gram[:keep, :keep], right.T).T

    def repairs(self, shrinkage: float) -> Repairs:
        return Repairs.fit(self.weight_HN, self.gram_NN, self.order_N, shrinkage)

    def output_error(self, kept_weight_HK: Tensor) -> float:
        keep = kept_weight_HK.shape[1]
        missed = self.sorted_x @ self.sorted_weight.T - self.sorted_x[:, :keep] @ kept_weight_HK.double().T
        return float(missed.square().sum())


problems = st.builds(Data.random, st.integers(0, 2**16), st.integers(2, 24), st.integers(1, 24))
shrinkages = st.sampled_from([0.003, 0.01, 0.1])


class TestRepaired:
    @settings(max_examples=50, deadline=None)
    @given(data=problems, shrinkage=shrinkages, share=st.floats(0.0, 1.0))
    def test_one_factor_gives_every_width_its_ridge_solution(
        self, data: Data, shrinkage: float, share: float
    ) -> None:
        channels = len(data.order_N)
        keep = max(1, min(channels - 1, round(share * channels)))
        found = data.repairs(shrinkage).projection(keep, CPU).double()
        expected = data.ridge(keep, shrinkage)
        # The factor is kept in fp32: its rounding is magnified by the condition of the damped matrix.
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))

    @settings(max_examples=50, deadline=None)
    @given(data=problems, shrinkage=shrinkages)
    def test_never_worse_than_the_cut_on_its_own_data(self, data: Data, shrinkage: float) -> None:
        repairs = data.repairs(shrinkage)
        for keep in range(1, len(data.order_N)):
            cut = data.output_error(data.sorted_weight[:, :keep])
            assert data.output_error(repairs.projection(keep, CPU)) <= cut * (1 + 1e-5) + 1e-9

    def test_a_redundant_channel_costs_nothing(self) -> None:
        """The last channel is a copy of the first: repair folds it in."""
        data = Data.random(1, 6, 6)
        data.order_N = torch.arange(6)
        data.x_MN[:, 5] = data.x_MN[:, 0]
        found = data.repairs(1e-6).projection(5, CPU)
        expected = data.weight_HN[:, :5].float()
        expected[:, 0] += data.weight_HN[:, 5]
        assert torch.allclose(found, expected, atol=2e-3)


class TestResidualErrors:
    @settings(max_examples=50, deadline=None)
    @given(data=problems, shrinkage=shrinkages)
    def test_is_the_norm_of_what_is_removed(self, data: Data, shrinkage: float) -> None:
        """|| W_R L_RR ||_F^2, computed width by width."""
        factor = factorise(data.gram_NN, data.order_N, shrinkage)
        widths = list(range(len(data.order_N) + 1))
        one_by_one = [
            float((data.sorted_weight[:, keep:].float() @ factor[keep:, keep:]).double().square().sum())
            for keep in widths
        ]
        assert data.repairs(shrinkage).errors(widths) == pytest.approx(one_by_one, rel=1e-4)

    @settings(max_examples=50, deadline=None)
    @given(data=problems)
    def test_is_the_real_residual(self, data: Data) -> None:
        """With next to no damping, what is announced is what the repaired projection leaves."""
        repairs = data.repairs(1e-6)
        widths = list(range(1, len(data.order_N)))
        announced = repairs.errors(widths)
        scale = float((data.x_MN @ data.weight_HN.T).square().sum())
        for keep, error in zip(widths, announced, strict=True):
            left = data.output_error(repairs.projection(keep, CPU))
            assert error == pytest.approx(left, rel=1e-2, abs=1e-5 * scale)

    @settings(max_examples=50, deadline=None)
    @given(data=problems, shrinkage=shrinkages)
    def test_damped_residual_bounds_the_real_one(self, data: Data, shrinkage: float) -> None:
        """It is the minimum of error plus a penalty that is never negative."""
        repairs = data.repairs(shrinkage)
        widths = list(range(1, len(data.order_N)))
        announced = repairs.errors(widths)
        for keep, error in zip(widths, announced, strict=True):
            left = data.output_error(repairs.projection(keep, CPU))
            assert left <= error * (1 + 1e-3) + 1e-6

    @settings(max_examples=30, deadline=None)
    @given(data=problems, shrinkage=shrinkages)
    def test_falls_with_the_width_down_to_zero(self, data: Data, shrinkage: float) -> None:
        errors = data.repairs(shrinkage).errors(list(range(len(data.order_N) + 1)))
        assert all(wide <= narrow * (1 + 1e-5) for narrow, wide in pairwise(errors))
        assert errors[-1] == 0.0


class TestPanels:
    """Whatever the panels, a width is what the solve for it alone gives."""

    @pytest.mark.parametrize(("channels", "span"), [(96, 1), (13, 1), (7, 1), (48, 16), (120, 12)])
    def test_every_width(self, channels: int, span: int) -> None:
        data = Data.random(3, channels, channels // 2)
        repairs = Repairs.fit(data.weight_HN, data.gram_NN, data.order_N, 0.01, span)
        for keep in range(1, channels + 1):
            found, expected = repairs.projection(keep, CPU), data.ridge(keep, 0.01).float()
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))

    @pytest.mark.parametrize(("units", "span"), [(3, 16), (8, 4), (20, 3), (96, 1), (1, 5)])
    def test_they_begin_where_units_do(self, units: int, span: int) -> None:
        data = Data.random(0, units * span, units)
        panels = Repairs.fit(data.weight_HN, data.gram_NN, data.order_N, 0.01, span).panels
        begins = [panel.base_HK.shape[1] for panel in panels]
        assert begins[0] == 0 and all(begin % span == 0 for begin in begins)
        assert begins[1:] == [panel.inverse_QJ.shape[1] for panel in panels[:-1]]
        assert len(panels) == min(units, len(panels)) <= PANELS
        assert panels[-1].inverse_QJ.shape[1] == units * span

    def test_by_name_and_back(self) -> None:
        data = Data.random(0, 30, 9)
        repairs = Repairs.fit(data.weight_HN, data.gram_NN, data.order_N, 0.01)
        again = Repairs.from_tensors(repairs.tensors("ffn"), "ffn")
        for keep in (1, 4, 17, 30):
            assert torch.equal(repairs.projection(keep, CPU), again.projection(keep, CPU))
        assert repairs.errors([0, 5, 30]) == again.errors([0, 5, 30])

    def test_lost_tensors_are_noticed(self) -> None:
        data = Data.random(0, 30, 9)
        named = Repairs.fit(data.weight_HN, data.gram_NN, data.order_N, 0.01).tensors("ffn")
        for name in named:
            if name == f"ffn.mixed.{(len(named) - 3) // 3}":
                continue  # the last panel's: its other parts would be left over
            rest = {other: tensor for other, tensor in named.items() if other != name}
            with pytest.raises(KeyError):
                Repairs.from_tensors(rest, "ffn")

    def test_channels_that_were_never_active(self) -> None:
        """Repair changes nothing."""
        weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        found = Repairs.fit(weight, torch.zeros(4, 4), torch.arange(4), 0.01).projection(2, CPU)
        assert torch.allclose(found, weight[:, :2])
