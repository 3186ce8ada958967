"""Few evaluations are judged cheaply, many thoroughly, and what the user asks for is what he gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.config.evaluation_budget import FULL_BUDGET_FROM, evaluation_budget
from secateur.config.prune import PruneOptions
from secateur.config.values import from_json


def test_grows_with_the_evaluations() -> None:
    quick, thorough = (
        evaluation_budget(FULL_BUDGET_FROM - 1, None, None),
        evaluation_budget(FULL_BUDGET_FROM, None, None),
    )
    assert quick.calibration_tokens < thorough.calibration_tokens
    assert quick.search_windows < thorough.search_windows
    assert quick.validation_windows < thorough.validation_windows


@pytest.mark.parametrize("evaluations", [1, 40, 150, 544])
def test_what_is_given_is_taken(evaluations: int) -> None:
    effort = evaluation_budget(evaluations, 4096, 5)
    assert (effort.calibration_tokens, effort.search_windows) == (4096, 5)


def test_a_study_that_is_cut_from_later_has_the_same(tmp_path: Path) -> None:
    options = PruneOptions("model", tmp_path / "out", keep=(0.8,), evaluations=40)
    again = from_json(PruneOptions, {**options.for_study(), "out": tmp_path / "other", "keep": [0.5]})
    assert again.evaluation_budget == options.evaluation_budget == evaluation_budget(40, None, None)
