"""The forward pass, sub-block by sub-block, is that of transformers.

Proven in fp32 against transformers' own classes, for every family, with biases, rotary scaling and
sliding windows shorter than the text; in bf16 it is as good as theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from secateur.checkpoint.source import open_source
from secateur.model import forward
from secateur.model.decoder import DecoderLayer, DecoderModel, build_model
from secateur.model.forward import BATCH_WINDOWS, forward_context, hidden_states, mean_nll, perplexity

MakeTiny = Callable[..., Path]
TOKENS = torch.randint(2, 300, (3, 40), generator=torch.Generator().manual_seed(0))


def load(folder: Path) -> DecoderModel:
    source = open_source(folder)
    return source.load_model()


def ours(model: DecoderModel, tokens: Tensor = TOKENS) -> Tensor:
    with torch.inference_mode():
        return hidden_states(model, tokens, forward_context(model, tokens.shape[1])) @ model.head_VH.T


def theirs(folder: Path, tokens: Tensor = TOKENS, **options: Any) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    with torch.inference_mode():
        return model(tokens).logits


def assert_same(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) < 2e-5 * scale


PHI_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0] * 12,
    "long_factor": [1.0 + 0.2 * channel for channel in range(12)],
    "original_max_position_embeddings": 16,
}
GEMMA_SCALED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


class TestTransformers:
    def test_families(self, tiny_model: Path) -> None:
        assert_same(ours(load(tiny_model)), theirs(tiny_model))

    @pytest.mark.parametrize(
        ("family", "changes"),
        [
            ("llama", {"attention_bias": True, "mlp_bias": True}),
            ("llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-2}),
            ("llama", {"num_key_value_heads": 4}),
            ("llama", {"num_key_value_heads": 1}),
            ("llama", {"head_dim": 16}),
            ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
            ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
            (
                "llama",
                {
                    "rope_parameters": {
                        "rope_type": "yarn",
                        "factor": 4.0,
                        "rope_theta": 1e4,
                        "original_max_position_embeddings": 128,
                    }
                },
            ),
            (
                "llama",
                {
                    "rope_parameters": {
                        "rope_type": "llama3",
                        "factor": 8.0,
                        "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 64,
                        "rope_theta": 1e4,
                    }
                },
            ),
            ("qwen3", {"attention_bias": True}),
            ("smollm3", {}),
            ("ministral3", {}),
            ("phi3", {"sliding_window": 9}),
            ("phi3", {"rope_parameters": PHI_LONGROPE, "original_max_position_embeddings": 16}),
            ("gemma3_text", {"rope_parameters": GEMMA_SCALED}),
        ],
        ids=[
            "biases",
            "tied-eps",
            "mha",
            "one-group",
            "narrow-heads",
            "theta",
            "linear-rope",
            "yarn",
            "llama3-rope",
            "qwen3-biases",
            "layers-without-rope",
            "ministral3",
            "phi3-window",
            "phi3-longrope",
            "gemma3-scaled",
        ],
    )
    def test_variants(self, family: str, changes: dict[str, Any], make_tiny: MakeTiny) -> None:
        folder = make_tiny(family, **changes)
        assert_same(ours(load(folder)), theirs(folder))

    def test_smallest_window(self, tiny_llama: Path) -> None:
        tokens = TOKENS[:1, :1]
        assert_same(ours(load(tiny_llama), tokens), theirs(tiny_llama, tokens))


class TestSlidingWindow:
    @pytest.mark.parametrize("span", [1, 7, 39, 40, 64])
    def test_mistral(self, span: int, make_tiny: MakeTiny) -> None:
        folder = make_tiny("mistral", sliding_window=span)
        assert_same(ours(load(folder)), theirs(folder, attn_implementation="eager"))

    def test_only_some_layers(self, make_tiny: MakeTiny) -> None:
        folder = make_tiny("qwen2", use_sliding_window=True, sliding_window=7, max_window_layers=2)
        model = load(folder)
        assert forward_context(model, 40).spans == (None, None, 7)
        assert_same(ours(model), theirs(folder, attn_implementation="eager"))

    def test_it_matters(self, make_tiny: MakeTiny) -> None:
        """The comparisons above would notice a mask that is left out."""
        model = load(make_tiny("mistral", sliding_window=7))
        context = forward_context(model, 40)
        with torch.inference_mode():
            whole = hidden_states(model, TOKENS, replace(context, spans=(None,) * 3))
            windowed = hidden_states(model, TOKENS, context)
        assert torch.allclose(whole[:, :7], windowed[:, :7], atol=1e-4)
        assert float((whole[:, 7:] - windowed[:, 7:]).abs().max()) > 1e-2


class TestRemovedSubBlocks:
    """transformers is the judge: a removed half equals a dense model whose last projection is zero."""

    @pytest.mark.parametrize("removed", ["attention", "ffn", "both"])
    def test_equals_a_zero_projection(self, removed: str, tiny_llama: Path) -> None:
        model = load(tiny_llama)
        gone = {"attention": None} if removed == "attention" else {"ffn": None}
        middle = DecoderLayer(None, None) if removed == "both" else replace(model.layers[1], **gone)
        cut = replace(model, layers=(model.layers[0], middle, model.layers[2]))
        judge = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
        with torch.inference_mode():
            if removed != "ffn":
                judge.model.layers[1].self_attn.o_proj.weight.zero_()
            if removed != "attention":
                judge.model.layers[1].mlp.down_proj.weight.zero_()
            assert_same(ours(cut), judge(TOKENS).logits)


def test_whole_model_in_bf16(tiny_model: Path) -> None:
    """No worse than transformers in bf16, both against fp32."""
    exact = theirs(tiny_model)
    judge = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        reference = judge(TOKENS).logits.float()
    found = ours(load(tiny_model).to(torch.bfloat16)).float()
    error = lambda logits: float((logits - exact).square().mean().sqrt())  # noqa: E731
    assert error(found) <= 1.5 * error(reference) + 1e-3


def test_inner_activations_do_not_depend_on_gradients(tiny_llama: Path) -> None:
    """The in-place product of the FFN is only taken where no graph needs its argument."""
    model = load(tiny_llama)
    context = forward_context(model, 40)
    state = forward.embed(model, TOKENS)
    plain = forward.ffn_inner(state, model.layers[0].ffn, context)
    tracked = forward.ffn_inner(state.detach().requires_grad_(), model.layers[0].ffn, context)
    assert tracked.requires_grad
    assert torch.equal(plain, tracked.detach())


@pytest.mark.parametrize("count", [1, BATCH_WINDOWS, BATCH_WINDOWS + 5])
def test_mean_nll_is_the_loss_of_transformers(count: int, tiny_model: Path) -> None:
    windows = torch.randint(2, 300, (count, 16), generator=torch.Generator().manual_seed(count))
    judge = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = float(judge(windows, labels=windows).loss)
    source = open_source(tiny_model)
    model = build_model(source.config, source.tensors(), "tiny")
    done: list[int] = []
    assert mean_nll(model, windows, done.append) == pytest.approx(expected, rel=1e-5)
    assert sum(done) == count


def test_perplexity() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(35.8)) == pytest.approx(35.8)
    assert perplexity(800.0) == math.inf
    assert perplexity(math.nan) == math.inf
