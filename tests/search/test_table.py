"""The additive table: measured where measured, monotone in between, nothing at full width."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calibrate.block_library import BlockLibrary
from secateur.model.architecture import Architecture
from secateur.search.table import AdditiveTable, build_table, proportional, single_cuts
from secateur.space.space import Space


def measured_by(space: Space, kl: dict[Architecture, float] | None = None) -> dict[Architecture, float]:
    """KL that grows with what is missing, for every single cut."""

    def missing(cut: Architecture) -> float:
        return sum((1 - a / b) ** 2 * (1 + i) for i, (a, b) in enumerate(zip(cut.path, space.dense.path)))  # noqa: B905

    return {cut: missing(cut) for cut in single_cuts(space)} | (kl or {})


class TestSingleCuts:
    def test_one_sub_block_each(self, space: Space) -> None:
        cuts = single_cuts(space)
        assert len(set(cuts)) == len(cuts)
        for cut in cuts:
            assert space.contains(cut)
            assert sum(a != b for a, b in zip(cut.path, space.dense.path, strict=True)) == 1

    def test_one_of_every_sub_block(self, space: Space) -> None:
        cuts = single_cuts(space)
        assert len(cuts) == len(space.slots)
        for cut, slot in zip(cuts, space.slots, strict=True):
            assert cut in [space.dense.with_width(*slot, width) for width in space.widths(*slot)]

    def test_a_sub_block_with_one_width_has_none(self) -> None:
        space = Space(Architecture((1, 1), (64, 64)), 32)
        assert not any(cut.groups[0] != 1 for cut in single_cuts(space))


class TestBuildTable:
    def test_exact_where_measured_and_zero_at_full_width(self, space: Space, library: BlockLibrary) -> None:
        measured = measured_by(space)
        table = build_table(space, library, measured)
        assert table.of(space.dense) == 0.0
        for cut, kl in measured.items():
            assert table.of(cut) == pytest.approx(kl)

    def test_every_allowed_width(self, space: Space, library: BlockLibrary) -> None:
        table = build_table(space, library, measured_by(space))
        for slot in space.slots:
            assert tuple(table.kl[slot]) == space.widths(*slot)

    def test_in_proportion_to_the_error_that_repair_leaves(self, space: Space, library: BlockLibrary) -> None:
        table, slot = build_table(space, library, measured_by(space)), (1, "ffn")
        widths = space.widths(*slot)[:-1]
        errors = library.errors(*slot, list(widths))
        ratios = {table.kl[slot][width] / error for width, error in zip(widths, errors, strict=True)}
        assert max(ratios) == pytest.approx(min(ratios))

    def test_without_repair_in_proportion_to_what_is_cut(self, space: Space, library: BlockLibrary) -> None:
        plain = BlockLibrary(library.master, None, library.model.dtype)
        row = build_table(space, plain, measured_by(space)).kl[1, "ffn"]
        full = space.dense.width(1, "ffn")
        ratios = [kl / (full - width) for width, kl in row.items() if width < full]
        assert max(ratios) == pytest.approx(min(ratios))

    def test_measured_zeros_and_negatives(self, space: Space, library: BlockLibrary) -> None:
        """KL that rounding brought to zero or below must not break a logarithm."""
        measured = dict.fromkeys(single_cuts(space), -1e-9)
        table = build_table(space, library, measured)
        assert all(0 <= kl < 1e-5 for row in table.kl.values() for kl in row.values())


class TestProportional:
    @settings(max_examples=60, deadline=None)
    @given(
        errors=st.lists(st.floats(0.0, 100.0), min_size=9, max_size=9),
        measured=st.integers(0, 8),
        kl=st.floats(1e-6, 5.0),
    )
    def test_monotone(self, errors: list[float], measured: int, kl: float) -> None:
        """Whatever rounding did to the errors."""
        widths = range(0, 100, 10)
        row = proportional(widths, errors, widths[measured], kl)
        values = list(row.values())
        assert list(row) == list(widths)
        assert values == sorted(values, reverse=True) and values[-1] == 0.0
        assert all(math.isfinite(value) for value in values)

    def test_exact_where_measured(self) -> None:
        assert proportional([0, 1, 2, 3], [100.0, 10.0, 1.0], 1, 0.5) == pytest.approx(
            {0: 5.0, 1: 0.5, 2: 0.05, 3: 0.0}
        )


def test_sharpness() -> None:
    table = AdditiveTable({(0, "attention"): {0: 4.0, 1: 0.0}, (0, "ffn"): {0: 9.0, 1: 0.0}})
    assert table.of(Architecture((0,), (0,))) == 13.0
    assert table.of(Architecture((0,), (0,)), 0.5) == 5.0
    assert table.of(Architecture((1,), (0,)), 0.5) == 3.0
