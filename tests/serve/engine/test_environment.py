"""In which dtype an engine runs: what the checkpoint says, unless the processor would have to emulate it."""

from __future__ import annotations

import pytest
import torch

from secateur.config.serve import EngineOptions
from secateur.model import processor
from secateur.serve.engine import environment
from secateur.serve.engine.engine import engine_arguments


@pytest.mark.parametrize(
    ("asked", "cpu", "fastest", "expected"),
    [
        ("auto", True, torch.float32, "float32"),
        ("auto", True, torch.bfloat16, "auto"),
        ("auto", False, torch.float32, "auto"),
        ("bfloat16", True, torch.float32, "bfloat16"),
    ],
)
def test_bf16_is_not_emulated_unless_asked_for(
    asked: str, cpu: bool, fastest: torch.dtype, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "fastest_dtype", lambda: fastest)
    assert environment.weights_dtype(EngineOptions(dtype=asked), cpu) == expected


def test_vllm_gets_it(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(processor, "fastest_dtype", lambda: torch.float32)
    assert engine_arguments(tmp_path, EngineOptions(), 1)["dtype"] == "float32"  # type: ignore[arg-type]
