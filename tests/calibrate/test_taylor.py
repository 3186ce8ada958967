"""Taylor scores, computed layer by layer, are those of autograd through the whole of transformers' model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from secateur.calibrate.taylor import Scores, taylor_scores
from secateur.checkpoint.source import open_source
from secateur.model.dense import build_model
from secateur.model.forward import forward_context

TOKENS = torch.randint(2, 300, (6, 20), generator=torch.Generator().manual_seed(0))


def whole_model_scores(folder: Path) -> dict[tuple[int, str], Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    inputs: dict[tuple[int, str], Tensor] = {}

    def watch(module: nn.Module, key: tuple[int, str]) -> None:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            arguments[0].retain_grad()
            inputs[key] = arguments[0]

        module.register_forward_pre_hook(hook)

    for index, layer in enumerate(model.model.layers):
        watch(layer.self_attn.o_proj, (index, "attention"))
        watch(layer.mlp.down_proj, (index, "ffn"))
    logits = model(TOKENS).logits[:, :-1]
    nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten(), reduction="sum").backward()
    return {key: (x * x.grad).detach().sum(1).abs().sum(0) for key, x in inputs.items()}


def scores(folder: Path, chunk: int) -> Scores:
    source = open_source(folder)
    model = build_model(source.config, source.tensors(), "tiny")
    return taylor_scores(model, TOKENS, forward_context(model, TOKENS.shape[1]), chunk=chunk)


def test_equal_autograd_of_the_whole_model(tiny_model: Path) -> None:
    found = scores(tiny_model, 4)
    expected = whole_model_scores(tiny_model)
    assert found.keys() == expected.keys()
    for key, score in found.items():
        assert score.dtype == torch.float32 and not score.requires_grad
        assert torch.allclose(score, expected[key], rtol=1e-3, atol=1e-4 * float(expected[key].max())), key


def test_chunks_add_up(tiny_llama: Path) -> None:
    one, all_at_once = scores(tiny_llama, 1), scores(tiny_llama, 6)
    for key, score in one.items():
        assert torch.allclose(score, all_at_once[key], rtol=1e-3, atol=1e-4 * float(score.max())), key
