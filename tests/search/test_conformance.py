"""Both evaluators obey the laws of evaluators, and the fast one agrees with the judge."""

from __future__ import annotations

import pytest
from torch import Tensor

from secateur.calibrate.library import BlockLibrary
from secateur.search.evaluator import PrefixEvaluator
from secateur.search.measurement import Evaluator
from secateur.slim.judge import TransformersEvaluator
from tests.search.conformance import EvaluatorConformance


@pytest.fixture
def judge(library: BlockLibrary, windows: Tensor) -> Evaluator:
    return TransformersEvaluator(library, windows)


class TestPrefixEvaluator(EvaluatorConformance):
    @pytest.fixture(params=["roomy", "no states", "one teacher"])
    def evaluator(self, request: pytest.FixtureRequest, library: BlockLibrary, windows: Tensor) -> Evaluator:
        options = {"roomy": {}, "no states": {"state_bytes": 0}, "one teacher": {"teacher_bytes": 1}}
        return PrefixEvaluator(library, windows, **options[request.param])


class TestTransformersEvaluator(EvaluatorConformance):
    @pytest.fixture
    def evaluator(self, judge: Evaluator) -> Evaluator:
        return judge
