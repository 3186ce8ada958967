"""Taylor scores and Fisher matrices are those of autograd through the whole of transformers' model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from secateur.calibrate.gradients import fisher_matrices, taylor_scores
from secateur.checkpoint.source import open_source
from secateur.model.architecture import Slot
from secateur.model.forward import forward_context

TOKENS = torch.randint(2, 300, (6, 20), generator=torch.Generator().manual_seed(0))


def reference(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def taylor(folder: Path, chunk: int) -> dict[Slot, Tensor]:
    model = open_source(folder).load_model()
    return taylor_scores(model, TOKENS, forward_context(model, TOKENS.shape[1]), chunk=chunk)


def fisher(folder: Path, chunk: int) -> dict[Slot, Tensor]:
    model = open_source(folder).load_model()
    return fisher_matrices(model, TOKENS, forward_context(model, TOKENS.shape[1]), chunk=chunk)


def expected_scores(folder: Path) -> dict[tuple[int, str], Tensor]:
    model = reference(folder)
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


def expected_matrix(folder: Path) -> Tensor:
    """Of the stream after the last layer, from the same labels."""
    model = reference(folder)
    states: list[Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, arguments: states.append(arguments[0]))
    with torch.no_grad():
        model(TOKENS)
    state = states[0].detach().requires_grad_()
    logits = model.lm_head(model.model.norm(state))[:, :-1].flatten(0, 1)
    logits = logits / getattr(model.config, "logits_scaling", 1.0)
    generator = torch.Generator().manual_seed(0)
    upto_NV = logits.detach().softmax(-1).cumsum(-1)
    points_N1 = torch.rand(len(upto_NV), 1, generator=generator) * upto_NV[:, -1:]
    labels = torch.searchsorted(upto_NV, points_N1, right=True)[:, 0]
    gradient = torch.autograd.grad(nn.functional.cross_entropy(logits, labels, reduction="sum"), state)[0]
    flat = gradient.flatten(0, 1)
    return flat.T @ flat


class TestTaylorScores:
    def test_equal_autograd_of_the_whole_model(self, tiny_model: Path) -> None:
        scores, expected = taylor(tiny_model, 4), expected_scores(tiny_model)
        assert scores.keys() == expected.keys()
        for slot, score in scores.items():
            assert score.dtype == torch.float32 and not score.requires_grad
            assert torch.allclose(
                score, expected[slot], rtol=1e-3, atol=1e-4 * float(expected[slot].max())
            ), slot

    def test_chunks_add_up(self, tiny_llama: Path) -> None:
        one, all_at_once = taylor(tiny_llama, 1), taylor(tiny_llama, 6)
        for slot, score in one.items():
            assert torch.allclose(score, all_at_once[slot], rtol=1e-3, atol=1e-4 * float(score.max())), slot


class TestFisherMatrices:
    def test_equal_autograd_of_transformers(self, tiny_model: Path) -> None:
        matrices, expected = fisher(tiny_model, 6), expected_matrix(tiny_model)
        last = matrices[max(layer for layer, _ in matrices), "ffn"]
        assert torch.allclose(last, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))

    def test_one_for_every_sub_block_symmetric_and_positive(self, tiny_llama: Path) -> None:
        matrices = fisher(tiny_llama, 2)
        assert len(matrices) == 6
        for slot, matrix in matrices.items():
            assert torch.allclose(matrix, matrix.T), slot
            smallest = float(torch.linalg.eigvalsh(matrix.double()).min())
            assert smallest > -1e-5 * float(matrix.diagonal().max())

    def test_same_for_a_seed(self, tiny_llama: Path) -> None:
        one, again = fisher(tiny_llama, 2), fisher(tiny_llama, 2)
        assert all(torch.equal(one[slot], again[slot]) for slot in one)
