"""Losses without whole logits are the fp64 definitions, up to the rounding that the plain torch ops have too.

Proven: NLL and KL in fp32 and bf16, on shapes off every block boundary, peaked teachers, differences
that leave fp32's exponent range; KL of a teacher with itself is zero to the bit, and never negative.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from secateur_kernels import (
    BadArgument,
    linear_kl,
    linear_loss,
    linear_nll,
    prepare_teacher,
    reference,
    teacher_states,
)
from tests.kernels.conftest import assert_as_good_as_eager

SHAPES = [(1, 8, 3), (17, 33, 129), (63, 64, 300), (130, 96, 1001)]
DTYPES = [torch.float32, torch.bfloat16]
# What a comparison may miss beyond the rounding of the eager op, in nats.
EPS = {torch.float32: 2e-6, torch.bfloat16: 2e-3}

shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])


class Problem:
    """Random teacher and candidate states, head and targets, rounded to a dtype."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        *,
        scale: float = 1.0,
        distance: float = 0.3,
        seed: int = 0,
    ) -> None:
        tokens, hidden, vocabulary = shape
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
        teacher = draw(tokens, hidden)
        self.teacher = teacher.to(dtype)
        self.hidden = (teacher + distance * draw(tokens, hidden)).to(dtype)
        self.head = (draw(vocabulary, hidden) * scale / math.sqrt(hidden)).to(dtype)
        self.target = torch.randint(vocabulary, (tokens,), generator=generator)

    def kl(self) -> Tensor:
        return self.kl_and_nll()[0]

    def kl_and_nll(self) -> tuple[Tensor, Tensor]:
        teacher = prepare_teacher(self.teacher, self.head, self.target)
        return linear_kl(self.hidden, teacher, self.head, self.target)

    def true_kl(self) -> Tensor:
        return reference.linear_kl(self.hidden, self.teacher, self.head)

    def true_nll(self) -> Tensor:
        return reference.linear_nll(self.hidden, self.head, self.target)

    def eager_kl(self) -> Tensor:
        log_p = torch.log_softmax((self.teacher @ self.head.T).float(), -1)
        log_q = torch.log_softmax((self.hidden @ self.head.T).float(), -1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def eager_nll(self) -> Tensor:
        logits = (self.hidden @ self.head.T).float()
        return functional.cross_entropy(logits, self.target, reduction="none")


def error(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true).abs().max())


@dtypes
@shapes
@pytest.mark.parametrize("scale", [1.0, 8.0], ids=["flat", "peaked"])
class TestAgainstFp64:
    def test_nll(self, shape: tuple[int, int, int], dtype: torch.dtype, scale: float) -> None:
        problem = Problem(shape, dtype, scale=scale)
        found = linear_nll(problem.hidden, problem.head, problem.target)
        assert found.dtype == torch.float32
        true = problem.true_nll()
        assert error(found, true) <= 2 * error(problem.eager_nll(), true) + EPS[dtype]

    def test_kl(self, shape: tuple[int, int, int], dtype: torch.dtype, scale: float) -> None:
        problem = Problem(shape, dtype, scale=scale)
        true = problem.true_kl()
        assert error(problem.kl(), true) <= 2 * error(problem.eager_kl(), true) + EPS[dtype]

    def test_nll_of_the_candidate(
        self, shape: tuple[int, int, int], dtype: torch.dtype, scale: float
    ) -> None:
        problem = Problem(shape, dtype, scale=scale)
        true = problem.true_nll()
        _, nll = problem.kl_and_nll()
        assert error(nll, true) <= 2 * error(problem.eager_nll(), true) + EPS[dtype]

    def test_nll_of_the_teacher(self, shape: tuple[int, int, int], dtype: torch.dtype, scale: float) -> None:
        problem = Problem(shape, dtype, scale=scale, distance=0.0)
        teacher = prepare_teacher(problem.teacher, problem.head, problem.target)
        true = problem.true_nll()
        assert error(teacher.nll_N, true) <= 2 * error(problem.eager_nll(), true) + EPS[dtype]


@dtypes
def test_mean_losses_of_a_thousand_tokens(dtype: torch.dtype) -> None:
    problem = Problem((1100, 64, 500), dtype, scale=3.0)
    limit = 1e-4 if dtype == torch.float32 else 2e-3
    kl, nll = problem.kl_and_nll()
    assert abs(float(nll.double().mean() - problem.true_nll().mean())) < limit
    assert abs(float(kl.double().mean() - problem.true_kl().mean())) < limit


@pytest.mark.parametrize("distance", [1e-1, 1e-2])
def test_small_kl_keeps_its_digits_in_bf16(distance: float) -> None:
    """A candidate close to its teacher: the difference of two rounded log-softmaxes would be noise."""
    problem = Problem((64, 64, 500), torch.bfloat16, scale=3.0)
    close = problem.teacher.float() + distance * torch.randn(
        64, 64, generator=torch.Generator().manual_seed(1)
    )
    teacher = prepare_teacher(problem.teacher, problem.head, problem.target)
    found, _ = linear_kl(close, teacher, problem.head, problem.target)
    true = reference.linear_kl(close, problem.teacher, problem.head)
    assert abs(float(found.double().mean() / true.mean()) - 1) < 0.02


@dtypes
@shapes
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["flat", "peaked"])
def test_teacher_against_itself_is_exactly_zero(
    shape: tuple[int, int, int], dtype: torch.dtype, scale: float
) -> None:
    problem = Problem(shape, dtype, scale=scale, distance=0.0)
    kl, nll = problem.kl_and_nll()
    assert torch.equal(kl, torch.zeros_like(kl))
    assert torch.equal(nll, prepare_teacher(problem.teacher, problem.head, problem.target).nll_N)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(2, 80)),
    scale=st.floats(0.01, 60.0),
    distance=st.floats(0.0, 30.0),
    seed=st.integers(0, 2**16),
)
def test_kl_is_finite_correct_and_never_negative(
    shape: tuple[int, int, int], scale: float, distance: float, seed: int
) -> None:
    problem = Problem(shape, torch.float32, scale=scale, distance=distance, seed=seed)
    kl, nll = problem.kl_and_nll()
    tolerance = 1e-5 * (1 + scale * (1 + distance))
    assert kl.isfinite().all() and nll.isfinite().all()
    assert float(kl.min()) >= -tolerance
    assert torch.allclose(kl.double(), problem.true_kl(), rtol=1e-4, atol=tolerance)
    assert torch.allclose(nll.double(), problem.true_nll(), rtol=1e-4, atol=tolerance)


class TestHugeDifferences:
    """Beyond the exponent range of fp32, where exp() of a difference alone is infinite."""

    @pytest.mark.parametrize("peak", [59.0, 61.0, 88.0, 150.0, 5000.0])
    def test_peak(self, peak: float) -> None:
        problem = Problem((20, 16, 50), torch.float32)
        problem.hidden = problem.teacher + torch.randn(20, 16, generator=torch.Generator().manual_seed(3))
        delta = ((problem.hidden - problem.teacher) @ problem.head.T).max()
        problem.hidden = problem.teacher + (problem.hidden - problem.teacher) * (peak / delta)
        kl, nll = problem.kl_and_nll()
        assert torch.allclose(kl.double(), problem.true_kl(), rtol=1e-5, atol=1e-4)
        assert torch.allclose(nll.double(), problem.true_nll(), rtol=1e-5, atol=1e-4)

    @dtypes
    def test_candidate_certain_of_what_the_teacher_calls_impossible(self, dtype: torch.dtype) -> None:
        """The teacher's probability underflows to 0; the candidate bets everything there."""
        head = torch.eye(4, dtype=dtype)
        teacher_hidden = torch.tensor([[200.0, 0.0, 0.0, 0.0]], dtype=dtype)
        hidden = torch.tensor([[0.0, 200.0, 0.0, 0.0]], dtype=dtype)
        target = torch.tensor([1])
        kl, nll = linear_kl(hidden, prepare_teacher(teacher_hidden, head, target), head, target)
        assert float(kl) == pytest.approx(200.0)
        assert float(nll) == pytest.approx(0.0, abs=1e-4)

    @dtypes
    @pytest.mark.parametrize("shift", [-400.0, 400.0])
    def test_a_common_shift_of_all_logits_is_nothing(self, shift: float, dtype: torch.dtype) -> None:
        """Hidden state and head rows share a direction that softmax cannot see."""
        head = torch.cat([torch.ones(5, 1), torch.eye(5)], dim=1).to(dtype)
        teacher_hidden = torch.tensor([[0.0, 8.0, 4.0, 2.0, 0.0, 0.0]], dtype=dtype)
        hidden = teacher_hidden + torch.tensor([[shift, -4.0, 4.0, 0.0, 0.0, 0.0]], dtype=dtype)
        target = torch.tensor([2])
        kl, nll = linear_kl(hidden, prepare_teacher(teacher_hidden, head, target), head, target)
        # The product itself rounds a difference of 400: by 1 in bf16.
        atol = 1e-3 if dtype == torch.float32 else 1.5
        assert torch.allclose(kl.double(), reference.linear_kl(hidden, teacher_hidden, head), atol=atol)
        assert torch.allclose(nll.double(), reference.linear_nll(hidden, head, target), atol=atol)

    def test_one_broken_token_leaves_the_others_alone(self) -> None:
        problem = Problem((40, 16, 50), torch.float32)
        problem.hidden[7] *= 1000
        kl, _ = problem.kl_and_nll()
        assert torch.allclose(kl.double(), problem.true_kl(), rtol=1e-5, atol=1e-4)


@dtypes
@pytest.mark.parametrize("vocabulary", [2, 300, 1001])
def test_a_head_that_says_nothing_gives_ln_v(vocabulary: int, dtype: torch.dtype) -> None:
    problem = Problem((9, 16, vocabulary), dtype)
    row = problem.head[:1].expand(vocabulary, -1).contiguous()
    for head in (torch.zeros_like(problem.head), row):
        nll = linear_nll(problem.hidden, head, problem.target)
        assert torch.allclose(nll, torch.full((9,), math.log(vocabulary)), atol=1e-5)
        teacher = prepare_teacher(problem.teacher, head, problem.target)
        kl, _ = linear_kl(problem.hidden, teacher, head, problem.target)
        # Every logit moves by the same amount; in bf16 that amount is rounded, to 8 bits.
        moved = (problem.hidden.float() - problem.teacher.float()) @ head[0].float()
        assert float(kl.abs().max()) <= 1e-5 + float(moved.abs().max()) * torch.finfo(dtype).eps


class TestChunks:
    @pytest.mark.parametrize("tokens", [1, 15, 16, 17, 31, 32, 33, 48])
    def test_boundaries(self, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Chunks of 16 rows, the least there are."""
        problem = Problem((tokens, 24, 77), torch.float32)
        monkeypatch.setattr(import_module("secateur_kernels.linear_loss"), "CHUNK_BYTES", 0)
        kl, nll = problem.kl_and_nll()
        alone = linear_nll(problem.hidden, problem.head, problem.target)
        assert kl.shape == nll.shape == alone.shape == (tokens,)
        assert error(kl, problem.true_kl()) < 1e-5
        assert error(nll, problem.true_nll()) < 1e-5
        assert error(alone, problem.true_nll()) < 1e-5

    @settings(max_examples=25, deadline=None)
    @given(tokens=st.integers(2, 70), at=st.data())
    def test_splitting_tokens_changes_nothing(self, tokens: int, at: st.DataObject) -> None:
        middle = at.draw(st.integers(1, tokens - 1))
        problem = Problem((tokens, 24, 77), torch.float32)
        whole_kl, whole_nll = problem.kl_and_nll()
        parts = []
        for rows in (slice(0, middle), slice(middle, tokens)):
            part = Problem((tokens, 24, 77), torch.float32)
            part.hidden, part.teacher, part.target = part.hidden[rows], part.teacher[rows], part.target[rows]
            parts.append(part.kl_and_nll())
        assert torch.allclose(torch.cat([kl for kl, _ in parts]), whole_kl, atol=1e-6)
        assert torch.allclose(torch.cat([nll for _, nll in parts]), whole_nll, atol=1e-6)

    def test_exactly_zero_across_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(import_module("secateur_kernels.linear_loss"), "CHUNK_BYTES", 0)
        kl, _ = Problem((50, 24, 77), torch.bfloat16, distance=0.0).kl_and_nll()
        assert not kl.any()


class TestReference:
    """The fp64 definitions themselves."""

    def test_kl_by_hand(self) -> None:
        head = torch.eye(2)
        teacher = torch.tensor([[math.log(3.0), 0.0]])  # 3/4, 1/4
        candidate = torch.zeros(1, 2)  # 1/2, 1/2
        expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        assert float(reference.linear_kl(candidate, teacher, head)) == pytest.approx(expected)

    def test_nll_by_hand(self) -> None:
        hidden = torch.tensor([[math.log(3.0), 0.0]])
        nll = reference.linear_nll(hidden, torch.eye(2), torch.tensor([1]))
        assert float(nll) == pytest.approx(math.log(4.0))


class TestOnePass:
    """`linear_loss`: everything from one pass, on both backends; KL with the teacher's logits recomputed."""

    @pytest.fixture(params=[(150, 72, 300), (70, 33, 1001)], ids=["300", "1001"])
    def problem(self, request: pytest.FixtureRequest, dtype: torch.dtype) -> Problem:
        return Problem(request.param, dtype, scale=3.0)

    def test_nll_entropy_and_lse(self, problem: Problem, backend: str) -> None:
        found = linear_loss(problem.hidden, problem.head, problem.target, entropy=True, backend=backend)
        logits = (problem.hidden @ problem.head.T).float()
        true_logits = problem.hidden.double() @ problem.head.double().T
        true_entropy = reference.entropy(problem.hidden, problem.head)
        eager_entropy = torch.distributions.Categorical(logits=logits).entropy()
        assert_as_good_as_eager(found.nll_N, problem.eager_nll(), problem.true_nll())
        assert_as_good_as_eager(found.lse_N, logits.logsumexp(-1), true_logits.logsumexp(-1))
        assert found.entropy_N is not None
        assert_as_good_as_eager(found.entropy_N, eager_entropy, true_entropy)
        assert found.kl_N is None

    def test_kl(self, problem: Problem, backend: str) -> None:
        teacher = teacher_states(problem.teacher, problem.head, backend=backend)
        found = linear_loss(problem.hidden, problem.head, problem.target, teacher=teacher, backend=backend)
        assert found.kl_N is not None and float(found.kl_N.min()) >= 0
        assert_as_good_as_eager(found.kl_N, problem.eager_kl(), problem.true_kl())
        # Two products of rounded operands make the candidate's logits here.
        allowed = 3 * error(problem.eager_nll(), problem.true_nll()) + 1e-5
        assert error(found.nll_N, problem.true_nll()) <= allowed

    def test_a_small_kl_is_measured_by_difference(self, backend: str) -> None:
        problem = Problem((120, 72, 500), torch.bfloat16, distance=0.01)
        candidate = problem.teacher.float() + 0.01 * torch.randn(120, 72)
        teacher = teacher_states(problem.teacher, problem.head, backend=backend)
        found = linear_loss(candidate, problem.head, problem.target, teacher=teacher, backend=backend)
        true = reference.linear_kl(candidate, problem.teacher, problem.head)
        assert found.kl_N is not None
        assert float(found.kl_N.mean()) == pytest.approx(float(true.mean()), rel=0.02)

    def test_of_the_teacher_with_itself_is_zero(self, problem: Problem, backend: str) -> None:
        teacher = teacher_states(problem.teacher, problem.head, backend=backend)
        found = linear_loss(problem.teacher, problem.head, problem.target, teacher=teacher, backend=backend)
        assert found.kl_N is not None and float(found.kl_N.max()) == 0.0

    def test_splitting_a_batch_changes_no_bit(self, backend: str) -> None:
        if backend == "torch":
            pytest.skip("torch picks another product for another number of rows")
        problem = Problem((200, 48, 700), torch.float16)
        teacher = teacher_states(problem.teacher, problem.head, backend=backend)
        whole = linear_loss(problem.hidden, problem.head, problem.target, teacher=teacher, backend=backend)
        # At a tile's edge: the interpreter's BLAS rounds a row by its place in a tile, tensor cores do not.
        for rows in (slice(0, 128), slice(128, 200)):
            part = teacher_states(problem.teacher[rows], problem.head, backend=backend)
            found = linear_loss(
                problem.hidden[rows], problem.head, problem.target[rows], teacher=part, backend=backend
            )
            assert whole.kl_N is not None and found.kl_N is not None
            assert torch.equal(found.kl_N, whole.kl_N[rows])
            assert torch.equal(found.nll_N, whole.nll_N[rows])

    def test_many_splits_are_one(self, backend: str) -> None:
        """A peaked row whose likeliest id lies in any split."""
        if backend == "torch":
            pytest.skip("splits are the kernel's")
        from secateur_kernels.triton_backend.linear_loss import losses
        from secateur_kernels.triton_backend.tile import Tile

        problem = Problem((40, 32, 530), torch.float32, scale=20.0)
        found = losses(
            problem.hidden, problem.head, problem.target, tile=Tile(32, 64, 16, 4, 2), tiles_per_split=2
        )
        assert error(found.lse_N - found.logit_N, problem.true_nll()) < 1e-4

    def test_uniform_weights_give_log_of_the_vocabulary(self, backend: str) -> None:
        hidden, head = torch.randn(9, 16), torch.zeros(77, 16)
        found = linear_loss(hidden, head, torch.arange(9), entropy=True, backend=backend)
        assert found.entropy_N is not None
        assert torch.allclose(found.nll_N, torch.full((9,), math.log(77)), atol=1e-6)
        assert torch.allclose(found.entropy_N, torch.full((9,), math.log(77)), atol=1e-6)

    def test_ignored_tokens_are_exactly_zero(self, backend: str) -> None:
        problem = Problem((20, 16, 50), torch.float32)
        target = problem.target.clone()
        target[::3] = -100
        found = linear_loss(problem.hidden, problem.head, target, backend=backend).nll_N
        whole = linear_loss(problem.hidden, problem.head, problem.target, backend=backend).nll_N
        assert (found[::3] == 0).all() and torch.equal(found[1::3], whole[1::3])

    def test_no_tokens(self, backend: str) -> None:
        hidden, head, target = torch.zeros(0, 16), torch.randn(50, 16), torch.zeros(0, dtype=torch.int64)
        teacher = teacher_states(hidden, head, backend=backend)
        found = linear_loss(hidden, head, target, teacher=teacher, backend=backend)
        assert found.nll_N.shape == found.lse_N.shape == (0,)
        assert found.entropy_N is None and found.kl_N is not None and found.kl_N.shape == (0,)

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"hidden_NH": torch.zeros(2, 3, 16)}, "hidden_NH"),
            ({"hidden_NH": torch.zeros(3, 16, dtype=torch.int32)}, "hidden_NH"),
            ({"hidden_NH": torch.zeros(16, 3).T}, "hidden_NH"),
            ({"head_VH": torch.zeros(50, 15)}, "head_VH"),
            ({"head_VH": torch.zeros(0, 16)}, "head_VH"),
            ({"head_VH": torch.zeros(50, 16, dtype=torch.float64)}, "head_VH"),
            ({"target_N": torch.zeros(4, dtype=torch.int64)}, "target_N"),
            ({"target_N": torch.zeros(3, dtype=torch.int32)}, "target_N"),
            ({"target_N": torch.tensor([0, 1, 50])}, "target_N"),
            ({"backend": "cuda"}, "backend"),
        ],
    )
    def test_bad_arguments_are_named(self, changes: dict[str, Any], named: str) -> None:
        good = {
            "hidden_NH": torch.zeros(3, 16),
            "head_VH": torch.zeros(50, 16),
            "target_N": torch.zeros(3, dtype=torch.int64),
        }
        with pytest.raises(BadArgument, match=f"^{named}: "):
            linear_loss(**{**good, **changes})

    def test_a_teacher_of_other_tokens_is_refused(self) -> None:
        head = torch.randn(50, 16)
        teacher = teacher_states(torch.randn(4, 16), head)
        with pytest.raises(BadArgument, match=r"^teacher: "):
            linear_loss(torch.randn(3, 16), head, torch.zeros(3, dtype=torch.int64), teacher=teacher)
