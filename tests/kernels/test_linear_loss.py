"""Losses without whole logits are the fp64 definitions, up to the rounding that the plain torch ops have too.

Proven: NLL and KL in fp32 and bf16, on shapes off every block boundary, peaked teachers, differences
that leave fp32's exponent range; KL of a teacher with itself is zero to the bit, and never negative; KL over
a teacher's likeliest ids bounds the whole from below and meets it at all ids.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from secateur_kernels import (
    KernelArgumentError,
    KernelBackendUnavailable,
    TeacherStates,
    TeacherTopK,
    linear_kl,
    linear_loss,
    linear_nll,
    prepare_teacher,
    reference,
    teacher_states,
    teacher_top_k,
)
from tests.kernels.conftest import assert_as_good_as_eager

SHAPES = [(1, 8, 3), (17, 33, 129), (63, 64, 300), (130, 96, 1001)]
DTYPES = [torch.float32, torch.bfloat16]
# What a comparison may miss beyond the rounding of the eager op, in nats.
EPS = {torch.float32: 2e-6, torch.bfloat16: 2e-3}

shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])


@pytest.fixture(autouse=True)
def where(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tensors are made where the backend of a test runs."""
    device = request.getfixturevalue("device") if "backend" in request.fixturenames else "cpu"
    with torch.device(device):
        yield


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
        where = torch.get_default_device()
        draw = lambda *size: torch.randn(*size, generator=generator, device="cpu").to(where)  # noqa: E731
        teacher = draw(tokens, hidden)
        self.teacher = teacher.to(dtype)
        self.hidden = (teacher + distance * draw(tokens, hidden)).to(dtype)
        self.head = (draw(vocabulary, hidden) * scale / math.sqrt(hidden)).to(dtype)
        self.target = torch.randint(vocabulary, (tokens,), generator=generator, device="cpu").to(where)

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


class TestKlOfStates:
    """`linear_kl` against the states of a teacher, and where its probabilities are on a device."""

    def test_is_the_loss_in_one_pass(self, backend: str) -> None:
        problem = Problem((17, 33, 129), torch.float32)
        teacher = teacher_states(problem.teacher, problem.head, problem.target, backend=backend)
        kl, nll = linear_kl(problem.hidden, teacher, problem.head, problem.target, backend=backend)
        assert_as_good_as_eager(kl, problem.eager_kl(), problem.true_kl())
        assert_as_good_as_eager(nll, problem.eager_nll(), problem.true_nll())
        assert teacher.nll_N is not None
        own = linear_nll(problem.teacher, problem.head, problem.target, backend=backend)
        assert torch.equal(teacher.nll_N, own)

    def test_of_a_chunk_is_that_of_the_whole(self, backend: str) -> None:
        """Targets may be views of a batch of windows."""
        problem = Problem((60, 16, 50), torch.float32)
        windows_BT = torch.cat([torch.zeros(4, 1, dtype=torch.int64), problem.target.view(4, 15)], 1)
        teacher = teacher_states(problem.teacher, problem.head, backend=backend)
        whole, _ = linear_kl(problem.hidden, teacher, problem.head, problem.target, backend=backend)
        part = teacher_states(problem.teacher[:15], problem.head, backend=backend)
        kl, nll = linear_kl(problem.hidden[:15], part, problem.head, windows_BT[0, 1:], backend=backend)
        torch.testing.assert_close(kl, whole[:15], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(nll.double(), problem.true_nll()[:15], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("distance", [0.3, 300.0])
    def test_a_prepared_teacher_on_a_device_gives_the_same(self, distance: float) -> None:
        """Also where probabilities vanish, which is not asked there."""
        problem = Problem((40, 16, 50), torch.float32, distance=distance)
        teacher = prepare_teacher(problem.teacher, problem.head, problem.target)
        run = import_module("secateur_kernels.torch_backend.linear_loss")
        kl, nll = run.kl_by_states(problem.hidden, teacher, problem.head, problem.target)
        torch.testing.assert_close(kl.double(), problem.true_kl(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(nll.double(), problem.true_nll(), rtol=1e-5, atol=1e-4)


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


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("secateur_kernels.torch_backend.linear_loss")
    monkeypatch.setattr(module, "TILE_TOKENS", 16)
    monkeypatch.setattr(module, "TILE_IDS", 32)


class TestTiles:
    @pytest.mark.parametrize("tokens", [1, 15, 16, 17, 31, 32, 33, 48])
    def test_boundaries(self, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tiles of 16 tokens and 32 ids."""
        problem = Problem((tokens, 24, 77), torch.float32)
        small_tiles(monkeypatch)
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

    def test_exactly_zero_across_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        small_tiles(monkeypatch)
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

    def test_many_splits_are_one_against_a_teacher(self, backend: str, dtype: torch.dtype) -> None:
        if backend == "torch":
            pytest.skip("splits are the kernel's")
        from secateur_kernels.triton_backend.linear_loss import losses
        from secateur_kernels.triton_backend.tile import Tile

        problem = Problem((40, 40, 530), dtype, scale=8.0)
        teacher = teacher_states(problem.teacher, problem.head, backend=backend)
        parts = []
        for columns, tiles_per_split in ((64, 2), (128, 16)):
            found = losses(
                problem.hidden,
                problem.head,
                problem.target,
                entropy=True,
                teacher_NH=problem.teacher,
                teacher_lse_N=teacher.lse_N,
                tile=Tile(32, columns, 16, 4, 2),
                tiles_per_split=tiles_per_split,
            )
            assert found.kl_N is not None and found.mean_N is not None
            parts.append((found.kl_N, found.lse_N - found.logit_N, found.lse_N - found.mean_N))
        for many, one in zip(*parts, strict=True):
            assert torch.allclose(many, one, rtol=1e-5, atol=2e-5)
        assert_as_good_as_eager(parts[0][0], problem.eager_kl(), problem.true_kl())
        allowed = 3 * error(problem.eager_nll(), problem.true_nll()) + 1e-4
        assert error(parts[0][1], problem.true_nll()) <= allowed
        assert error(parts[0][2], reference.entropy(problem.hidden, problem.head)) <= allowed

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
        for teacher in (
            teacher_states(problem.teacher, problem.head, backend=backend),
            teacher_top_k(problem.teacher, problem.head, 5, backend=backend),
        ):
            found = linear_loss(problem.hidden, problem.head, target, teacher=teacher, backend=backend)
            whole = linear_loss(
                problem.hidden, problem.head, problem.target, teacher=teacher, backend=backend
            )
            assert found.kl_N is not None and whole.kl_N is not None
            for part, every in ((found.nll_N, whole.nll_N), (found.kl_N, whole.kl_N)):
                assert (part[::3] == 0).all() and every[::3].all()
                assert torch.equal(part[1::3], every[1::3])
            assert torch.equal(found.lse_N, whole.lse_N)

    def test_the_number_that_ignores_may_be_any(self, backend: str) -> None:
        problem = Problem((20, 16, 50), torch.float32)
        found = linear_loss(
            problem.hidden, problem.head, problem.target, ignore_index=7, backend=backend
        ).nll_N
        assert torch.equal(found == 0, problem.target == 7)

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
            ({"target_N": torch.tensor([0, 1, -1])}, "target_N"),
            ({"target_N": torch.tensor([0, 1, -100]), "ignore_index": -1}, "target_N"),
            ({"teacher": 3}, "teacher"),
            ({"teacher": TeacherStates(torch.zeros(3, 16).int(), torch.zeros(3))}, "teacher"),
            ({"teacher": TeacherStates(torch.zeros(3, 16), torch.zeros(2))}, "teacher"),
            ({"teacher": TeacherStates(torch.zeros(3, 16), torch.zeros(3).half())}, "teacher"),
            ({"teacher": TeacherTopK(torch.zeros(3, 4).int(), torch.zeros(3, 5))}, "teacher"),
            ({"teacher": TeacherTopK(torch.zeros(3, 4).long(), torch.zeros(3, 4))}, "teacher"),
            ({"teacher": TeacherTopK(torch.zeros(3, 4).int(), torch.zeros(3, 4).half())}, "teacher"),
            ({"teacher": TeacherTopK(torch.zeros(3, 0).int(), torch.zeros(3, 0))}, "teacher"),
            ({"teacher": TeacherTopK(torch.zeros(3, 51).int(), torch.zeros(3, 51))}, "teacher"),
            ({"teacher": TeacherTopK(torch.zeros(2, 4).int(), torch.zeros(2, 4))}, "teacher"),
            ({"teacher": TeacherTopK(torch.full((3, 4), 50).int(), torch.zeros(3, 4))}, "teacher"),
            ({"target_N": torch.zeros(3, dtype=torch.int64, device="meta")}, "target_N"),
            ({"head_VH": torch.zeros(50, 16, device="meta")}, "head_VH"),
            ({"backend": "cuda"}, "backend"),
        ],
    )
    def test_bad_arguments_are_named(self, changes: dict[str, Any], named: str) -> None:
        good = {
            "hidden_NH": torch.zeros(3, 16),
            "head_VH": torch.zeros(50, 16),
            "target_N": torch.zeros(3, dtype=torch.int64),
        }
        with pytest.raises(KernelArgumentError, match=f"^{named}: "):
            linear_loss(**{**good, **changes})

    def test_a_teacher_of_other_tokens_is_refused(self) -> None:
        head = torch.randn(50, 16)
        teacher = teacher_states(torch.randn(4, 16), head)
        with pytest.raises(KernelArgumentError, match=r"^teacher: "):
            linear_loss(torch.randn(3, 16), head, torch.zeros(3, dtype=torch.int64), teacher=teacher)

    @pytest.mark.parametrize("k", [0, -1, 51, 2.0, True])
    def test_a_bad_k_is_named(self, k: Any) -> None:
        with pytest.raises(KernelArgumentError, match=r"^k: "):
            teacher_top_k(torch.zeros(3, 16), torch.zeros(50, 16), k)

    def test_gradients_are_the_torch_implementation_s(self) -> None:
        """And a kernel asked for by name refuses."""
        problem = Problem((20, 16, 50), torch.float32)
        hidden = problem.hidden.clone().requires_grad_()
        teacher = teacher_states(problem.teacher, problem.head)
        found = linear_loss(hidden, problem.head, problem.target, entropy=True, teacher=teacher)
        assert found.kl_N is not None and found.entropy_N is not None
        for loss in (found.nll_N, found.kl_N, found.entropy_N):
            (gradient,) = torch.autograd.grad(loss.sum(), hidden, retain_graph=True)
            assert gradient.isfinite().all() and gradient.any()
        with pytest.raises(KernelBackendUnavailable, match="gradients"):
            linear_loss(hidden, problem.head, problem.target, backend="triton")

    def test_nll_alone_is_the_same(self, problem: Problem, backend: str) -> None:
        alone = linear_nll(problem.hidden, problem.head, problem.target, backend=backend)
        found = linear_loss(problem.hidden, problem.head, problem.target, entropy=True, backend=backend)
        assert torch.equal(alone, found.nll_N)

    def test_inputs_may_lie_apart_in_memory(self, backend: str) -> None:
        """Rows with gaps, targets and a teacher's numbers at every other place."""
        problem = Problem((20, 16, 50), torch.float32)
        apart = lambda x: torch.stack([x, x], 1)[:, 0]  # noqa: E731
        found, same = [], []
        for move, into in ((apart, found), (lambda x: x, same)):
            states = teacher_states(problem.teacher, problem.head, backend=backend)
            top = teacher_top_k(problem.teacher, problem.head, 5, backend=backend)
            for teacher in (
                TeacherStates(move(states.hidden_NH), move(states.lse_N)),
                TeacherTopK(move(top.ids_NK.T).T, move(top.log_p_NK)),
            ):
                hidden, head, target = move(problem.hidden), move(problem.head), move(problem.target)
                into.append(linear_loss(hidden, head, target, teacher=teacher, backend=backend))
        for one, other in zip(found, same, strict=True):
            assert one.kl_N is not None and other.kl_N is not None
            assert torch.allclose(one.nll_N, other.nll_N, atol=1e-6)
            assert torch.allclose(one.kl_N, other.kl_N, atol=1e-6)


class TestWalked:
    """Programs that walk all tiles, and a program for each tile, with operands loaded in two ways."""

    @pytest.mark.parametrize("against", [False, True], ids=["alone", "against a teacher"])
    def test_both_tilings_agree_to_the_bit(self, backend: str, against: bool) -> None:
        """In more tiles of tokens than go together, by few programs and by many; edges everywhere."""
        if backend == "torch":
            pytest.skip("tiles are the kernel's")
        from secateur_kernels.triton_backend.linear_loss import losses
        from secateur_kernels.triton_backend.tile import Tile

        problem = Problem((265, 24, 130), torch.float32)
        teacher = teacher_states(problem.teacher, problem.head, backend="torch")
        more = {"teacher_NH": teacher.hidden_NH, "teacher_lse_N": teacher.lse_N} if against else {}
        plain, few, many = (
            losses(
                problem.hidden,
                problem.head,
                problem.target,
                tile=Tile(16, 32, 16, 4, 2, blocks=blocks),
                tiles_per_split=3,
                **more,
            )
            for blocks in (0, 1, 8)
        )
        for found in (few, many):
            assert torch.equal(found.lse_N, plain.lse_N) and torch.equal(found.logit_N, plain.logit_N)
            assert not against or torch.equal(found.kl_N, plain.kl_N)
        assert error(plain.lse_N - plain.logit_N, problem.true_nll()) < 1e-4

    @pytest.mark.parametrize("against", [False, True], ids=["alone", "against a teacher"])
    def test_the_tilings_of_the_table_agree(self, backend: str, against: bool, dtype: torch.dtype) -> None:
        if backend == "torch":
            pytest.skip("tiles are the kernel's")
        from secateur_kernels.triton_backend.linear_loss import losses
        from secateur_kernels.triton_backend.tile import TILINGS, tile_for

        problem = Problem((150, 72, 600), dtype, scale=3.0)
        teacher = teacher_states(problem.teacher, problem.head, backend=backend)
        more = {"teacher_NH": teacher.hidden_NH, "teacher_lse_N": teacher.lse_N} if against else {}
        kernel = "linear_kl" if against else "linear_loss"
        tiles = [tile_for(kernel, dtype, problem.head.device, tiling) for tiling in TILINGS]
        one, other = (
            losses(problem.hidden, problem.head, problem.target, tile=tile, **more) for tile in tiles
        )
        assert tiles[0] != tiles[1]
        torch.testing.assert_close(one.lse_N, other.lse_N, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(one.logit_N, other.logit_N, rtol=1e-6, atol=1e-5)
        if one.kl_N is not None and other.kl_N is not None:
            torch.testing.assert_close(one.kl_N, other.kl_N, rtol=1e-4, atol=1e-6)


class TestLikeliestIds:
    """A teacher by its k likeliest ids and one bucket for all others."""

    @pytest.fixture(params=[(150, 72, 300), (70, 33, 1001)], ids=["300", "1001"])
    def problem(self, request: pytest.FixtureRequest, dtype: torch.dtype) -> Problem:
        return Problem(request.param, dtype, scale=3.0)

    def test_the_teacher_is_exact(self, problem: Problem, backend: str) -> None:
        found = teacher_top_k(problem.teacher, problem.head, 20, backend=backend)
        assert found.ids_NK.dtype == torch.int32 and found.log_p_NK.dtype == torch.float32
        assert (found.ids_NK.diff(dim=1) > 0).all()
        true = torch.log_softmax(problem.teacher.double() @ problem.head.double().T, -1)
        eager = torch.log_softmax((problem.teacher @ problem.head.T).float(), -1)
        at = found.ids_NK.long()
        assert_as_good_as_eager(found.log_p_NK, eager.gather(1, at), true.gather(1, at))
        # None left out is likelier than one taken, beyond the rounding of the product.
        rest = true.scatter(1, at, float("-inf")).amax(1)
        assert float((rest - true.gather(1, at).amin(1)).max()) <= 2 * error(eager, true) + 1e-5
        assert torch.allclose(found.mass_N.double(), true.gather(1, at).exp().sum(1), atol=0.02)

    @pytest.mark.parametrize("k", [1, 20])
    def test_kl(self, problem: Problem, backend: str, k: int) -> None:
        teacher = teacher_top_k(problem.teacher, problem.head, k, backend=backend)
        found = linear_loss(problem.hidden, problem.head, problem.target, teacher=teacher, backend=backend)
        assert found.kl_N is not None and float(found.kl_N.min()) >= 0
        true = reference.top_k_kl(problem.hidden, problem.teacher, problem.head, teacher.ids_NK)
        whole = problem.true_kl()
        allowed = 2 * error(problem.eager_kl(), whole) + 1e-5
        assert error(found.kl_N, true) <= allowed
        assert float((found.kl_N - whole).max()) <= allowed
        plain = linear_loss(problem.hidden, problem.head, problem.target, backend=backend)
        torch.testing.assert_close(found.nll_N, plain.nll_N, rtol=1e-6, atol=1e-5)  # another tile
        torch.testing.assert_close(found.lse_N, plain.lse_N, rtol=1e-6, atol=1e-5)

    def test_all_ids_give_the_whole_kl(self, backend: str, dtype: torch.dtype) -> None:
        problem = Problem((40, 32, 75), dtype, scale=3.0)
        teacher = teacher_top_k(problem.teacher, problem.head, 75, backend=backend)
        assert torch.equal(teacher.ids_NK, torch.arange(75, dtype=torch.int32).expand(40, -1))
        found = linear_loss(problem.hidden, problem.head, problem.target, teacher=teacher, backend=backend)
        assert found.kl_N is not None
        assert_as_good_as_eager(found.kl_N, problem.eager_kl(), problem.true_kl())

    @pytest.mark.parametrize("k", [1, 20, 300])
    def test_of_the_teacher_with_itself_is_zero(self, backend: str, dtype: torch.dtype, k: int) -> None:
        problem = Problem((60, 72, 300), dtype, scale=3.0)
        teacher = teacher_top_k(problem.teacher, problem.head, k, backend=backend)
        found = linear_loss(problem.teacher, problem.head, problem.target, teacher=teacher, backend=backend)
        assert found.kl_N is not None and float(found.kl_N.max()) == 0.0

    @pytest.mark.parametrize("scale", [0.01, 30.0, 300.0])
    def test_next_to_no_tail_and_next_to_no_mass(self, backend: str, scale: float) -> None:
        """A mass that rounds to 1 leaves a tail that fp32 cannot tell from nothing."""
        problem = Problem((60, 32, 200), torch.float32, scale=scale)
        for k in (1, 10, 199):
            teacher = teacher_top_k(problem.teacher, problem.head, k, backend=backend)
            found = linear_loss(
                problem.hidden, problem.head, problem.target, teacher=teacher, backend=backend
            ).kl_N
            assert found is not None and found.isfinite().all() and float(found.min()) >= 0
            assert float((found - problem.true_kl()).max()) <= 1e-5 * (1 + scale)

    @pytest.mark.parametrize("k", [3, 37])
    def test_ids_of_every_tile_and_split(self, backend: str, k: int) -> None:
        """Rows whose ids begin and end tiles and splits, several groups of them."""
        if backend == "torch":
            pytest.skip("tiles are the kernel's")
        from secateur_kernels.triton_backend.linear_loss import losses
        from secateur_kernels.triton_backend.tile import Tile

        problem = Problem((40, 32, 300), torch.float32)
        ids = torch.stack([torch.randperm(300)[:k].sort().values for _ in range(40)]).int()
        ids[0, :3] = torch.tensor([0, 31, 32])
        ids[1, -3:] = torch.tensor([127, 128, 299])
        tile = Tile(32, 32, 16, 4, 2)
        found = losses(problem.hidden, problem.head, problem.target, ids_NK=ids, tile=tile, tiles_per_split=4)
        assert found.log_q_NK is not None
        log_q = torch.log_softmax(problem.hidden @ problem.head.T, 1)
        assert torch.allclose(found.log_q_NK, log_q.gather(1, ids.long()), atol=1e-5)

    def test_splitting_a_batch_changes_no_bit(self, backend: str) -> None:
        if backend == "torch":
            pytest.skip("torch picks another product for another number of rows")
        problem = Problem((200, 48, 700), torch.float16)
        teacher = teacher_top_k(problem.teacher, problem.head, 9, backend=backend)
        whole = linear_loss(problem.hidden, problem.head, problem.target, teacher=teacher, backend=backend)
        for rows in (slice(0, 128), slice(128, 200)):
            part = TeacherTopK(teacher.ids_NK[rows], teacher.log_p_NK[rows])
            found = linear_loss(
                problem.hidden[rows], problem.head, problem.target[rows], teacher=part, backend=backend
            )
            assert whole.kl_N is not None and found.kl_N is not None
            assert torch.equal(found.kl_N, whole.kl_N[rows])

    def test_no_tokens(self, backend: str) -> None:
        hidden, head, target = torch.zeros(0, 16), torch.randn(50, 16), torch.zeros(0, dtype=torch.int64)
        teacher = teacher_top_k(hidden, head, 5, backend=backend)
        assert teacher.ids_NK.shape == (0, 5) and teacher.mass_N.shape == (0,)
        found = linear_loss(hidden, head, target, teacher=teacher, backend=backend)
        assert found.kl_N is not None and found.kl_N.shape == (0,)

    def test_kl_by_hand(self) -> None:
        head = torch.eye(3)
        teacher = torch.tensor([[math.log(2.0), 0.0, 0.0]])  # 1/2, 1/4, 1/4
        candidate = torch.zeros(1, 3)
        expected = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)
        assert float(reference.top_k_kl(candidate, teacher, head, torch.tensor([[0]]))) == pytest.approx(
            expected
        )
        found = linear_loss(
            candidate, head, torch.zeros(1, dtype=torch.int64), teacher=teacher_top_k(teacher, head, 1)
        )
        assert float(found.kl_N) == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type]


def test_a_prepared_teacher_of_no_tokens() -> None:
    hidden, head, target = torch.zeros(0, 16), torch.randn(50, 16), torch.zeros(0, dtype=torch.int64)
    teacher = prepare_teacher(hidden, head, target)
    assert teacher.p_NV.shape == (0, 50) and teacher.mean_NH.shape == (0, 16)
    kl, nll = linear_kl(hidden, teacher, head, target)
    assert kl.shape == nll.shape == teacher.nll_N.shape == (0,)
