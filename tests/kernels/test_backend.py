"""What ``auto`` takes on a GPU: by form, never by how much is computed together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from secateur_kernels import backend
from secateur_kernels.arguments import widths
from secateur_kernels.backend import AUTO, LARGE, form_of, select_backend

CPU = torch.device("cpu")
ON_GPU: Any = SimpleNamespace(device=torch.device("cuda", 0))


def chosen(keep: Any, function: str, hidden: int = 576) -> str:
    return select_backend("auto", ON_GPU, function, form_of(widths(keep, 8, "units", CPU), hidden))


@pytest.mark.parametrize("function", ["mlp", "attention", "projection"])
def test_one_candidate_is_dense_and_several_go_together(
    function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "triton_installed", lambda: True)
    assert chosen(None, function) == chosen(5, function) == "torch"
    assert chosen([5], function) == chosen([5, 8, 0], function) == "triton"
    assert chosen([5, 8], function, hidden=LARGE) == "torch"
    assert chosen(torch.tensor([5], dtype=torch.int32), function, hidden=LARGE) == "triton"


def test_losses_keep_no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "triton_installed", lambda: True)
    assert select_backend("auto", ON_GPU) == "triton"
    monkeypatch.setattr(backend, "triton_installed", lambda: False)
    assert select_backend("auto", ON_GPU) == chosen([5], "mlp") == "torch"


def test_every_choice_says_why() -> None:
    assert all(choice.why for choice in AUTO.values())
