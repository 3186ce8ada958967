"""Plans: figures for 8B and 70B on `meta` are those of the models; what cannot fit is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from secateur.config.prune import PruneOptions
from secateur.errors import BadInput
from secateur.model.compute import Compute
from secateur.model.decoder import DecoderModel, build_model
from secateur.model.forward import forward_context, hidden_states
from secateur.prune import plan
from secateur.prune.plan import Caches, Rates, plan_job

BF16 = Compute.on_cpu(torch.bfloat16)
SHAPES = {
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "70B": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
}
LENGTH = 256


def outline(name: str) -> DecoderModel:
    config = LlamaConfig(
        **SHAPES[name],
        num_key_value_heads=8,
        vocab_size=128256,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    )
    with torch.device("meta"):
        module = LlamaForCausalLM(config).to(torch.bfloat16)
    return build_model(config, module.state_dict(), name)


def options(**changes: Any) -> PruneOptions:
    return PruneOptions(**{"model": "m", "out": Path("slim"), "keep": (0.8,), **changes})


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 2 TB."""
    monkeypatch.setattr(plan, "available_bytes", lambda: 2 * 10**12)


@pytest.mark.parametrize(("name", "weights"), [("8B", 8.03e9), ("70B", 70.6e9)])
def test_bytes_are_those_of_the_model(name: str, weights: float, plenty: None) -> None:
    model = outline(name)
    held = sum(
        tensor.nbytes
        for layer in model.layers
        for half in (layer.attention, layer.ffn)
        for tensor in vars(half).values()
        if tensor is not None
    )
    held += model.embedding_VH.nbytes + model.head_VH.nbytes
    found = plan_job(model, options(), BF16, mapped=True)
    assert held == pytest.approx(2 * weights, rel=0.01)
    beside = found.stages["calibrate"].memory - held
    assert plan.PROCESS_BYTES <= beside <= plan.PROCESS_BYTES + 0.2 * held
    assert found.memory == pytest.approx(2.5 * held + 3e9, rel=0.01)
    assert max(stage.memory for stage in found.stages.values()) <= found.memory


@pytest.mark.parametrize("name", SHAPES)
def test_operations_are_those_that_torch_counts(name: str, plenty: None) -> None:
    """A forward pass on `meta`, without attention's own products, which no cut takes away."""
    model = outline(name)
    tokens_BT = torch.zeros(1, LENGTH, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden_states(model, tokens_BT, forward_context(model, LENGTH))
    linear = sum(
        count for kind, count in counter.get_flop_counts()["Global"].items() if "attention" not in str(kind)
    )
    chosen = options(calibration_tokens=8 * LENGTH, evaluations=150)
    squares = sum(
        half.shape[1] ** 2
        for layer in model.layers
        for half in (layer.attention.output_HQ, layer.ffn.down_HC)  # type: ignore[union-attr]
    )
    planned = plan_job(model, chosen, BF16, mapped=True).stages["calibrate"].bf16 / 8
    assert planned - LENGTH * squares == pytest.approx(linear, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory": 10 * 2**30}, "memory: got 10.7 GB: this job needs at least 3[0-9].[0-9] GB"),
        ({}, "GB free"),
    ],
)
def test_what_cannot_fit(changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "available_bytes", lambda: 16 * 10**9)
    with pytest.raises(BadInput, match=words):
        plan_job(outline("8B"), options(**changes), BF16, mapped=True)


def test_the_budget_is_what_caches_follow(plenty: None) -> None:
    model = outline("8B")
    small, large = (
        plan_job(model, options(memory=size), BF16, mapped=True) for size in (50 * 10**9, 80 * 10**9)
    )
    used = [sum(vars(each.caches).values()) for each in (small, large)]
    assert used[1] - used[0] == pytest.approx(30e9, rel=0.01)
    shared = plan_job(model, options(memory=80 * 10**9, workers=1), BF16, mapped=True)
    assert sum(vars(shared.caches).values()) < used[1] - 16e9  # a worker has weights of its own


def test_caches_share_a_room() -> None:
    assert Caches.of(900, 200) == Caches(466, 233, 200)
    assert Caches.of(900, 5000) == Caches(300, 150, 450)


def test_seconds_are_operations_at_rates(plenty: None) -> None:
    stage = plan.Stage(0, bf16=10.0, fp32=6.0, fp64=3.0, beside=1.0)
    assert stage.seconds(Rates(bf16=5.0, fp32=3.0, fp64=1.0)) == 8.0
