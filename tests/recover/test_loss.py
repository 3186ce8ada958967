"""The tiled KL and its gradients against fp64 autograd; nothing to learn from oneself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur.recover import loss
from secateur.recover.loss import distillation_kl

N, H, V = 23, 16, 301


def states(dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    hidden, teacher = (torch.randn(N, H, generator=chance, dtype=torch.float64) * scale for _ in range(2))
    head = torch.randn(V, H, generator=chance, dtype=torch.float64)
    return hidden.to(dtype), teacher.to(dtype), head.to(dtype)


def by_autograd(hidden: Tensor, teacher: Tensor, head: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, in fp64."""
    hidden = hidden.double().requires_grad_()
    log_p = (teacher.double() @ head.double().T).log_softmax(-1)
    log_q = (hidden @ head.double().T).log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    (kl * weights).sum().backward()
    assert hidden.grad is not None
    return kl.detach(), hidden.grad


@pytest.mark.parametrize("tile", [1, 5, 1000], ids=["one-position", "uneven", "whole"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("scale", [0.05, 1.0, 6.0], ids=["close", "apart", "peaked"])
def test_losses_and_gradients(
    monkeypatch: pytest.MonkeyPatch, tile: int, dtype: torch.dtype, tolerance: float, scale: float
) -> None:
    monkeypatch.setitem(loss.TILE_BYTES, "cpu", tile * 4 * V)
    hidden, teacher, head = states(dtype, scale)
    weights = torch.linspace(-1, 2, N, dtype=torch.float64)
    expected_kl, expected = by_autograd(hidden, teacher, head, weights)
    hidden.requires_grad_()
    kl = distillation_kl(hidden, teacher, head)
    (kl * weights).sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == dtype
    assert float((kl.detach() - expected_kl).abs().max()) <= tolerance * max(1.0, float(expected_kl.max()))
    assert float((hidden.grad - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_to_learn_from_oneself(dtype: torch.dtype) -> None:
    hidden, _, head = states(dtype)
    learner = hidden.clone().requires_grad_()
    kl = distillation_kl(learner, hidden, head)
    kl.sum().backward()
    assert learner.grad is not None
    assert not kl.any() and not learner.grad.any()


def test_a_vanished_probability_is_no_nan() -> None:
    """A token that the dense model rules out, and the slim one expects."""
    head = torch.eye(4)
    teacher, hidden = torch.tensor([[400.0, 0, 0, 0]]), torch.tensor([[0.0, 400.0, 0, 0]], requires_grad=True)
    kl = distillation_kl(hidden, teacher, head)
    kl.sum().backward()
    assert kl.tolist() == [pytest.approx(400.0)]
    assert hidden.grad is not None and hidden.grad.tolist() == [[-1.0, 1.0, 0.0, 0.0]]


def test_no_logits_of_all_positions_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss.TILE_BYTES, "cpu", 4 * 4 * V)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.shape[-1:] == (V,) and out.shape[0] != H:  # the head's
                largest = max(largest, out.numel())
            return out

    hidden, teacher, head = states(torch.float32)
    with Watch():
        distillation_kl(hidden.requires_grad_(), teacher, head).sum().backward()
    assert largest == 4 * V
