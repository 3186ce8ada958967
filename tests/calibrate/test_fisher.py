"""Fisher matrices are those of autograd through transformers' own head, labels drawn by the model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from secateur.calibrate.fisher import Metrics, fisher_metrics
from secateur.checkpoint.source import open_source
from secateur.model.dense import build_model
from secateur.model.forward import forward_context

TOKENS = torch.randint(2, 300, (4, 16), generator=torch.Generator().manual_seed(0))


def expected_metric(folder: Path) -> Tensor:
    """Of the stream after the last layer, from the same labels."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    states: list[Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, arguments: states.append(arguments[0]))
    with torch.no_grad():
        model(TOKENS)
    state = states[0].detach().requires_grad_()
    logits = model.lm_head(model.model.norm(state))[:, :-1].flatten(0, 1)
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
    gradient = torch.autograd.grad(nn.functional.cross_entropy(logits, labels, reduction="sum"), state)[0]
    flat = gradient.flatten(0, 1)
    return flat.T @ flat


def metrics(folder: Path, chunk: int) -> Metrics:
    source = open_source(folder)
    model = build_model(source.config, source.tensors(), "tiny")
    return fisher_metrics(model, TOKENS, forward_context(model, TOKENS.shape[1]), chunk=chunk)


def test_equal_autograd_of_transformers(tiny_model: Path) -> None:
    found, expected = metrics(tiny_model, 4), expected_metric(tiny_model)
    last = max(layer for layer, _ in found)
    assert torch.allclose(found[last, "ffn"], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_one_for_every_sub_block_symmetric_and_positive(tiny_llama: Path) -> None:
    found = metrics(tiny_llama, 2)
    assert len(found) == 6
    for key, metric in found.items():
        assert torch.allclose(metric, metric.T), key
        assert float(torch.linalg.eigvalsh(metric.double()).min()) > -1e-5 * float(metric.diagonal().max())


def test_same_for_a_seed(tiny_llama: Path) -> None:
    one, again = metrics(tiny_llama, 2), metrics(tiny_llama, 2)
    assert all(torch.equal(one[key], again[key]) for key in one)
