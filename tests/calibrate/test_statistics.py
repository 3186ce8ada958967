"""Gram matrices are those of the activations that transformers computes.

Proven for every family: X^T X of what each last projection reads, whatever the number of windows;
products through bf16 units are as exact as fp32 ones on bf16 numbers, and leave no setting behind.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from secateur.calibrate.statistics import CHUNK_WINDOWS, GramMatrix, accumulate, bf16_products, collect_grams
from secateur.checkpoint.source import open_source
from secateur.model.decoder import DecoderModel
from secateur.model.forward import forward_context


def load(folder: Path) -> DecoderModel:
    source = open_source(folder)
    return source.load_model()


def windows(count: int, length: int = 24) -> Tensor:
    return torch.randint(2, 300, (count, length), generator=torch.Generator().manual_seed(count))


@torch.inference_mode()
def grams(model: DecoderModel, tokens: Tensor) -> list[GramMatrix]:
    return list(collect_grams(model, tokens, forward_context(model, tokens.shape[1])))


@torch.inference_mode()
def seen_by_transformers(folder: Path, tokens: Tensor) -> dict[tuple[int, str], Tensor]:
    """X^T X in fp64 of the inputs of every last projection."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found: dict[tuple[int, str], Tensor] = {}

    def watch(module: nn.Module, key: tuple[int, str]) -> None:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            x = arguments[0].flatten(0, 1).double()
            found[key] = x.T @ x

        module.register_forward_pre_hook(hook)

    for index, layer in enumerate(model.model.layers):
        watch(layer.self_attn.o_proj, (index, "attention"))
        watch(layer.mlp.down_proj, (index, "ffn"))
    model(tokens)
    return found


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


class TestCollect:
    @pytest.mark.parametrize("count", [1, CHUNK_WINDOWS, CHUNK_WINDOWS + 3])
    def test_gram_of_the_activations(self, count: int, tiny_model: Path) -> None:
        tokens = windows(count)
        expected = seen_by_transformers(tiny_model, tokens)
        found = grams(load(tiny_model), tokens)
        order = [(layer, kind) for layer in range(3) for kind in ("attention", "ffn")]
        assert [(gram.layer, gram.kind) for gram in found] == order == list(expected)
        for gram in found:
            assert gram.tokens == tokens.numel()
            assert gram.gram_NN.dtype == torch.float32
            assert relative(gram.gram_NN, expected[gram.layer, gram.kind]) < 1e-5

    def test_bf16(self, tiny_llama: Path) -> None:
        tokens = windows(20)
        expected = seen_by_transformers(tiny_llama, tokens)
        for gram in grams(load(tiny_llama).to(torch.bfloat16), tokens):
            assert gram.gram_NN.dtype == torch.float32
            assert relative(gram.gram_NN, expected[gram.layer, gram.kind]) < 0.03

    def test_symmetric_and_positive(self, tiny_llama: Path) -> None:
        for gram in grams(load(tiny_llama), windows(8)):
            matrix = gram.gram_NN.double()
            assert torch.allclose(matrix, matrix.T, rtol=1e-4, atol=1e-4)
            assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-3 * float(matrix.diagonal().max())

    def test_a_removed_sub_block_has_none(self, tiny_llama: Path) -> None:
        from dataclasses import replace

        model = load(tiny_llama)
        layers = (replace(model.layers[0], ffn=None), *model.layers[1:])
        found = grams(replace(model, layers=layers), windows(2))
        assert (0, "ffn") not in {(gram.layer, gram.kind) for gram in found}
        assert len(found) == 5


class TestAccumulate:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
    def test_exact_products(self, dtype: torch.dtype) -> None:
        """The arguments are what they are; only the order of the sum may differ."""
        generator = torch.Generator().manual_seed(0)
        x, y = (torch.randn(4, 300, width, generator=generator).to(dtype) for width in (65, 33))
        total = cross = None
        for chunk_x, chunk_y in zip(x.split(1), y.split(1), strict=True):
            total, cross = accumulate(total, chunk_x), accumulate(cross, chunk_x, chunk_y)
        x64, y64 = x.flatten(0, 1).double(), y.flatten(0, 1).double()
        assert total is not None and cross is not None
        assert relative(total, x64.T @ x64) < 2e-6
        assert relative(cross, x64.T @ y64) < 2e-6

    def test_mixed_dtypes_are_not_rounded(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, 500, 40, generator=generator).bfloat16()
        y = torch.randn(1, 500, 40, generator=generator)
        assert relative(accumulate(None, x, y), x[0].double().T @ y[0].double()) < 2e-6


class TestBf16Products:
    def test_as_exact_as_fp32_on_bf16_numbers(self) -> None:
        x = torch.randn(2000, 96, generator=torch.Generator().manual_seed(0)).bfloat16().float()
        exact = x.double().T @ x.double()
        plain = relative(x.T @ x, exact)
        with bf16_products():
            fast = relative(x.T @ x, exact)
        assert fast <= 2 * plain + 1e-6

    def test_the_setting_is_given_back(self) -> None:
        backend = torch.backends.mkldnn.matmul
        before = backend.fp32_precision
        with pytest.raises(RuntimeError, match="inside"), bf16_products():
            raise RuntimeError("inside")
        assert backend.fp32_precision == before
        x = torch.randn(200, 96, generator=torch.Generator().manual_seed(0))
        assert relative(x.T @ x, x.double().T @ x.double()) < 1e-6
