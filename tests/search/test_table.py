"""The additive table: measured where measured, monotone in between, nothing at full width."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calibrate.library import BlockLibrary
from secateur.search import table as table_module
from secateur.search.architecture import Architecture
from secateur.search.space import Space
from secateur.search.table import AdditiveTable, build_table, single_cuts


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

    def test_every_sub_block_at_its_narrowest(self, space: Space) -> None:
        cuts = single_cuts(space)
        for slot in space.slots:
            assert space.dense.with_width(*slot, space.widths(*slot)[0]) in cuts

    def test_lean_is_one_of_every_sub_block(self, space: Space) -> None:
        lean = single_cuts(space, lean=True)
        assert len(lean) == len(space.slots)
        assert set(lean) <= {
            space.dense.with_width(*slot, w) for slot in space.slots for w in space.widths(*slot)
        }

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

    def test_lean_table_has_every_allowed_width(self, space: Space, library: BlockLibrary) -> None:
        measured = measured_by(space)
        lean = build_table(
            space, library, {cut: measured[cut] for cut in single_cuts(space, lean=True) if cut in measured}
        )
        for slot in space.slots:
            row = lean.kl[slot]
            assert tuple(row) == space.widths(*slot)
            assert list(row.values()) == sorted(row.values(), reverse=True)

    def test_every_allowed_width(self, space: Space, library: BlockLibrary) -> None:
        table = build_table(space, library, measured_by(space))
        for slot in space.slots:
            assert tuple(table.kl[slot]) == space.widths(*slot)

    def test_no_width_is_worse_than_a_narrower_one(self, space: Space, library: BlockLibrary) -> None:
        """Even when the measurement says so."""
        noisy = measured_by(space)
        for index, cut in enumerate(noisy):
            noisy[cut] *= 3.0 if index % 2 else 0.3
        for row in build_table(space, library, noisy).kl.values():
            values = list(row.values())
            assert values == sorted(values, reverse=True) and values[-1] == 0.0

    def test_without_a_library_of_errors(self, space: Space, library: BlockLibrary) -> None:
        plain = BlockLibrary(library.master, None, library.model.dtype)
        table = build_table(space, plain, measured_by(space))
        assert all(math.isfinite(kl) for row in table.kl.values() for kl in row.values())

    def test_measured_zeros_and_negatives(self, space: Space, library: BlockLibrary) -> None:
        """KL that rounding brought to zero or below must not break a logarithm."""
        measured = dict.fromkeys(single_cuts(space), -1e-9)
        table = build_table(space, library, measured)
        assert all(0 <= kl < 1e-5 for row in table.kl.values() for kl in row.values())


class TestInterpolation:
    @settings(max_examples=60, deadline=None)
    @given(
        drops=st.lists(st.floats(1e-6, 5.0), min_size=9, max_size=9),
        errors=st.lists(st.floats(1e-6, 100.0), min_size=9, max_size=9),
        measured=st.sets(st.integers(1, 8)).map(lambda some: {0, *some}),  # removal is always measured
    )
    def test_monotone_and_exact(self, drops: list[float], errors: list[float], measured: set[int]) -> None:
        widths = range(0, 100, 10)
        truth = {width: sum(drops[i:]) for i, width in enumerate(widths[:-1])}
        known = {widths[i]: truth[widths[i]] for i in measured}
        falling = [sum(errors[i:]) for i in range(9)]
        row = table_module._fill(widths, known, falling)
        values = list(row.values())
        assert list(row) == list(widths)
        assert values == sorted(values, reverse=True) and values[-1] == 0.0
        for width, kl in known.items():
            assert row[width] == pytest.approx(kl)

    def test_between_two_measurements(self) -> None:
        """Log KL is a straight line in the log of the error."""
        row = table_module._fill([0, 1, 2, 3], {0: 1.0, 2: 0.01}, [100.0, 10.0, 1.0])
        assert row[1] == pytest.approx(0.1)

    def test_one_width_only(self) -> None:
        assert table_module._fill([1], {}, []) == {1: 0.0}


def test_sharpness() -> None:
    table = AdditiveTable({(0, "attention"): {0: 4.0, 1: 0.0}, (0, "ffn"): {0: 9.0, 1: 0.0}})
    assert table.of(Architecture((0,), (0,))) == 13.0
    assert table.of(Architecture((0,), (0,)), 0.5) == 5.0
    assert table.of(Architecture((1,), (0,)), 0.5) == 3.0
