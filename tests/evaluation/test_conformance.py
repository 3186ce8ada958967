"""Every evaluator obeys the laws of evaluators, and the fast ones agree with the judge."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from secateur.calibrate.block_library import BlockLibrary
from secateur.evaluation.batch import BatchEvaluator
from secateur.evaluation.evaluator import PrefixEvaluator
from secateur.evaluation.measurement import Evaluator
from secateur.model.architecture import Architecture
from secateur.space.space import Space
from secateur_kernels.backend import runs_on, triton_installed
from tests.evaluation.conformance import EvaluatorConformance, random_architectures
from tests.evaluation.transformers_evaluator import TransformersEvaluator


@pytest.fixture
def judge(library: BlockLibrary, windows: Tensor) -> Evaluator:
    return TransformersEvaluator(library, windows)


class TestPrefixEvaluator(EvaluatorConformance):
    @pytest.fixture(params=["roomy", "no states", "one teacher"])
    def evaluator(self, request: pytest.FixtureRequest, library: BlockLibrary, windows: Tensor) -> Evaluator:
        options = {"roomy": {}, "no states": {"state_bytes": 0}, "one teacher": {"teacher_bytes": 1}}
        return PrefixEvaluator(library, windows, **options[request.param])


class TestBatchEvaluator(EvaluatorConformance):
    @pytest.fixture(params=["roomy", "no states"])
    def evaluator(self, request: pytest.FixtureRequest, library: BlockLibrary, windows: Tensor) -> Evaluator:
        options = {"roomy": {}, "no states": {"state_bytes": 0}}
        return BatchEvaluator(library, windows, group=3, backend="torch", **options[request.param])


@pytest.mark.parametrize(
    "family",
    [
        "tiny_llama",
        pytest.param("tiny_qwen2", marks=pytest.mark.slow),
        pytest.param("tiny_qwen3", marks=pytest.mark.slow),
    ],
)
def test_groups_through_the_triton_kernels(
    family: str,
    request: pytest.FixtureRequest,
    library_of: Callable[..., BlockLibrary],
    space: Space,
    windows: Tensor,
) -> None:
    """Launches for several candidates, interpreted: with biases, head norms and removed sub-blocks."""
    if not (triton_installed() and runs_on("cpu")):
        pytest.skip("triton cannot be interpreted here")
    library = library_of(request.getfixturevalue(family))
    some = random_architectures(space, 2, seed=3)
    shapes = [*some, some[0].with_width(2, "ffn", 96), Architecture((1, 0, 0), (0, 64, 0)), space.dense]
    together = dict(BatchEvaluator(library, windows, group=3, backend="triton").losses(shapes, [0]))
    judged = dict(TransformersEvaluator(library, windows).losses(shapes, [0]))
    for shape, losses in together.items():
        assert losses.kl == pytest.approx(judged[shape].kl, rel=2e-3, abs=1e-5)
        assert losses.nll == pytest.approx(judged[shape].nll, abs=1e-4)
    assert set(together[space.dense].kl) == {0.0}
    alone = BatchEvaluator(library, windows, group=1, backend="triton").losses(shapes[:1], [0])
    assert dict(alone) == {shapes[0]: together[shapes[0]]}


class TestTransformersEvaluator(EvaluatorConformance):
    @pytest.fixture
    def evaluator(self, judge: Evaluator) -> Evaluator:
        return judge
